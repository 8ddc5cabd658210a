"""A request beside those like it, down to kernels: what the page says sums to what the request had."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pandas as pd
import pytest

from correlator.joins.stages import Joins
from dashboards import cohort, read
from tests import rule_table
from tests.dashboards import double
from tests.dashboards.conftest import page
from warpline import sample


@pytest.fixture(scope="module")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over the recorded incident of a GPU whose weights lie in the host's memory."""
    incident = rule_table.SAMPLES / "gpu_pressed"
    store = double.store(tmp_path_factory.mktemp("pressed"), sample.batches(incident, sample.load(incident)))
    Joins(store.settings, store).rebuild()
    with double.serving(store) as url:
        yield url
    store.close()


def test_a_request_is_compared_with_its_like_down_to_kernels_which_sum_to_its_share(
    pressed: str, reading: Callable[..., None]
) -> None:
    reading(pressed)
    requests = read.frame("request_search", **{**read.EVERY, "path": "/v1/completions"}, order="-duration_ns", limit=1)
    slowest = requests.iloc[0]
    app = page("compare", a=str(slowest["request_uid"]))
    assert not app.exception
    (kernels,) = (each.value for each in app.dataframe if "Kernel" in each.value)
    assert kernels["Kernel"].iloc[0] == "memcpy"
    assert kernels["Longer by"].iloc[0].startswith("+")
    assert kernels["at"].iloc[0] > 90
    assert kernels["Of its GPU time"].sum() == pytest.approx(1)
    each = read.frame(
        "request_kernel_each",
        requests=str(slowest["request_uid"]),
        since_ns=int(slowest["start_ns"]),
        until_ns=int(slowest["end_ns"]),
    )
    alone = read.kernels(slowest)
    named = ["kernel_class", "name"]
    both = each.merge(alone, on=named, suffixes=("", "_alone"))
    assert len(both) == len(each) == len(alone)
    assert both["share_ns"].to_numpy() == pytest.approx(both["share_ns_alone"].to_numpy())
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["data"]
    assert [trace["name"] for trace in drawn] == ["its like, median", "this one"]


def test_kernels_beside_ones_like_count_nothing_where_none_ran() -> None:
    found = pd.DataFrame(
        {
            "request_uid": ["a", "a", "b", "c", "d"],
            "kernel_class": ["gemm", "attention", "gemm", "gemm", "gemm"],
            "name": ["mlp", "flash", "mlp", "mlp", "mlp"],
            "share_ns": [10.0, 30.0, 4.0, 6.0, 8.0],
        }
    )
    table, count = cohort.against("a", found)
    assert count == 3
    assert table["name"].tolist() == ["flash", "mlp"]
    assert table["more"].tolist() == [30.0, 4.0]
    assert table["median"].tolist() == [0.0, 6.0]
    assert table["own_share"].tolist() == [0.75, 0.25]
    assert table["median_share"].tolist() == [0.0, 1.0]
    assert cohort.against("nobody", found)[0].empty
