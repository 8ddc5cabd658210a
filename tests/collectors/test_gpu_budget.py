"""The governor of the injected library: what it costs is measured, and too much of it is switched off in place."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from collectors.rings.budget import Budget
from collectors.rings.ring_file import Ring

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
