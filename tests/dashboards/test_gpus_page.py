"""The page GPUs without a browser: with readings, with kernels alone, with nothing in its time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from collectors import kineto
from dashboards import gpu_map, measures, state
from tests import golden
from tests.collectors.reading import read as reading_of
from tests.dashboards import double
from tests.dashboards.conftest import page
from tests.dashboards.test_pages import said
from warpline import sample

EVER = f"1-{2**62}"
PROFILE = golden.SAMPLES.parent / "tests/collectors/data/kineto_small.json"
SEEN = measures.named(*measures.SEEN)[0]


def chart(app: AppTest, at: int = 0) -> dict[str, Any]:
    """Return the first trace of a chart of the page, from the top."""
    return json.loads(app.get("plotly_chart")[at].proto.spec)["data"][0]  # type: ignore[no-any-return]


def heading(app: AppTest, at: int = 0) -> str:
    return str(json.loads(app.get("plotly_chart")[at].proto.spec)["data"][0]["colorbar"]["title"]["text"])


def test_readings_are_offered_by_what_a_person_calls_them_the_most_telling_first(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    app = page("gpus")
    assert not app.exception
    (measure,) = app.selectbox
    assert measure.value == "SM activity"
    assert measure.options[-1] == SEEN
    assert not any("warpline." in each for each in measure.options)
    assert chart(app)["y"] == [f"gpu-node-1 · GPU {number}" for number in range(8)]
    assert heading(app) == "%"
    assert heading(page("gpus", metric="Memory used")) == "GB"


def test_the_mean_stands_under_the_map_moment_for_moment_and_colours_begin_at_nothing(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    app = page("gpus", metric="Memory used")
    heat, mean = (json.loads(app.get("plotly_chart")[at].proto.spec)["layout"] for at in (0, 1))
    assert heat["margin"]["l"] == mean["margin"]["l"]
    assert heat["margin"]["r"] == mean["margin"]["r"]
    first, last = heat["xaxis"]["range"]
    assert mean["xaxis"]["range"] == [first, last]
    assert first < last
    assert (mean["dragmode"], mean["selectdirection"]) == ("select", "h"), "what is picked is a time, at any height"
    assert chart(app)["zmin"] == 0
    assert chart(app)["zmax"] > 70


@pytest.mark.parametrize(
    ("lasted_s", "every_s", "interval_s"), [(900, 10, 15), (900, 1, 8), (86_400, 30, 720), (20, 0.1, 1), (0, 1, 1)]
)
def test_no_interval_of_the_map_is_without_a_reading(lasted_s: float, every_s: float, interval_s: int) -> None:
    found = gpu_map.interval_ns(int(lasted_s * state.SECOND_NS), lasted_s / every_s + 1)
    assert found == interval_s * state.SECOND_NS
    at = np.arange(0, lasted_s, every_s) // interval_s
    assert set(at) == set(range(int(lasted_s - every_s) // interval_s + 1)) or not lasted_s


def test_what_went_wrong_with_gpus_is_listed(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    (wrong,) = (each.value for each in page("gpus").dataframe if "How much" in each.value)
    assert wrong["What"].tolist() == ["XID 94", "held back: power"]
    assert wrong["GPU"].tolist() == ["gpu-node-1 · GPU 1", "gpu-node-1 · GPU 0"]


def test_the_busy_time_of_seen_kernels_stands_beside_readings(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("gpus", metric=SEEN)
    assert not app.exception
    assert len(chart(app)["y"]) == 8
    assert "no DCGM" in said(app)


def test_a_recording_without_readings_shows_its_busy_time_and_what_an_exporter_would_add(
    recorded: str, reading: Callable[..., None]
) -> None:
    reading(recorded)
    app = page("gpus", window=EVER)
    assert not app.exception
    assert "no readings" in app.info[0].value
    assert "`dcgm_urls`" in app.info[0].value
    assert chart(app)["y"] == ["kineto_small.json · rank 1 · GPU 0"]
    assert "Busy time of seen kernels, no DCGM: 102 µs of 1 GPU, 5 executions" in said(app)


def test_a_time_without_anything_says_where_the_newest_is(recorded: str, reading: Callable[..., None]) -> None:
    reading(recorded)
    app = page("gpus", zone="UTC")
    assert "Nothing is known of a GPU in the last 15 minutes" in app.info[0].value
    assert "of 2025-12-31 13:55:12.001 UTC: [show that time](/gpus?window=" in app.info[0].value
    there = app.info[0].value.split("window=")[1].split(")")[0]
    assert chart(page("gpus", window=there))["y"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over an imported PyTorch profile."""
    directory = tmp_path_factory.mktemp("recorded")
    store = double.store(directory / "store", reading_of(kineto, PROFILE, directory).batches)
    with double.serving(store) as url:
        yield url
    store.close()


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over the recording of a real GPU, its readings left out, and a profile of the year before."""
    directory, case = tmp_path_factory.mktemp("unread"), golden.SAMPLES / "real_gpu"
    kept = [each for each in sample.batches(case, sample.load(case)) if each.table.name != "gpu_sample"]
    store = double.store(directory / "store", [*kept, *reading_of(kineto, PROFILE, directory).batches])
    with double.serving(store) as url:
        yield url
    store.close()


def test_gpus_known_in_times_far_apart_are_on_one_map(unread: str, reading: Callable[..., None]) -> None:
    reading(unread)
    app = page("gpus", window=EVER)
    assert not app.exception
    assert len(chart(app)["y"]) == 2
    assert chart(app)["text"][0].count("–") > 100, "the time between is empty"


def test_a_real_gpu_without_an_exporter_is_drawn_from_what_the_cuda_library_counted(
    unread: str, reading: Callable[..., None]
) -> None:
    reading(unread)
    app = page("gpus", window=f"{1_790_000_000 * state.SECOND_NS}-{2**62}")
    assert not app.exception
    assert not app.error
    assert [each.value for each in app.selectbox] == [SEEN]
    assert "collectors count it by the second" in said(app)
    shares = [each for row in chart(app)["text"] for each in row]
    assert len(shares) >= 5
    assert all(each.endswith(" %") and float(each[:-2]) < 10 for each in shares), "it was busy for 97 ms of 10 s"


@pytest.mark.parametrize("name", ("gpus", "requests", "health", "alerts", "cold_starts", ""))
def test_an_empty_window_is_named_as_people_tell_time_and_in_the_zone_chosen(
    name: str, correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    since = 1_767_189_312_000_000_000
    app = page(name, window=f"{since}-{since + 600 * state.SECOND_NS}", zone="UTC")
    assert not app.exception
    told = said(app)
    assert "2025-12-31 13:55:12 to 14:05:12 UTC" in told
    shown = told.replace(f"window={since}-{since + 600 * state.SECOND_NS}", "")
    assert str(since) not in shown


def test_an_empty_range_is_named_as_people_tell_time(empty_correlator: str, reading: Callable[..., None]) -> None:
    reading(empty_correlator)
    assert "No table has rows in the last hour." in said(page("health"))
    assert "changed its state in the last 24 hours" in said(page("alerts"))
