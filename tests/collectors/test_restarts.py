"""A collector that is killed: its sources go on where they stood, or count what they missed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from google.protobuf import json_format

from collectors import hubble, tetragon
from collectors.wire.hubble_pb2 import GetFlowsRequest
from collectors.wire.tetragon_pb2 import GetEventsResponse
from tests.collectors.killed import rows_before_kill
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running, until
from tests.collectors.test_hubble import HTTP, relay_double, responses
from tests.collectors.test_tetragon import BOOK


def test_a_killed_collector_asks_for_flows_since_its_last_one_and_tells_none_twice(
    shared_data: Path, tmp_path: Path
) -> None:
    flows = responses(shared_data / HTTP)
    for each in flows:
        each.flow.uuid = str(uuid.uuid4())
    ring, asked = flows[:200], list[GetFlowsRequest]()

    def double(request: bytes, call: Any) -> Iterator[bytes]:
        yield from relay_double(ring, [], asked)(request, call)

    kept = tmp_path / "resume-hubble.jsonl"
    with grpc_double({"/observer.Observer/GetFlows": double}) as address:
        before = rows_before_kill(
            "hubble",
            tmp_path,
            "flow",
            lambda rows: len(rows) == 200 and kept.exists() and flows[199].flow.uuid in kept.read_text(),
            hubble_address=address,
        )
        ring[:] = flows
        seen = Seen()
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with running(hubble, where, seen):
            until(lambda: len(before) + len(seen.rows("flow")) >= 348)
    uids = [row["flow_uid"] for row in before + seen.rows("flow")]
    assert sorted(uids) == sorted(each.flow.uuid for each in flows)
    newest = max(each.flow.time.ToNanoseconds() for each in flows[:200])
    assert asked[1].since.ToNanoseconds() == newest - 5_000_000_000
    assert "gap between two streams" not in seen.lost()


def test_flows_that_the_ring_dropped_while_the_collector_was_dead_are_a_gap(shared_data: Path, tmp_path: Path) -> None:
    flows = responses(shared_data / HTTP)
    asked: list[GetFlowsRequest] = []
    first = Seen()
    with grpc_double({"/observer.Observer/GetFlows": relay_double(flows[:60], [], asked)}) as address:
        # A killed collector never comes back to its source: its generator is left where it stands.
        source = hubble.run(context(tmp_path, first, "hubble", hubble_address=address))
        told = next(batch for batch in source if batch.rows.num_rows)
        assert not (tmp_path / "resume-hubble.jsonl").exists(), "written before it was handed on"
        next(source)
        assert (tmp_path / "resume-hubble.jsonl").exists()
        assert told.rows.num_rows > 0
    seen = Seen()
    with grpc_double({"/observer.Observer/GetFlows": relay_double(flows[300:], [], asked)}) as address:
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with running(hubble, where, seen):
            until(lambda: "gap between two streams" in seen.lost())
    gap = next(row for row in seen.rows("loss") if row["reason"] == "gap between two streams")
    assert gap["lower_bound"]
    source.close()


def test_a_half_written_last_line_costs_no_more_than_itself(tmp_path: Path) -> None:
    seen = Seen()
    resume = hubble.stream.Resume(context(tmp_path, seen, "hubble"))
    for number in range(3):
        resume.fresh([f"flow-{number}"], [10**18 + number])
        resume.keep()
    with (tmp_path / "resume-hubble.jsonl").open("a") as out:
        out.write('{"flow-3": 10000')
    again = hubble.stream.Resume(context(tmp_path, seen, "hubble"))
    assert again.newest_ns == 10**18 + 2
    assert again.fresh([f"flow-{number}" for number in range(5)], [10**18 + 2] * 5)[0] == [False] * 3 + [True] * 2
    again.keep()
    assert hubble.stream.Resume(context(tmp_path, seen, "hubble")).fresh(["flow-4"], [10**18])[0] == [False]


def test_a_killed_collector_goes_on_behind_the_last_line_of_a_file(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / HTTP).read_bytes().splitlines(keepends=True)
    file = tmp_path / "events.log"
    file.write_bytes(b"".join(lines[:200]))

    def enough(rows: list[dict[str, Any]]) -> bool:
        places = [orjson.loads(each.read_bytes())["offset"] for each in tmp_path.glob("tail-*.json")]
        return len(rows) == 200 and places == [file.stat().st_size]

    before = rows_before_kill("hubble", tmp_path, "flow", enough, hubble_file=str(file))
    os.rename(file, tmp_path / "events-2025-07-26T18-35-12.598.log")
    file.write_bytes(b"".join(lines[200:]))
    seen = Seen()
    where = context(tmp_path, seen, "hubble", hubble_file=str(file))
    with running(hubble, where, seen):
        until(lambda: len(seen.rows("flow")) >= 148)
    known = hubble.decode(b"".join(lines)).flows.to_pylist()
    assert [row["request_id"] for row in before + seen.rows("flow")] == [row["request_id"] for row in known]
    assert seen.lost() == {}


def test_what_passed_while_the_collector_was_dead_is_a_counted_gap(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / BOOK).read_text().splitlines()
    events = [json_format.Parse(each, GetEventsResponse(), ignore_unknown_fields=True) for each in lines]

    def agent_double(request: bytes, call: Any) -> Iterator[bytes]:
        for each in events:
            yield each.SerializeToString()
        while call.is_active():
            time.sleep(0.05)

    with grpc_double({"/tetragon.FineGuidanceSensors/GetEvents": agent_double}, f"unix:{tmp_path}/t.sock") as address:
        heard = tmp_path / "heard-tetragon.json"

        def enough(rows: list[dict[str, Any]]) -> bool:
            newest = max([row["time_ns"] for row in rows], default=0)
            kept = orjson.loads(heard.read_bytes())["until_ns"] if heard.exists() else None
            return len(rows) == len(events) and kept == newest

        before = rows_before_kill("tetragon", tmp_path, "process_event", enough, tetragon_address=address)
        seen = Seen()
        where = context(tmp_path, seen, "tetragon", tetragon_address=address)
        with running(tetragon, where, seen):
            until(lambda: bool(seen.rows("process_event")))
    away = [row for row in seen.rows("loss") if row["reason"] == "collector was away"]
    assert [(row["lost"], row["lower_bound"]) for row in away] == [(1, True)]
    assert away[0]["start_ns"] == max(row["time_ns"] for row in before)
    assert away[0]["end_ns"] > away[0]["start_ns"]


def test_a_first_start_has_missed_nothing(tmp_path: Path) -> None:
    seen = Seen()
    tetragon.stream.Heard(context(tmp_path, seen, "tetragon"))
    assert seen.lost() == {}
