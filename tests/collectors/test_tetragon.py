"""Tetragon's events: every real line goes through, from files and over gRPC; what has no real line is synthetic."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import tetragon
from collectors.identity import proc
from collectors.wire import secrets, tail
from collectors.wire.tetragon_pb2 import GetEventsResponse
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running
from tests.waiting import until
from warpline.settings import Settings

BOOK = "tetragon/events/book-events.jsonl"


def read(
    block: bytes, decoder: tetragon.Decoder | None = None, shifts: tail.Shifts = (0, 0)
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    batches, lost = (decoder or tetragon.Decoder()).decode(block, shifts)
    return {batch.table.name: batch.rows.to_pylist() for batch in batches}, lost


def line(**event: Any) -> bytes:
    return orjson.dumps(event) + b"\n"


def process(pid: int = 7, start_ns: int = 5_000_000_000, node: str = "n", **more: Any) -> dict[str, Any]:
    exec_id = base64.b64encode(f"{node}:{start_ns}:{pid}".encode()).decode()
    return {"exec_id": exec_id, "pid": pid, "start_time": "2025-01-01T00:00:00Z", "binary": "/bin/x", **more}


def test_every_real_line_becomes_an_event(shared_data: Path) -> None:
    kinds: dict[str, int] = {}
    for file in sorted((shared_data / "tetragon/events").glob("*.jsonl")):
        block = file.read_bytes()
        rows, lost = read(block)
        events = rows["process_event"]
        assert block.count(b"\n") + (not block.endswith(b"\n")) == len(events) + sum(lost.values()), (file.name, lost)
        assert sum(lost.values()) == 0
        for event in events:
            kinds[event["kind"]] = kinds.get(event["kind"], 0) + 1
    text = "".join(file.read_text() for file in (shared_data / "tetragon/events").glob("*.jsonl")).splitlines()
    told = [next(iter(orjson.loads(each))).removeprefix("process_") for each in text]
    assert kinds == {kind: told.count(kind) for kind in {*told}}


def test_an_exit_is_read_as_by_hand(shared_data: Path) -> None:
    rows, _ = read((shared_data / BOOK).read_bytes())
    pair = [row for row in rows["process"] if row["pid"] == 115153]
    assert [row["end_ns"] for row in pair] == [None, 1642609742_515000000]
    assert {row["start_ns"] for row in pair} == {1642609741_861000000}
    assert pair[0]["process_uid"] == proc.process_uid("minikube", 10575728350079, 115153)
    assert pair[0]["parent_uid"] == proc.process_uid("minikube", 10556016874355, 114757)
    assert pair[0]["container_id"] == "86eb9e29a77d432afc7a15b424db1d24a382f3caae26f860ab22df8cb5e96054"
    assert (pair[0]["pod"], pair[0]["namespace"]) == ("elasticsearch-56f8fc6988-pb8c7", "tenant-jobs")
    assert (pair[0]["executable"], pair[0]["runtime"], pair[0]["arguments"]) == ("/usr/bin/curl", "docker", None)
    event = next(row for row in rows["process_event"] if row["kind"] == "exit" and row["pid"] == 115153)
    assert (event["exit_status"], event["signal"]) == (0, None)


def test_a_hooks_buffers_are_never_kept(shared_data: Path) -> None:
    rows, _ = read((shared_data / BOOK).read_bytes())
    hooks = [row for row in rows["process_event"] if row["kind"] == "kprobe"]
    assert hooks
    assert hooks[0]["name"] == "__x64_sys_write"
    assert hooks[0]["action"] == "post"
    details = orjson.loads(hooks[0]["details"])
    assert details == {"args": [{"file_arg": {"path": "etc/passwd"}}, {}, {"size_arg": "627"}]}
    assert "bytes" not in "".join(row["details"] or "" for row in hooks)


def test_a_loaders_file_is_its_name_in_old_and_new_form(shared_data: Path) -> None:
    rows, _ = read((shared_data / "tetragon/events/process_loader-pr538.jsonl").read_bytes())
    assert rows["process_event"][0]["name"] == "/usr/lib64/ld-linux-x86-64.so.2"
    rows, _ = read(line(process_loader={"process": process(), "path": "/lib/libcuda.so"}, time="2025-01-01T00:00:01Z"))
    assert rows["process_event"][0]["name"] == "/lib/libcuda.so"


def test_synthetic_events_of_every_other_kind_are_understood() -> None:
    hook = {"process": process(), "policy_name": "cuda", "action": "KPROBE_ACTION_POST"}
    rows, lost = read(
        line(
            process_uprobe={**hook, "path": "/lib/libcudart.so", "symbol": "cudaLaunchKernel"},
            time="2025-01-01T00:00:01Z",
        )
        + line(process_tracepoint={**hook, "subsys": "sched", "event": "sched_switch"}, time="2025-01-01T00:00:01Z")
        + line(process_usdt={**hook, "provider": "python", "name": "gc__start"}, time="2025-01-01T00:00:01Z")
        + line(process_lsm={**hook, "function_name": "file_open"}, time="2025-01-01T00:00:01Z")
        + line(process_exit={"process": process(), "signal": "SIGKILL"}, time="2025-01-01T00:00:01Z")
        + line(process_exit={"process": process(), "status": 3}, time="2025-01-01T00:00:01Z")
        + line(process_throttle={"type": "THROTTLE_START", "cgroup": "kubepods"}, time="2025-01-01T00:00:01Z")
        + line(test={"arg0": "1"}, time="2025-01-01T00:00:01Z")
        + line(rate_limit_info={"number_of_dropped_process_events": "41"}, time="2025-01-01T00:00:01Z")
        + line(process_future={"process": process()}, time="2025-01-01T00:00:01Z")
        + line(process_exec={"process": {**process(), "start_time": None}})
        + b"{broken\n"
    )
    assert [(row["kind"], row["name"], row["exit_status"]) for row in rows["process_event"]] == [
        ("uprobe", "cudaLaunchKernel", None),
        ("tracepoint", "sched/sched_switch", None),
        ("usdt", "python/gc__start", None),
        ("lsm", "file_open", None),
        ("exit", "SIGKILL", None),
        ("exit", None, 3),
        ("throttle", "THROTTLE_START", None),
        ("test", None, None),
    ]
    assert {row["policy"] for row in rows["process_event"]} == {"cuda", None}
    assert lost == {
        "malformed line": 1,
        "tetragon's rate limit": 41,
        "unknown event": 1,
        "event without a time": 1,
    }


def test_boottime_becomes_node_time_for_this_nodes_processes(tmp_path: Path) -> None:
    where = context(tmp_path, Seen())
    decoder, shifts = tetragon.Decoder("n"), tail.shifts(where)
    earliest = where.clock.now_ns()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    latest = where.clock.now_ns()
    rows, _ = read(
        line(process_exec={"process": process(start_ns=before)}, node_name="n", time="2025-01-01T00:00:01Z")
        + line(
            process_exec={"process": process(start_ns=before, node="m")}, node_name="m", time="2025-01-01T00:00:01Z"
        ),
        decoder,
        shifts,
    )
    assert earliest - 1_000_000 <= rows["process"][0]["start_ns"] <= latest + 1_000_000
    assert rows["process"][1]["start_ns"] == 1735689600_000000000


def test_a_living_process_has_the_uid_that_other_sources_give_it() -> None:
    me = proc.stat(os.getpid())
    assert me is not None
    later = me.start_since_boot_ns + 3_000_000_000
    told = line(process_exec={"process": process(os.getpid(), later)}, node_name="n", time="2025-01-01T00:00:01Z")
    rows, _ = read(told, tetragon.Decoder("n"))
    assert rows["process"][0]["process_uid"] == proc.process_uid("n", me.start_since_boot_ns, os.getpid())
    rows, _ = read(told, tetragon.Decoder("elsewhere"))
    assert rows["process"][0]["process_uid"] == proc.process_uid("n", later, os.getpid())


def test_arguments_are_kept_only_when_asked_and_without_secrets() -> None:
    told = line(
        process_exec={"process": process(arguments="serve m --api-key=abc --max-tokens 5")}, time="2025-01-01T00:00:01Z"
    )
    rows, _ = read(told, tetragon.Decoder(keep_arguments=True))
    assert rows["process"][0]["arguments"] == "serve m --api-key=*** --max-tokens 5"
    assert read(told)[0]["process"][0]["arguments"] is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("--hf-token hf_abcdefghijklmnopqrst", "--hf-token ***"),
        ("HF_TOKEN=abc vllm serve", "HF_TOKEN=*** vllm serve"),
        ("--tokenizer m --max-num-batched-tokens 8192", "--tokenizer m --max-num-batched-tokens 8192"),
        ("--otlp http://user:pw@host:4317", "--otlp http://***@host:4317"),
        ('{"password": "x y"}', '{"password": ***}'),
        ("--quantization fp8 --enable-secretless", "--quantization fp8 --enable-secretless"),
        ("-H Authorization: Bearer abc", "-H Authorization: ***"),
        ("--token-limit 5", "--token-limit 5"),
    ],
)
def test_secrets_are_masked_and_token_counts_are_not(text: str, wanted: str) -> None:
    assert secrets.masked(text) == wanted


ODD_IDS = st.text().map(lambda text: orjson.dumps({"process_exec": {"process": {"exec_id": text}}, "time": text}))


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=200) | ODD_IDS)
def test_random_lines_never_fail(noise: bytes) -> None:
    read(noise)


def test_grpc_says_what_the_file_says_through_disconnects(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / BOOK).read_text().splitlines()
    events = [json_format.Parse(each, GetEventsResponse(), ignore_unknown_fields=True) for each in lines]
    seen, calls = Seen(), []

    def agent_double(request: bytes, call: Any) -> Iterator[bytes]:
        calls.append(1)
        part = events[:10] if len(calls) == 1 else events[10:]
        for each in part:
            yield each.SerializeToString()
        if len(calls) == 1:
            yield b"\xff\xff\xff"
            call.abort(grpc.StatusCode.UNAVAILABLE, "restart")
        yield GetEventsResponse(rate_limit_info={"number_of_dropped_process_events": 5}).SerializeToString()

    with grpc_double({"/tetragon.FineGuidanceSensors/GetEvents": agent_double}, f"unix:{tmp_path}/t.sock") as address:
        where = context(tmp_path, seen, "tetragon", tetragon_address=address)
        assert tetragon.check(where.settings) is None
        with running(tetragon, where, seen):
            until(lambda: "tetragon's rate limit" in seen.lost())
    known, _ = read((shared_data / BOOK).read_bytes())
    assert seen.rows("process_event")[: len(events)] == known["process_event"]
    lost = seen.lost()
    assert lost["malformed message"] == 1
    assert lost["disconnected"] >= 1


def test_a_hundred_times_the_usual_events_are_taken_whole(shared_data: Path, tmp_path: Path) -> None:
    lines = (shared_data / BOOK).read_text().splitlines()
    events = [json_format.Parse(each, GetEventsResponse(), ignore_unknown_fields=True) for each in lines]
    messages = [each.SerializeToString() for each in events] * 100
    seen = Seen()

    def flood_double(request: bytes, call: Any) -> Iterator[bytes]:
        yield from messages
        while call.is_active():
            time.sleep(0.05)

    with grpc_double({"/tetragon.FineGuidanceSensors/GetEvents": flood_double}, f"unix:{tmp_path}/t.sock") as address:
        where = context(tmp_path, seen, "tetragon", tetragon_address=address)
        with running(tetragon, where, seen):
            until(lambda: len(seen.rows("process_event")) >= len(messages), 60)
    assert len(seen.rows("process_event")) == len(messages) == 2900
    assert seen.lost() == {}


def test_an_export_file_is_followed(shared_data: Path, tmp_path: Path) -> None:
    file, seen = tmp_path / "tetragon.log", Seen()
    file.write_bytes((shared_data / BOOK).read_bytes())
    where = context(tmp_path, seen, "tetragon", tetragon_file=str(file))
    with running(tetragon, where, seen):
        until(lambda: len(seen.rows("process_event")) >= 29)
    assert len(seen.rows("process_event")) == 29


def test_a_node_without_tetragon_says_so_in_a_line() -> None:
    assert tetragon.check(Settings(tetragon_address="unix:///nowhere.sock")) == (
        "unix:///nowhere.sock: Tetragon does not answer; install it, or set tetragon_address or tetragon_file"
    )
