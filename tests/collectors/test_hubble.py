"""Hubble's flows: every real line goes through, from files and over gRPC, without gaps or doubles."""

from __future__ import annotations

import datetime
import gzip
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pyarrow as pa
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import hubble
from collectors.wire.hubble_pb2 import GetFlowsRequest, GetFlowsResponse
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running
from tests.waiting import until
from warpline.settings import Settings

HTTP = "hubble/hubble-otel/basic-sample-348-http-flows.json"


def rows(block: bytes) -> list[dict[str, Any]]:
    return hubble.decode(block).flows.to_pylist()


def responses(file: Path) -> list[GetFlowsResponse]:
    lines = [line for line in file.read_text().splitlines() if line]
    return [json_format.Parse(line, GetFlowsResponse(), ignore_unknown_fields=True) for line in lines]


def test_every_real_line_becomes_a_row(shared_data: Path) -> None:
    files = [
        *(shared_data / "hubble/hubble-otel").glob("*.json"),
        *(shared_data / "hubble/export-lines").glob("*.jsonl"),
    ]
    assert len(files) >= 8
    for file in files:
        block = file.read_bytes()
        decoded = hubble.decode(block)
        lines = sum(bool(line.strip()) for line in block.splitlines())
        assert (decoded.flows.num_rows, decoded.lost, decoded.others) == (lines, [], 0), file.name
        assert {row["verdict"] for row in decoded.flows.to_pylist()} <= {"FORWARDED", "DROPPED", "REDIRECTED"}
        assert all(row["time_ns"] > 1_600_000_000_000_000_000 for row in decoded.flows.to_pylist())


def test_http_is_read_as_by_hand(shared_data: Path) -> None:
    told = rows((shared_data / HTTP).read_bytes())
    kinds = [row["message"] for row in told]
    assert (kinds.count("REQUEST"), kinds.count("RESPONSE")) == (175, 173)
    assert sum(row["request_id"] is not None for row in told) == 348
    assert sum(row["trace_id"] is not None for row in told) == 70
    assert {row["latency_ns"] is None for row in told if row["message"] == "REQUEST"} == {True}
    first = next(
        row for row in told if row["request_id"] == "e69069f2-fa66-4826-9746-f4b16c89559b" and row["http_status"]
    )
    assert (first["http_status"], first["latency_ns"], first["http_path"]) == (503, 999958359, "/metrics")
    assert (first["source_address"], first["source_port"]) == ("10.156.1.2", 9253)
    assert (first["destination_pod"], first["destination_port"]) == ("prometheus-6655946b9f-6xcpf", 57468)
    assert (first["reply"], first["layer"], first["protocol"], first["direction"]) == (True, "L7", "http", "EGRESS")
    assert first["time_ns"] == 1633357720_808318870
    assert first["node"] == "gke-ilya-otel-demo-2-ilya-otel-demo-2-dac8cc20-hr0z"


def test_a_redirected_packet_is_not_counted_beside_its_request(shared_data: Path) -> None:
    told = rows((shared_data / "hubble/hubble-otel/basic-sample-400-tcp-flows.json").read_bytes())
    assert sum(not row["counted"] for row in told) == 27
    assert all(row["counted"] == (row["verdict"] != "REDIRECTED") for row in told)
    assert told[0]["tcp_flags"] == "ACK"
    assert told[1]["tcp_flags"] == "PSH|ACK"
    assert told[0]["observation_point"] == "TO_PROXY"


def test_drops_have_their_reason_by_name_or_number(shared_data: Path) -> None:
    told = rows((shared_data / "hubble/export-lines/cilium-docs-exporter-fieldmask-dropped.jsonl").read_bytes())
    assert [(row["verdict"], row["drop_reason"], row["protocol"]) for row in told] == [
        ("DROPPED", "INVALID_SOURCE_IP", "icmp"),
        ("DROPPED", "POLICY_DENIED", "tcp"),
    ]
    assert told[0]["node"] == "kind-worker"
    old = rows(b'{"flow":{"time":"2021-01-01T00:00:00Z","verdict":"DROPPED","drop_reason":133}}\n')
    assert old[0]["drop_reason"] == "133"


def test_a_field_mask_may_leave_anything_out() -> None:
    told = rows(b'{"flow":{"time":"2025-07-26T18:46:58.5Z","source":{}}}\n{"flow":{},"time":"2025-07-26T18:46:58Z"}\n')
    assert [row["time_ns"] for row in told] == [1753555618_500000000, 1753555618_000000000]
    assert told[0]["source_pod"] is None
    assert hubble.decode(b'{"flow":{}}\n').lost == [("flow without a time", 1, None, None)]


def test_a_bare_flow_of_old_versions_is_understood() -> None:
    told = rows(b'{"time":"2020-01-01T00:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1"},"node_name":"n"}\n')
    assert (told[0]["source_address"], told[0]["node"]) == ("10.0.0.1", "n")


def test_other_lines_are_no_flows_and_lost_events_are_losses() -> None:
    decoded = hubble.decode(
        b'{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"9","first":"2025-01-01T00:00:00Z"}}\n'
        b'{"node_status":{"state_change":"NODE_CONNECTED"},"node_name":"n"}\n{"agent_event":{"type":"X"}}\nbroken\n'
    )
    assert decoded.flows.num_rows == 0
    assert decoded.others == 2
    assert ("hubble lost them in HUBBLE_RING_BUFFER", 9, 1735689600_000000000, None) in decoded.lost
    assert ("malformed line", 1, None, None) in decoded.lost


def test_numbers_may_be_texts_and_the_reverse() -> None:
    told = rows(
        b'{"flow":{"time":"2025-01-01T00:00:00Z","l7":{"latency_ns":5,"http":{"code":"200"}},"IP":7}}\n'
        b'{"flow":{"time":"2025-01-01T00:00:00Z","l7":{"latency_ns":"18446744073709551615"}}}\n'
    )
    assert [(row["latency_ns"], row["http_status"]) for row in told] == [(5, 200), (None, None)]


def test_only_this_nodes_times_are_moved_to_node_time() -> None:
    block = b"".join(b'{"flow":{"time":"2025-01-01T00:00:00Z"},"node_name":"c/%b"}\n' % node for node in (b"a", b"b"))
    times = hubble.decode(block, "a", 7).flows.column("time_ns").to_pylist()
    assert times == [1735689600_000000007, 1735689600_000000000]


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=300))
def test_random_bytes_never_fail(noise: bytes) -> None:
    decoded = hubble.decode(noise)
    assert decoded.flows.schema == hubble.FLOW.arrow


NAMES = st.sampled_from(["flow", "time", "l4", "l7", "http", "headers", "TCP", "flags", "lost_events", "uuid"])
LEAVES = st.none() | st.booleans() | st.integers() | st.text()
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=20)


@settings(deadline=None, max_examples=40)
@given(ANYTHING)
def test_json_of_any_shape_never_fails(thing: Any) -> None:
    try:
        line = orjson.dumps(thing)
    except TypeError:  # An integer beyond 64 bit, or half a surrogate pair.
        return
    hubble.decode(line + b"\n" + b'{"flow":{"time":"2025-01-01T00:00:00Z"}}\n')


def test_grpc_says_what_the_file_says(shared_data: Path, tmp_path: Path) -> None:
    for name in ("basic-sample-348-http-flows", "basic-sample-400-tcp-flows", "basic-sample-400-icmpv4-flows"):
        file = shared_data / f"hubble/hubble-otel/{name}.json"
        messages = [each.SerializeToString() for each in responses(file)]
        seen = Seen()
        where = context(tmp_path, seen, name)
        resume = hubble.stream.Resume(where)
        block = list(hubble._blocks(messages, resume, where))[-1].lines
        told, known = hubble.decode(block).flows, hubble.decode(file.read_bytes()).flows
        assert told.num_rows == len({*messages})
        if told.num_rows == known.num_rows:
            assert pa.Table.from_batches([told]).equals(pa.Table.from_batches([known]))


def certificate(directory: Path) -> tuple[bytes, bytes, Path]:
    """A key and a certificate for relay.test, made now."""
    key, chain = directory / "key.pem", directory / "ca.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=relay.test "
        f"-addext subjectAltName=DNS:relay.test -keyout {key} -out {chain}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return key.read_bytes(), chain.read_bytes(), chain


Stream = Callable[[bytes, Any], Iterator[bytes]]


def relay_double(flows: list[GetFlowsResponse], cuts: list[int], asked: list[GetFlowsRequest]) -> Stream:
    """Hubble Relay as recorded: tells the flows since the time asked for, and breaks off after each number of `cuts`."""

    def get_flows(request: bytes, call: Any) -> Iterator[bytes]:
        wanted = GetFlowsRequest.FromString(request)
        asked.append(wanted)
        since = wanted.since.ToNanoseconds() if len(asked) > 1 else 0
        limit = cuts.pop(0) if cuts else None
        yield GetFlowsResponse(node_status={"state_change": 1, "node_names": ["n"]}).SerializeToString()
        for sent, each in enumerate(flows):
            if limit is not None and sent >= limit:
                yield b"\xff\xff garbage"
                call.abort(grpc.StatusCode.UNAVAILABLE, "agent restarts")
            if each.flow.time.ToNanoseconds() >= since:
                yield each.SerializeToString()
        yield GetFlowsResponse(lost_events={"source": 3, "num_events_lost": 17}).SerializeToString()
        ended = threading.Event()
        if call.add_callback(ended.set):
            ended.wait(30)

    return get_flows


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_stream_over_tls_that_breaks_is_continued_without_gaps_or_doubles(shared_data: Path, tmp_path: Path) -> None:
    flows = responses(shared_data / HTTP)
    for each in flows:
        each.flow.uuid = str(uuid.uuid4())
    key, chain, ca = certificate(tmp_path)
    asked: list[GetFlowsRequest] = []
    seen = Seen()
    double = relay_double(flows, [100, 200], asked)
    with grpc_double({"/observer.Observer/GetFlows": double}, certificate=(key, chain)) as address:
        where = context(
            tmp_path, seen, "hubble", hubble_address=address, hubble_tls_ca=str(ca), hubble_tls_name="relay.test"
        )
        assert hubble.check(where.settings) is None
        with running(hubble, where, seen):
            until(lambda: len(seen.rows("flow")) >= 348 and "hubble lost them in HUBBLE_RING_BUFFER" in seen.lost())
    uids = [row["flow_uid"] for row in seen.rows("flow")]
    assert sorted(uids) == sorted(each.flow.uuid for each in flows)
    assert len(asked) == 3
    assert seen.lost() == {"disconnected": 2, "malformed message": 2, "hubble lost them in HUBBLE_RING_BUFFER": 17}
    again = Seen()
    with grpc_double({"/observer.Observer/GetFlows": relay_double(flows, [], asked)}) as address:
        where = context(tmp_path, again, "hubble", hubble_address=address)
        with running(hubble, where, again):
            until(lambda: bool(again.lost()))
    assert again.rows("flow") == [], "a restart of the collector tells nothing twice"


def test_a_ring_that_rolled_over_while_away_is_a_counted_gap(shared_data: Path, tmp_path: Path) -> None:
    flows = responses(shared_data / HTTP)
    asked: list[GetFlowsRequest] = []
    seen = Seen()
    calls: list[int] = []

    def double(request: bytes, call: Any) -> Iterator[bytes]:
        calls.append(1)
        first = len(calls) == 1
        yield from relay_double(flows[:60] if first else flows[300:], [50] if first else [], asked)(request, call)

    with grpc_double({"/observer.Observer/GetFlows": double}) as address:
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with running(hubble, where, seen):
            until(lambda: "gap between two streams" in seen.lost())
    assert seen.lost()["gap between two streams"] == 1


def test_a_flood_of_flows_is_taken_whole(shared_data: Path, tmp_path: Path) -> None:
    flows = responses(shared_data / HTTP) * 20
    messages = []
    for number, each in enumerate(flows):
        each.flow.uuid = str(number)
        messages.append(each.SerializeToString())
    seen, calls = Seen(), []

    def flood_double(request: bytes, call: Any) -> Iterator[bytes]:
        calls.append(1)
        if len(calls) == 1:
            yield from messages
        ended = threading.Event()
        if call.add_callback(ended.set):
            ended.wait(30)

    with grpc_double({"/observer.Observer/GetFlows": flood_double}) as address:
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with running(hubble, where, seen):
            until(lambda: sum(batch.rows.num_rows for batch in seen.batches) >= len(messages), 60)
    assert len({row["flow_uid"] for row in seen.rows("flow")}) == len(messages) == 6960
    assert seen.lost() == {}


def test_a_peer_that_is_no_hubble_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    seen = Seen()
    with grpc_double({}) as address:
        where = context(tmp_path, seen, "hubble", hubble_address=address)
        with pytest.raises(hubble.stream.SourceError, match="UNIMPLEMENTED"):
            list(hubble.run(where))


def test_an_exporters_file_is_followed_through_rotations_and_a_restart(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / HTTP).read_bytes().splitlines(keepends=True)
    file = tmp_path / "events.log"
    file.write_bytes(b"".join(lines[:50]))
    seen = Seen()
    where = context(tmp_path, seen, "hubble", hubble_file=str(file))
    assert hubble.check(where.settings) is None
    with running(hubble, where, seen):
        until(lambda: len(seen.rows("flow")) == 50)
        with file.open("ab") as out:
            out.write(lines[50][:40])
            out.flush()
            out.write(lines[50][40:])
        os.rename(file, tmp_path / "events-2025-07-26T17-35-12.598.log")
        file.write_bytes(b"".join(lines[51:100]))
        until(lambda: len(seen.rows("flow")) == 100)
    with file.open("ab") as out:
        out.write(b"".join(lines[100:150]))
    os.rename(file, tmp_path / "events-2025-07-26T18-35-12.598.log")
    (tmp_path / "events-2025-07-26T16-35-12.598.log.gz").write_bytes(gzip.compress(b"old"))
    file.write_bytes(b"".join(lines[150:]))
    where = context(tmp_path, seen, "hubble", hubble_file=str(file))
    with running(hubble, where, seen):
        until(lambda: len(seen.rows("flow")) == 348)
    known = hubble.decode(b"".join(lines)).flows.to_pylist()
    assert [row["request_id"] for row in seen.rows("flow")] == [row["request_id"] for row in known]
    assert seen.lost() == {}


def test_what_was_rotated_away_unread_is_counted(tmp_path: Path) -> None:
    file, seen = tmp_path / "events.log", Seen()
    line = orjson.dumps({"flow": {"time": datetime.datetime.now(datetime.UTC).isoformat(), "uuid": "a"}}) + b"\n"
    file.write_bytes(line)
    for expected in (1, 2):
        where = context(tmp_path, seen, "hubble", hubble_file=str(file))
        with running(hubble, where, seen):
            until(lambda wanted=expected: len(seen.rows("flow")) == wanted)
        file.unlink()
        file.write_bytes(line.replace(b'"a"', b'"b"'))
    assert seen.lost() == {"rotated away before it was read": 1}


def test_a_node_without_hubble_says_so_in_a_line() -> None:
    assert hubble.check(Settings(hubble_address="unix:///nowhere.sock")) == (
        "unix:///nowhere.sock: Hubble does not answer; switch it on in Cilium, or set hubble_address or hubble_file"
    )
