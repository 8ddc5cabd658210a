"""What a first visit is told: before anything arrived, and once collectors report but no request was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from dashboards import store_disk
from tests.dashboards import double, scene_fleet
from tests.dashboards.conftest import page
from tests.dashboards.test_pages import said


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over a store to which sources have reported, and nothing else."""
    states = [each for each in scene_fleet.health(time.time_ns()) if each.table.name == "source_state"]
    store = double.store(tmp_path_factory.mktemp("waiting"), states)
    with double.serving(store) as url:
        yield url
    store.close()


def test_the_first_screen_says_how_to_begin_and_what_will_be_seen(
    empty_correlator: str, reading: Callable[..., None]
) -> None:
    reading(empty_correlator)
    told = said(page())
    assert "Nothing has arrived yet" in told
    for each in ("sudo warpline collect", "make demo", "warpline import kineto", "[Pipeline health](/health)"):
        assert each in told


def test_collectors_that_report_are_not_told_to_be_started(waiting: str, reading: Callable[..., None]) -> None:
    reading(waiting)
    app = page()
    assert app.info[0].value.startswith("**Collectors report from 1 node: 5 of 6 sources up**")
    assert "Send a request to a model server on a watched node" in app.info[0].value
    assert "No request has arrived yet" in said(app)
    assert "sudo warpline collect" not in said(app)
    assert "25 rules watch. None has fired yet." in said(page("alerts"))


@pytest.mark.parametrize("name", ("gpus", "cold_starts"))
def test_where_the_store_has_nothing_no_other_time_is_advised(
    name: str, empty_correlator: str, reading: Callable[..., None]
) -> None:
    reading(empty_correlator)
    told = "".join(str(each.value) for each in page(name).info)
    assert "[Pipeline health](/health) says" in told
    assert "longer time range" not in told


def test_rules_that_have_nothing_to_look_at_are_not_called_quiet(
    empty_correlator: str, reading: Callable[..., None]
) -> None:
    reading(empty_correlator)
    app = page("alerts")
    assert not app.success
    assert "nothing has arrived for them to look at" in app.info[0].value


@pytest.mark.parametrize(
    ("room", "largest", "days", "told"),
    [
        (75_000_000_000, 2_620_000, 1, "–"),
        (75_000_000_000, 2_620_000, 2, "over a year"),
        (10_000, 1_000, 1, "at most 10 days"),
        (10_000, 1_000, 3, "10 days"),
        (10_000, 0, 0, "–"),
    ],
)
def test_room_on_disk_is_told_once_a_day_is_known(room: int, largest: int, days: int, told: str) -> None:
    assert store_disk._room(room, largest, days) == told
