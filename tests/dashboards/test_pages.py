"""Pages without a browser: what they show, filter and say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboards import login, parts, read, words
from tests.dashboards import double, scene
from tests.dashboards.conftest import page
from tests.dashboards.scene_parts import MILLI, NODE, SECOND, SERVER, batch

PAGES = ("requests", "request", "compare", "gpus", "alerts", "recordings", "incidents", "cold_starts", "health")


def said(app: AppTest) -> str:
    """Return all that a page says in words."""
    kinds = ("title", "subheader", "markdown", "info", "warning", "error", "success", "caption")
    return "\n".join(str(each.value) for kind in kinds for each in getattr(app, kind))


@pytest.mark.parametrize("name", ("", *PAGES))
def test_every_page_runs_on_a_scene(name: str, correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page(name)
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("name", ("", *PAGES))
def test_every_page_explains_an_empty_store(name: str, empty_correlator: str, reading: Callable[..., None]) -> None:
    reading(empty_correlator)
    app = page(name)
    assert not app.exception
    assert not app.error
    words = said(app).lower()
    assert any(each in words for each in ("nothing", "no ", "which"))


@pytest.mark.parametrize("name", ("", "requests", "gpus", "health"))
def test_a_correlator_that_is_down_is_said_with_its_address(name: str, reading: Callable[..., None]) -> None:
    reading("http://127.0.0.1:1")
    app = page(name)
    assert not app.exception
    assert "http://127.0.0.1:1" in app.error[0].value
    assert "warpline correlate" in app.error[0].value


def test_the_search_finds_one_request_by_its_id(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("requests", q=scene.RESPONSE_ID)
    table = app.dataframe[0].value
    assert len(table) == 1
    assert table["id"].iloc[0] == scene.RESPONSE_ID
    assert table["sides"].iloc[0] == "both"


def test_filters_come_from_the_address_and_narrow_the_table(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("requests", outcome="failed")
    assert app.selectbox(key="outcome").value == "failed"
    assert set(app.dataframe[0].value["outcome"]) == {"503"}


def test_the_slowest_come_first_when_asked(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("requests", sort="slowest")
    durations = app.dataframe[0].value["duration"].astype(float).tolist()
    assert durations == sorted(durations, reverse=True)
    assert len(durations) == 50


WHY = (":material/lightbulb:", ":material/bolt:")
"""Icons of what took its time, and of what may have."""


def test_a_request_says_why_it_took_as_long_the_heaviest_first(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("request", id=scene.REQUEST_ID)
    causes = read.explained(scene.REQUEST_ID)["causes"]
    sentences = [str(each.value) for each in app.markdown if str(each.value).startswith(WHY)]
    assert len(sentences) >= min(len(causes), 5)
    took, met = (
        [str(each["sentence"])[1:] for each in causes if bool(each.get("ns")) is known] for known in (True, False)
    )
    assert took and met
    assert took[0] in sentences[0]
    assert met[0] in next(each for each in sentences if each.startswith(WHY[1]))


def test_a_search_without_a_hit_says_what_to_do(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("requests", q="no-such-thing")
    assert "No request fits" in app.info[0].value
    assert "Clear the search" in app.info[0].value


def test_a_request_shows_its_phases_its_timeline_and_its_share(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("request", id=scene.REQUEST_ID)
    assert not app.exception
    mounted = app.get("bidi_component")
    assert len(mounted) == 1
    assert mounted[0].proto.component_name == "warpline_timeline"
    assert "POST /v1/chat/completions" in app.markdown[0].value
    shares = app.dataframe[0].value
    assert set(shares["Kernels"]) == set(words.SHARED_BY.values())
    assert set(shares["Evidence"]) == {"exact"}


def test_a_requests_kernels_sum_to_its_share_and_are_drawn_by_class_and_name(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    row = read.frame("request_found", id=scene.REQUEST_ID).iloc[0]
    shares = read.frame("request_share", request=str(row["request_uid"]))
    kernels = read.kernels(row)
    assert len(shares) == 6  # Two phases in three classes.
    assert kernels["share_ns"].sum() == pytest.approx(shares["share_ns"].sum(), rel=1e-9)
    assert "attention" in kernels.loc[kernels["name"].str.startswith("flash_fwd", na=False), "kernel_class"].tolist()
    app = page("request", id=scene.REQUEST_ID, tab="Kernels")
    assert not app.exception
    drawn = json.loads(app.get("plotly_chart")[0].proto.spec)["data"][0]
    assert drawn["type"] == "icicle"
    assert {"gemm", "attention", "communication", "sampling"} <= {each.split(" ")[0] for each in drawn["labels"]}
    assert drawn["labels"][0] == f"its GPU time {words.duration(kernels['share_ns'].sum())}"


def test_the_way_of_a_request_says_what_is_missing_and_how_each_edge_is_known(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    app = page("request", id=scene.REQUEST_ID, tab="Its way")
    assert "Followed whole" in app.success[0].value
    (edges,) = (each.value for each in app.dataframe if "Rule" in each.value)
    assert {"addresses and offset", "response id", "correlation id"} <= set(edges["Rule"])
    ends = {*edges["From"], *edges["To"]}
    assert "client's socket on client-node, 71/0" in ends
    assert "engine request chatcmpl-7b3f2…adbeef" in ends, "A cell has no room for the whole id"
    assert "1 flow FORWARDED on client-node" in ends, "Where it was observed is not known"
    assert set(edges["Evidence"]) <= {"exact", "derived"}
    other = page("requests", sort="slowest").dataframe[0].value["id"].iloc[0]
    assert "The way ends before the client's socket" in page("request", id=other, tab="Its way").warning[0].value


def test_logs_are_offered_where_a_setting_names_them(correlator: str, reading: Callable[..., None]) -> None:
    logs = "https://logs.example/find?id={request_id}&from={start_ms}&pod={pod}&left={unknown}"
    reading(correlator, dashboard_logs_url=logs)
    app = page("request", id=scene.REQUEST_ID)
    (link,) = (each.proto for each in app.get("link_button") if each.proto.label == "Logs")
    assert link.url.startswith(f"https://logs.example/find?id={scene.REQUEST_ID}&from=1")
    assert link.url.endswith("&pod=vllm-0&left={unknown}")


def test_energy_and_cost_are_told_where_they_are_known() -> None:
    share = {"share_ns": 2_000_000, "busy_ns": 1_000_000, "share_j": 0.25, "cost": 0.004}
    told = {label: value for label, value, _ in parts.spent([share, {**share, "share_j": None, "cost": None}])}
    assert told == {"GPU time": "4.00 ms", "Energy": "0.25 J", "Cost": "0.004"}
    assert {value for _, value, _ in parts.spent([])} == {"–"}


def test_a_request_that_is_not_there_says_why_that_may_be(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page("request", id="chatcmpl-nobody")
    assert "chatcmpl-nobody" in app.warning[0].value
    assert "aged out" in app.warning[0].value


def test_two_requests_are_compared_and_one_against_its_like(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    other = page("requests", sort="slowest").dataframe[0].value["id"].iloc[0]
    both = page("compare", a=scene.REQUEST_ID, b=other)
    assert not both.exception
    assert list(both.dataframe[0].value.columns) == ["Fact", "A", "B", "B is"]
    assert both.dataframe[0].value.set_index("Fact").loc["Duration", "B is"].endswith(" × A")
    (ran,) = (each.value.set_index("What") for each in both.dataframe if "Count A" in each.value)
    assert set(ran.loc["kernel", "B"]) == {"–"} == set(ran.loc["kernel", "Count B"]), "B's GPUs were not watched"
    assert set(ran.loc["kernel", "Change"]) == {"–"} and "–" not in set(ran.loc["kernel", "A"])
    alone = page("compare", a=scene.REQUEST_ID)
    assert "Against" in said(alone)


def test_a_rule_is_tried_on_what_is_stored_with_numbers_of_ones_own(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    lost_ns = int(read.table("loss")["start_ns"].min())
    app = page("alerts", rule="rows_lost", window=f"{lost_ns - 10**10}-{lost_ns + 3 * 10**10}")
    assert "It would have fired **2 times**" in said(app)
    assert any("ring full" in each for each in app.dataframe[-1].value["Of"])
    app.number_input[0].set_value(10.0).run()
    assert "It would have fired **1 time**" in said(app)
    app.number_input[0].set_value(10_000.0).run()
    assert "It would not have fired" in said(app)


def test_rules_without_data_are_named_and_not_taken_for_quiet(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    assert [str(each.value) for each in page("alerts").info] == [
        "Without data, so that they can say nothing: source down."
    ]


def test_windows_that_flight_recorders_were_asked_for_are_listed(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    read.client().keep(since_ns=1_000_000_000, until_ns=3_000_000_000, node="node-x")
    app = page("alerts")
    (row,) = (each.value for each in app.dataframe if "Cause" in each.value)
    assert row[["Cause", "Node", "Lasts"]].to_numpy().tolist() == [["asked", "node-x", "2.00 s"]]


def test_pipeline_health_tells_the_store_its_disk_and_what_each_source_costs(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    said_of_disk = read.client().disk()
    assert sum(each["bytes"] for each in said_of_disk["days"]) > 100_000
    assert 0 < said_of_disk["free_bytes"] < said_of_disk["total_bytes"]
    app = page("health")
    assert any("Disk left" in each.value and "7 days" in each.value for each in app.get("html"))
    sources = app.dataframe[0].value.set_index("Source")
    assert sources.loc["sched", ["Detail", "Cost", "Budget"]].tolist() == ["1 least", 0.02, 0.05]
    assert "Why not" not in sources and "warpline-vllm" in app.warning[0].value, "The box has room for the whole reason"


def test_services_their_replicas_and_each_step_of_scaling_stand_beside_cold_starts(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    app = page("cold_starts")
    stages, services, steps = (each.value for each in app.dataframe)
    assert stages["Image: pull"].tolist() == ["21.4 s"]
    assert services.set_index("Kind").loc["Revision", ["Replicas", "Bounds", "Active"]].tolist() == [
        "4, wants 3",
        "0 to 8",
        "active",
    ]
    assert steps["Step"].tolist() == ["scaled down", "scaled up", "scaled up", "woken"]
    assert len(app.get("plotly_chart")) == 2
    drawn = [each["name"] for each in json.loads(app.get("plotly_chart")[0].proto.spec)["data"]]
    assert "load" in drawn and "idle" not in drawn, "A stage that none of them had has no place in the legend"
    before = page("cold_starts", window="1-2")
    assert not before.exception
    assert "No pod began in" in before.caption[0].value
    assert "[show that time](/cold_starts?window=" in before.info[0].value, "Services are known of another time"


def test_a_cold_start_of_which_no_moment_is_known_is_among_all(
    correlator: str, reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(correlator)
    stored, moments = read.frame, ("created_ns", "scheduled_ns", "started_ns", "ready_ns")

    def undated(view: str, **asked: Any) -> pd.DataFrame:
        found = stored(view, **asked)
        return found.assign(**dict.fromkeys(moments, float("nan"))) if view == "cold_start" else found

    monkeypatch.setattr(read, "frame", undated)
    assert page("cold_starts", range="all").dataframe[0].value["Image: pull"].tolist() == ["21.4 s"]
    assert "No pod began in" in page("cold_starts").caption[0].value


def test_the_front_page_counts_what_the_store_holds(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    app = page(range="all")
    figures = {each.label: each.value for each in app.metric}
    assert figures["Requests"] == "301"
    spec = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert spec["layout"]["dragmode"] == "select"


def test_scrapes_and_probes_are_no_requests_of_the_front_page_unless_asked_for(
    scraped: str, reading: Callable[..., None]
) -> None:
    reading(scraped)
    counts = {kind: page(range="all", kind=kind).metric[0].value for kind in ("inference", "all")}
    assert counts == {"inference": "41", "all": "44"}
    assert "left out: 3" in said(page(range="all"))


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over forty requests and one, and three scrapes of their server."""
    made = scene.scene(4_000, 40)
    scrapes = batch(
        "http_exchange",
        start_ns=made.start_ns + np.arange(3) * SECOND,
        end_ns=made.start_ns + np.arange(3) * SECOND + 3 * MILLI,
        node=NODE,
        process_uid=SERVER,
        side="server",
        connection_id=990_000,
        ordinal=[0, 1, 2],
        method="GET",
        path="/metrics",
        status=200,
    )
    store = double.store(tmp_path_factory.mktemp("scraped"), [*made.batches, scrapes])
    with double.serving(store) as url:
        yield url
    store.close()


def test_a_cell_whose_value_is_not_known_shows_a_dash(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    for name in ("cold_starts", "requests", "health", "gpus"):
        assert all(each.proto.placeholder == parts.NONE for each in page(name).dataframe)


def test_an_address_may_name_a_window_of_its_own(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    assert page("requests", window="1-2").info[0].value.startswith("**No request fits in 1970-01-01")
    every = page("requests", window=f"1-{2**62}")
    assert "301" in every.caption[0].value
    assert len(every.button) == 1


def test_times_are_shown_in_utc_when_asked(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    utc = page("requests", zone="UTC", q=scene.RESPONSE_ID).dataframe[0].value["began"].iloc[0]
    assert utc.tzinfo is None
    assert utc.utcoffset() is None or utc.utcoffset() == timedelta(0)


def test_a_page_behind_a_proxy_refuses_who_has_no_name(
    correlator: str, reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "user", lambda: "")  # AppTest brings a user of its own.
    reading(correlator, dashboard_auth="header")
    app = page("requests")
    assert "X-Forwarded-User" in app.error[0].value
    assert not app.dataframe


def test_a_page_asks_to_sign_in_where_oidc_is_on(
    correlator: str, reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "user", lambda: "")
    reading(correlator, dashboard_auth="oidc")
    app = page()
    assert [each.label for each in app.button] == ["Sign in"]
    assert not app.metric
