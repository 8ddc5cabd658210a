"""Numbers of the request's page and of the overview: each says what it is of, and none contradicts another."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
from streamlit.testing.v1 import AppTest

from correlator.alerting import alert_rule
from dashboards import fired, parts, read, standing, words
from tests.dashboards import scene
from tests.dashboards.conftest import page

MS = 1_000_000


def exchange(**differs: Any) -> pd.Series:
    """Return a request of view `request`: at its client from 0 to 420 ms, at its server on that node from 110 to 415."""
    known = {
        "side": "server",
        "node": "n1",
        "client_node": "n1",
        "start_ns": 110 * MS,
        "end_ns": 415 * MS,
        "client_start_ns": 0,
        "client_end_ns": 420 * MS,
        "request_end_ns": 112 * MS,
        "first_body_ns": 300 * MS,
        "preemptions": 0,
    }
    return pd.Series({**known, **differs}, dtype=object)


def engine(*phases: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [{"name": name, "start_ns": start * MS, "end_ns": end * MS} for name, start, end in phases]


def in_ms(found: list[parts.Phase]) -> list[tuple[str, int]]:
    return [(name, (end - start) // MS) for name, start, end in found]


def figures(app: AppTest) -> dict[str, tuple[str, str]]:
    """Return the figures of a page by label: value, and what is said on hover."""
    text = "".join(each.proto.body for each in app.get("html"))
    cells = re.findall(r'<div title="([^"]*)"><dt>([^<]*)</dt><dd>([^<]*)</dd>', text)
    return {label: (value, title) for title, label, value in cells}


def test_phases_fill_the_one_wall_time_which_is_the_clients_where_its_clock_is_the_servers() -> None:
    found = parts.phases(exchange(), engine(("prefill", 150, 250), ("decode", 250, 400)))
    assert in_ms(found) == [
        ("way to the server", 110),
        ("receive", 2),
        ("wait for the engine", 38),
        ("prefill", 100),
        ("decode", 150),
        ("after the engine", 15),
        ("way back", 5),
    ]
    start, end, where = parts.wall(exchange())
    assert (end - start, where) == (420 * MS, "at the client's socket")


def test_a_wait_for_a_kv_cache_stands_apart_from_the_phases_in_which_it_lies() -> None:
    told = engine(("queue", 120, 220), ("KV transfer", 130, 180), ("KV transfer", 170, 200), ("prefill", 220, 410))
    expected = [("queue", 10), ("KV transfer", 70), ("queue", 20), ("prefill", 190)]
    assert in_ms(parts.phases(exchange(), told))[3:-2] == expected
    alone = in_ms(parts.phases(exchange(), engine(("KV transfer", 130, 200), ("decode", 200, 410))))
    assert alone[2:-2] == [("wait for the engine", 18), ("KV transfer", 70), ("decode", 210)]


def test_after_a_preemption_or_without_a_decode_the_rest_is_not_called_after_the_engine() -> None:
    phases = engine(("prefill", 150, 250), ("decode", 250, 300))
    assert in_ms(parts.phases(exchange(preemptions=1), phases))[-2] == ("not told by the engine", 115)
    assert in_ms(parts.phases(exchange(), phases[:1]))[-2] == ("not told by the engine", 165)


def test_a_client_on_another_clock_or_none_leaves_the_servers_time() -> None:
    for row in (exchange(client_node="n2"), exchange(client_node=None, client_start_ns=None, client_end_ns=None)):
        assert parts.wall(row) == (110 * MS, 415 * MS, "at the server's socket")
        assert in_ms(parts.phases(row, [])) == [("receive", 2), ("wait for the first byte", 188), ("stream", 115)]
    alone = exchange(side="client", start_ns=0, end_ns=420 * MS)
    assert parts.wall(alone) == (0, 420 * MS, "at the client's socket")


def test_a_request_that_was_still_being_received_when_the_engine_began_waits_for_no_engine() -> None:
    found = parts.phases(exchange(request_end_ns=200 * MS), engine(("prefill", 150, 410)))
    assert in_ms(found)[1:3] == [("receive", 40), ("prefill", 260)]


def test_the_page_tells_both_durations_and_of_which_its_shares_are(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    row = read.frame("request_found", id=scene.REQUEST_ID).iloc[0]
    told = figures(page("request", id=scene.REQUEST_ID))
    client = int(row["client_end_ns"]) - int(row["client_start_ns"])
    assert told["Duration, client"][0] == words.duration(client)
    assert told["Duration, server"][0] == words.duration(row["duration_ns"])
    assert told["First byte, client"][0] == words.duration(row["client_ttft_ns"])
    of = [label for label, (_, title) in told.items() if "Shares of its time" in title]
    assert of == ["Duration, server"]  # The scene's client is on a node of its own.
    assert told["Retransmits"][0] == "2"
    assert "whole life" in told["Retransmits"][1]


def test_what_is_ordinary_is_said_to_be_and_what_is_not_too() -> None:
    peers = pd.Series([float(each * MS) for each in range(100, 200)])
    assert standing.among(150 * MS, peers) == (
        "Its 150 ms at the server are ordinary: longer than 50 % of 100 like it within 5 minutes, whose median is 150 ms."
    )
    assert "are longer than all 100 like it" in standing.among(400 * MS, peers)
    assert standing.among(201 * MS, peers) == (  # The slowest of many that are alike.
        "Its 201 ms at the server are longer than all 100 like it within 5 minutes, but not by much: their median is 150 ms."
    )
    assert standing.among(50 * MS, peers) == (
        "Its 50.0 ms at the server are shorter than all 100 like it within 5 minutes, whose median is 150 ms."
    )
    assert standing.among(MS * 207 // 2, peers) == (
        "Its 104 ms at the server are shorter than 96 % of 100 like it within 5 minutes, but not by much: their median is "
        "150 ms."
    )
    few = standing.among(150 * MS, peers[: standing.LEAST - 1])
    assert few == "Fewer than 20 like it are known within 5 minutes: whether its time is ordinary cannot be said."
    assert standing.among(None, peers) == few


def test_the_request_page_says_where_its_time_stands(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    slow = page("requests", sort="slowest").dataframe[0].value["id"].iloc[0]
    app = page("request", id=slow)
    (found,) = (str(each.value) for each in app.caption if "like it within 5 minutes" in str(each.value))
    assert found.endswith(standing.said(read.frame("request_found", id=slow).iloc[0]))


def test_steps_are_counted_as_its_way_counts_them(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    steps, way = (figures(page("request", id=scene.REQUEST_ID, tab=tab)) for tab in ("", "Its way"))
    assert steps["Steps"][0] == way["Engine steps"][0] == "16"
    assert "Of them in access logs" not in way, "no proxy of the scene has a socket that was seen"


def test_steps_whose_phase_nobody_told_are_counted_too() -> None:
    shares = pd.DataFrame({"phase": ["decode", "decode", None], "steps": [15, 14, 3]})
    assert (parts.steps(shares), parts.steps(shares.tail(1))) == (18, 3)


def test_who_delayed_whom_tells_nobody_from_not_known(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    known = page("request", id=scene.REQUEST_ID, tab="Who delayed whom")
    assert "No other request delayed it, and it delayed none" in known.success[0].value
    slow = page("requests", sort="slowest").dataframe[0].value["id"].iloc[0]
    assert "`engine_wire`" in page("request", id=slow, tab="Who delayed whom").info[0].value


def test_ids_in_a_sentence_link_to_their_requests() -> None:
    said = "Its tokens waited: 266 ms, by cmpl-6e772528997e054d94c52ccb-0ac1df23"
    assert parts.linked(said) == (
        "Its tokens waited: 266 ms, by [cmpl-6e772528997e054d94c52ccb-0ac1df23]"
        "(/request?id=cmpl-6e772528997e054d94c52ccb-0ac1df23)"
    )
    assert parts.linked("no id, of cmpl-short") == "no id, of cmpl-short"


def test_numbers_of_rules_that_average_are_said_to_be_averages() -> None:
    for rule, said in fired.AVERAGED.items():
        condition = (alert_rule.FOLDER / f"{rule}.sql").read_text("utf-8")
        assert "AVG(value)" in condition
        assert "$now_ns - 15000000000" in condition
        assert said.endswith("on average over 15 s")


def test_where_no_rule_fired_it_is_said(empty_correlator: str, reading: Callable[..., None]) -> None:
    reading(empty_correlator)

    def shown() -> None:
        from dashboards import fired

        fired.show("Fired in this time", fired.within(1, 2), "/alerts?window=1-2")

    app = AppTest.from_function(shown).run()
    assert not app.exception
    assert app.caption[0].value == ":material/notifications: No rule fired in this time · [history](/alerts?window=1-2)"
    assert fired.within(1, 2).empty


def test_the_overview_says_which_longest_gap_it_means_and_counts_in_the_singular(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    app = page()
    told = {each.label: each.delta for each in app.metric}
    assert told["Per chunk, p95"].startswith("longest gap, p95 ")
    summary = read.frame("request_summary", method="POST").iloc[0]
    assert told["Exact evidence"] == words.counted(int(summary["retransmits"]), "retransmit")
    headings = [each.value for each in app.subheader]
    assert headings == ["Slowest requests by first byte"]  # Nothing is picked: the list has the page's width.
