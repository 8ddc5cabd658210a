"""Faults, short: what was acknowledged is stored once, whatever breaks; what damage cost is counted. Long: bench faults."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import cases
from tests.faults.cases import cut, flip, flip_footer, rot
from tests.faults.rig import SMALL, Outcome, end_all

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    yield
    end_all()


def check(outcome: Outcome) -> None:
    assert outcome.acknowledged > 0
    assert (outcome.lost, outcome.twice) == (0, 0), outcome


@pytest.mark.slow
def test_five_sigkills_at_random_points_lose_and_double_nothing(tmp_path: Path) -> None:
    check(cases.sigkills(tmp_path / "state", 5))


@pytest.mark.slow
def test_a_sigkill_while_segments_are_merged_loses_and_doubles_nothing(tmp_path: Path) -> None:
    outcome, hit = cases.sigkills_in_compaction(tmp_path / "state", 1)
    check(outcome)
    assert hit == 1


@pytest.mark.slow
def test_a_sigkill_as_a_day_begins_loses_and_doubles_nothing(tmp_path: Path) -> None:
    check(cases.sigkills_at_midnight(tmp_path / "state", 1))


def test_a_damaged_day_file_is_survived_and_costs_what_it_says(tmp_path: Path) -> None:
    outcome, losses = cases.damaged_day(tmp_path / "state", rot)
    assert outcome.twice == 0 and outcome.stored == outcome.acknowledged - outcome.lost
    assert any("2024-10-0" in reason and count > 0 for (source, reason), count in losses.items() if source == "store")


@pytest.mark.parametrize("damage", [flip_footer, cut, Path.unlink], ids=["footer", "cut", "missing"])
def test_a_damaged_segment_is_survived_and_costs_what_it_says(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    outcome, losses = cases.damaged_segment(tmp_path / "state", damage)
    told = {reason: lost for (source, reason), lost in losses.items() if source == "store"}
    assert outcome.twice == 0 and outcome.lost == sum(told.values()) > 0
    assert all(reason.startswith("segment damaged: ") for reason in told)


def test_sigterm_under_load_drains(tmp_path: Path) -> None:
    outcome, code = cases.sigterm_under_load(tmp_path / "state")
    check(outcome)
    assert code == 0


def test_what_is_sent_again_and_again_is_stored_once(tmp_path: Path) -> None:
    check(cases.duplicates(tmp_path / "state"))


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flipped", "cut", "missing"])
def test_a_damaged_write_ahead_log_loses_nothing(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    check(cases.damaged_log(tmp_path / "state", damage))


@pytest.mark.parametrize(("damage", "reason"), [(flip, "spool record damaged"), (cut, "spool cut short")])
def test_a_damaged_spool_costs_what_it_says(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    outcome, losses = cases.damaged_spool(tmp_path / "state", damage)
    assert losses["spool", reason] >= 1 and outcome.twice == 0
    if damage is flip:
        assert outcome.lost == SMALL == outcome.lost // losses["spool", reason]
    else:
        assert 0 < outcome.lost < outcome.acknowledged and outcome.lost % SMALL == 0


def test_a_full_disk_is_refused_in_time_and_taken_up_again(tmp_path: Path) -> None:
    try:
        with cases.small_disk(tmp_path / "disk", 96) as mount:
            outcome, busy = cases.disk_full(mount)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.decode().strip()}")
    check(outcome)
    assert busy > 0


def test_clocks_that_jump_by_an_hour_lose_and_double_nothing(tmp_path: Path) -> None:
    check(cases.clock_jumps(tmp_path / "state"))


def test_a_clock_that_steps_under_the_correlator_loses_and_doubles_nothing(tmp_path: Path) -> None:
    outcome, hours = cases.clock_steps(tmp_path / "state")
    check(outcome)
    assert hours == [1, 0, -1, 0]


def test_clients_that_disconnect_in_a_body_cost_nobody_else(tmp_path: Path) -> None:
    check(cases.broken_off(tmp_path / "state"))
