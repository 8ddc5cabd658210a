"""The governor of the injected library: what it costs is measured, and too much of it is switched off in place."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from collectors.rings.budget import Budget
from collectors.rings.busy import Course
from collectors.rings.ring_file import Ring
from collectors.rings.trials import RUNGS, Trials

SECOND = 1_000_000_000


@pytest.fixture
def ring(tmp_path: Path):
    raw = bytearray(4096 + 64 + 64 * 64)
    struct.pack_into("<8s4IQ", raw, 0, b"WLRING01", 1, 4096, 64, 64, 64)
    path = tmp_path / "cuda-1.ring"
    path.write_bytes(raw)
    with Ring(path) as found:
        for name, value in (("wanted_level", 2), ("eager_burst", 8), ("eager_period", 64)):
            found.set(name, value)
        yield found


def _spend(
    ring: Ring, callback_ns: int = 0, plain: int = 0, plain_ns: int = 0, eager: int = 0, eager_ns: int = 0
) -> None:
    """Let the library have spent so much more, over so many steps."""
    more = {"callback_ns": callback_ns, "steps_plain": plain, "step_ns_plain": plain * plain_ns}
    more |= {"steps_eager": eager, "step_ns_eager": eager * eager_ns}
    for name, value in more.items():
        ring.set(name, ring.get(name) + value)


def test_the_callbacks_cost_is_their_share_of_the_time(ring: Ring) -> None:
    budget = Budget(0.01)
    budget.measure(ring, SECOND)
    _spend(ring, callback_ns=30_000_000)
    assert budget.measure(ring, 3 * SECOND) == pytest.approx(0.015)


def test_the_records_cost_is_how_much_longer_sampled_steps_last(ring: Ring) -> None:
    budget = Budget(0.01)
    budget.measure(ring, SECOND)
    _spend(ring, plain=640, plain_ns=1_000_000, eager=80, eager_ns=1_640_000)
    assert budget.measure(ring, 2 * SECOND) == pytest.approx(0.64 / 8)


def test_too_few_steps_say_nothing(ring: Ring) -> None:
    budget = Budget(0.01)
    budget.measure(ring, SECOND)
    _spend(ring, plain=640, plain_ns=1_000_000, eager=63, eager_ns=9_000_000)
    assert budget.measure(ring, 2 * SECOND) == 0


def test_dear_records_become_rarer_until_they_fit(ring: Ring) -> None:
    budget = Budget(0.01)
    budget.measure(ring, SECOND)
    _spend(ring, plain=640, plain_ns=1_000_000, eager=80, eager_ns=1_640_000)
    budget.measure(ring, 2 * SECOND)
    periods = []
    while budget.steer(ring):
        periods.append(ring.get("eager_period"))
    assert periods == [128, 256, 512]
    assert ring.get("wanted_level") == 2


def test_dear_callbacks_take_the_level_down_to_nothing_and_it_stays_there(ring: Ring) -> None:
    budget = Budget(0.01)
    budget.measure(ring, SECOND)
    _spend(ring, callback_ns=SECOND // 2)
    budget.measure(ring, 2 * SECOND)
    assert [budget.steer(ring) for _ in range(3)] == ["level 1", "level 0", None]
    budget.measure(ring, 3 * SECOND)
    assert budget.steer(ring) is None
    assert ring.get("wanted_level") == 0


def test_cheap_records_become_more_frequent_up_to_every_second_burst(ring: Ring) -> None:
    budget = Budget(0.01)
    _spend(ring, plain=640, plain_ns=1_000_000, eager=80, eager_ns=1_000_000)
    budget.measure(ring, SECOND)
    periods = []
    while budget.steer(ring):
        periods.append(ring.get("eager_period"))
    assert periods == [32, 16]


def test_levels_set_by_hand_are_left_alone(ring: Ring) -> None:
    ring.set("pinned", 1)
    budget = Budget(0.01)
    budget.measure(ring, SECOND)
    _spend(ring, callback_ns=SECOND)
    budget.measure(ring, 2 * SECOND)
    assert budget.steer(ring) is None
    assert ring.get("wanted_level") == 2


def _tried(costs: dict[str, float], steps: int = 997, callbacks: float = 0.0) -> Trials:
    """A trial of steps of 10 ms, give or take a fifth, to which each rung adds its share."""
    chance = np.random.default_rng(23)
    rungs = chance.integers(0, len(RUNGS), steps).astype(np.uint8)
    added = np.array([costs.get(name, 0.0) for name in RUNGS])[rungs]
    lasted = (chance.normal(1e7, 2e6, steps) * (1 + added)).astype(np.int64)
    trials = Trials()
    trials.add(rungs, lasted, np.where(rungs > 0, lasted * callbacks, 0).astype(np.int64))
    return trials


def test_a_trial_tells_what_each_level_adds_to_a_step_and_how_sure_that_is() -> None:
    costs = {"callbacks": 0.02, "graph": 0.1, "eager": 0.3, "node": 0.9}
    trials = _tried(costs, 9973)
    for name, ratio in costs.items():
        found = trials.cost(RUNGS.index(name))
        assert found is not None
        assert abs(found.ratio - ratio) < 3 * found.error < 0.1
        assert found.least <= found.ratio <= found.most


def test_a_trial_of_few_steps_says_nothing() -> None:
    assert _tried({"graph": 0.5}, 31).cost(2) is None


def test_a_level_that_lengthens_steps_is_too_dear_though_its_callbacks_are_short(ring: Ring) -> None:
    budget = Budget(0.01, trials=_tried({"graph": 0.3}))
    budget.measure(ring, SECOND)
    assert budget.measure(ring, 2 * SECOND) > 0.2
    assert budget.steer(ring) == "level 1"


@pytest.mark.parametrize(("callbacks", "done"), [(0.0, ["level 1", "level 2", None]), (0.02, [None, None, None])])
def test_a_level_that_was_too_dear_returns_where_a_trial_says_that_it_no_longer_is(
    ring: Ring, callbacks: float, done: list[str | None]
) -> None:
    budget = Budget(0.05 if not callbacks else 0.015)
    budget.measure(ring, SECOND)
    _spend(ring, callback_ns=SECOND // 2)
    budget.measure(ring, 2 * SECOND)
    assert [budget.steer(ring) for _ in range(2)] == ["level 1", "level 0"]
    ring.set("eager_period", 16)
    budget.measure(ring, 3 * SECOND)
    budget.trials = _tried({}, 9973, callbacks)
    assert [budget.steer(ring) for _ in range(3)] == done


def test_trials_are_asked_for_now_and_then_seldom_once_they_tell_enough_and_never_where_levels_are_set_by_hand(
    ring: Ring,
) -> None:
    def asked(budget: Budget, seconds: int) -> int:
        count = 0
        for second in range(0, seconds, 2):
            budget.compare_levels(ring, (1000 + second) * SECOND)
            count += ring.get("trial_steps") > 0
            ring.set("trial_steps", 0)
        return count

    assert asked(Budget(0.01), 100) == 5
    assert asked(Budget(0.5, trials=_tried({}, 9973)), 1201) == 3
    ring.set("pinned", 1)
    assert asked(Budget(0.01), 100) == 0


def test_an_interval_has_the_highest_level_and_the_mean_cost_of_its_time() -> None:
    course = Course()
    assert course.over(0, SECOND) is None
    for at, level, cost in ((2 * SECOND, 2, 0.5), (3 * SECOND, 1, 0.1), (4 * SECOND, 0, 0.0)):
        course.note(at, level, cost)
    assert course.over(SECOND, 2 * SECOND) == (2, 0.5)
    assert course.over(3 * SECOND // 2, 5 * SECOND // 2) == (2, pytest.approx(0.3))
    assert course.over(3 * SECOND, 4 * SECOND) == course.over(9 * SECOND, 10 * SECOND) == (0, 0.0)
