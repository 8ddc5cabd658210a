"""A collector that is killed: its sources go on where they stood, or count what they missed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from google.protobuf import json_format

from collectors import hubble, tetragon
from collectors.wire.hubble_pb2 import GetFlowsRequest
from collectors.wire.tetragon_pb2 import GetEventsResponse
from tests.collectors.killed import killed, queued, rows_before_kill
from tests.collectors.stored import stored
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running
from tests.collectors.test_hubble import HTTP, relay_double, responses
from tests.collectors.test_tetragon import BOOK
from tests.waiting import until


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
            lambda rows: len(rows) == 200 and '"done"' in kept.read_text().splitlines()[-1],
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
        assert '"done"' not in (tmp_path / "resume-hubble.jsonl").read_text()
        next(source)
        assert '"done"' in (tmp_path / "resume-hubble.jsonl").read_text()
        assert told.rows.num_rows > 0
    seen = Seen()
    with grpc_double({"/observer.Observer/GetFlows": relay_double(flows[300:], [], asked)}) as address:
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with running(hubble, where, seen):
            until(lambda: "gap between two streams" in seen.lost())
    gap = next(row for row in seen.rows("loss") if row["reason"] == "gap between two streams")
    assert gap["lower_bound"]
    source.close()


@pytest.mark.parametrize("handed_on", [True, False])
def test_flows_at_which_the_collector_was_killed_are_stored_once(
    shared_data: Path, tmp_path: Path, handed_on: bool
) -> None:
    flows, seen = responses(shared_data / HTTP), Seen()
    for each in flows:
        each.flow.uuid = str(uuid.uuid4())
    ring, asked = flows[:200], list[GetFlowsRequest]()

    def double(request: bytes, call: Any) -> Iterator[bytes]:
        yield from relay_double(ring, [], asked)(request, call)

    with grpc_double({"/observer.Observer/GetFlows": double}) as address:
        source = hubble.run(context(tmp_path, seen, "hubble", hubble_address=address))
        told = next(batch for batch in source if batch.rows.num_rows)
        seen.batches += [told] if handed_on else []
        source.close()
        ring[:] = flows
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with running(hubble, where, seen):
            until(lambda: len({row["flow_uid"] for row in seen.rows("flow")}) == len(flows))
            until(lambda: sum(batch.batch_id == told.batch_id for batch in seen.batches) == 1 + handed_on)
    uids = stored(seen.batches, "flow", "flow_uid", tmp_path / "store")
    assert sorted(uids) == sorted(each.flow.uuid for each in flows)


def test_a_half_written_last_line_costs_no_more_than_itself(tmp_path: Path) -> None:
    seen = Seen()
    resume = hubble.stream.Resume(context(tmp_path, seen, "hubble"))
    for number in range(3):
        resume.fresh([f"flow-{number}"], [10**18 + number])
        resume.begin(f"block-{number}")
        resume.keep(f"block-{number}")
    with (tmp_path / "resume-hubble.jsonl").open("a") as out:
        out.write('{"flow-3": 10000')
    again = hubble.stream.Resume(context(tmp_path, seen, "hubble"))
    assert again.newest_ns == 10**18 + 2
    assert again.fresh([f"flow-{number}" for number in range(5)], [10**18 + 2] * 5)[0] == [False] * 3 + [True] * 2
    again.begin("block-4")
    again.keep("block-4")
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


@pytest.mark.parametrize("at", ["before it was handed on", "behind"])
def test_a_block_at_which_the_collector_was_killed_is_stored_once(shared_data: Path, tmp_path: Path, at: str) -> None:
    lines = (shared_data / HTTP).read_bytes().splitlines(keepends=True)
    file, seen = tmp_path / "events.log", Seen()
    file.write_bytes(b"".join(lines[:200]) + b"broken\n")
    # A killed collector never comes back to its source: its generator is left where it stands.
    source = hubble.run(context(tmp_path, seen, "hubble", hubble_file=str(file)))
    told = next(batch for batch in source if batch.rows.num_rows)
    if at == "behind":
        seen.batches.append(told)
    else:
        seen.batches.clear()
    source.close()
    with file.open("ab") as out:
        out.write(b"".join(lines[200:]))
    where = context(tmp_path, seen, "hubble", hubble_file=str(file))
    with running(hubble, where, seen):
        until(lambda: len(seen.rows("flow")) >= 348 + 200 * (at == "behind"))
    assert all(batch.batch_id for batch in seen.batches if batch.rows.num_rows)
    known = [row["request_id"] for row in hubble.decode(b"".join(lines)).flows.to_pylist()]
    assert sorted(stored(seen.batches, "flow", "request_id", tmp_path / "store")) == sorted(known)
    assert stored(seen.batches, "loss", "lost", tmp_path / "store") == [1], "what a block lacks is counted once too"


def test_of_a_file_that_grows_while_its_collector_is_killed_each_line_is_stored_once(tmp_path: Path) -> None:
    """At midnight sharp: rows must not change the day, and with it the ledger, when they are told again."""
    file, written = tmp_path / "access.log", 0
    random = Random(7)

    def write(lines: int) -> None:
        nonlocal written
        with file.open("ab") as out:
            for number in range(written, written + lines):
                out.write(orjson.dumps({"start_time": "2025-01-01T00:00:00Z", "request_id": str(number)}) + b"\n")
        written += lines

    def grown(size: int) -> bool:
        write(random.randrange(50))
        return sum(each.stat().st_size for each in (tmp_path / "queue").glob("*.spool")) > size

    for _ in range(2):
        before = sum(each.stat().st_size for each in (tmp_path / "queue").glob("*.spool"))
        with killed("envoy_log", tmp_path, envoy_log_files=str(file)):
            until(lambda before=before: grown(before + 20_000), 60)
    place = next(tmp_path.glob("tail-*.json"))
    with killed("envoy_log", tmp_path, envoy_log_files=str(file)):
        until(
            lambda: (told := orjson.loads(place.read_bytes()))["offset"] == file.stat().st_size and not told["name"], 60
        )
    told = stored(queued(tmp_path), "hop", "request_id", tmp_path / "store")
    assert sorted(map(int, told)) == list(range(written))


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
