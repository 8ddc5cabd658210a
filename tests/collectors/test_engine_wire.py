"""The engine's messages, read off its sockets, against what the engine itself wrote down."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from collectors import engine_step, engine_wire
from correlator.joins.membership import from_wire
from demo import load
from demo.engine import MODEL, launch
from tests.collectors.conftest import Caught
from tests.collectors.gpu_doubles import Watcher, needs_compiler, watching
from tests.collectors.unshared import child, unshare
from tests.waiting import until
from warpline import schema

pytestmark = [pytest.mark.needs_bpf, needs_compiler]
ENGINE = "demo.engine.core"


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def fault(url: str, **values: float) -> None:
    request = urllib.request.Request(f"{url}/demo/fault", json.dumps(values).encode(), method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def reading(directory: Path) -> Iterator[Watcher]:
    """The source, once it is attached."""
    with watching(engine_wire, directory, engine_wire_executables=ENGINE) as wire:
        until = time.monotonic() + 60
        while not wire.batches and time.monotonic() < until:
            time.sleep(0.02)
        yield wire


def table(wire: Watcher, name: str, pid: int) -> pa.Table:
    """The rows that the wire gave of one engine: others may run on this machine."""
    found = [batch.rows for batch in list(wire.batches) if batch.table.name == name]
    mine = [rows for rows in found if rows.num_rows and rows["process_uid"][0].as_py().endswith(f":{pid}")]
    return pa.Table.from_batches(mine, schema.table(name).arrow)


def ended(wire: Watcher, pid: int) -> int:
    """Requests of an engine of which the wire has told that they ended."""
    rows = table(wire, "engine_request", pid)
    return len(set(rows.filter(pc.is_valid(rows["end_ns"]))["internal_id"].to_pylist()))


@dataclass
class Run:
    """One served load: what the API server logged, what the plugin wrote, what the wire told."""

    log: list[dict[str, Any]]
    steps: Watcher
    wire: Watcher
    engine_pid: int

    def worked(self) -> list[dict[str, Any]]:
        """The engine's own steps in their order, less those that only tidied up: they send nothing."""
        steps = [row for row in self.steps.rows("engine_step") if row["rank"] is None and row["scheduled_tokens"]]
        return sorted(steps, key=lambda row: row["ordinal"])

    def rows(self, name: str) -> list[dict[str, Any]]:
        return table(self.wire, name, self.engine_pid).to_pylist()


def serve(directory: Path, requests: int, in_flight: int, **faults: float) -> Run:
    with (
        watching(engine_step, directory) as steps,
        reading(directory) as wire,
    ):
        with launch.start(directory) as server:
            if faults:
                fault(server.url, **faults)
            sent = asyncio.run(load.run(server.url, requests, in_flight, model=MODEL))
            assert [each.status for each in sent] == [200] * requests
            log, pid = get(f"{server.url}/demo/log"), server.engine_pid
        time.sleep(0.3)
    return Run(log, steps, wire, pid)


@pytest.fixture(scope="module")
def run(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return serve(tmp_path_factory.mktemp("wire"), 97, 13)


def test_every_message_of_the_engine_is_found_and_numbered(run: Run) -> None:
    steps = run.worked()
    messages = run.rows("engine_message")
    assert [row["message"] for row in messages] == list(range(1, len(messages) + 1))
    assert len(messages) == len(steps) > 97
    assert [row["context_tokens"] + row["generation_tokens"] for row in messages] == [
        row["scheduled_tokens"] for row in steps
    ]
    assert run.wire.losses() == {}


def test_every_token_of_every_request_is_counted(run: Run) -> None:
    tokens: Counter[str] = Counter()
    for row in run.rows("engine_emission"):
        tokens[row["internal_id"]] += row["new_tokens"]
    last = {row["internal_id"]: row for row in run.rows("engine_request")}
    assert len(last) == 97
    assert Counter(tokens.values()) == Counter(each["chunks"] for each in run.log)
    for internal_id, row in last.items():
        assert row["output_tokens"] == tokens[internal_id]
        assert row["finish_reason"] == "length" and row["start_ns"] < row["end_ns"]
    assert Counter(row["prompt_tokens"] for row in last.values()) == Counter(e["prompt_tokens"] for e in run.log)


def test_a_request_has_its_ids_and_its_trace(run: Run) -> None:
    last = {row["internal_id"]: row for row in run.rows("engine_request")}
    for internal_id, row in last.items():
        assert internal_id.startswith(row["external_id"])
        assert row["trace_id"] is not None and row["parent_span_id"]
        assert row["process_uid"].endswith(f":{run.engine_pid}")
        assert row["simulated"] and row["observed_by"] == "engine_wire"


def test_events_are_in_the_order_of_a_requests_life(run: Run) -> None:
    by_request: dict[str, list[tuple[int, str]]] = {}
    for row in run.rows("engine_event"):
        by_request.setdefault(row["internal_id"], []).append((row["time_ns"], row["kind"]))
    assert len(by_request) == 97
    for events in by_request.values():
        assert [kind for _, kind in sorted(events)] == ["queued", "scheduled", "first_token", "finished"]


def test_the_step_ledger_replayed_from_the_wire_is_the_plugins(run: Run) -> None:
    tables = [
        table(run.wire, name, run.engine_pid)
        for name in ("engine_message", "engine_emission", "engine_event", "engine_request")
    ]
    replayed = from_wire(*tables, budget=512).to_pylist()
    told = run.steps.rows("step_member")
    number = {step["ordinal"]: place + 1 for place, step in enumerate(run.worked())}
    mine = Counter((row["step_ordinal"], row["internal_id"], row["scheduled_tokens"]) for row in replayed)
    truth = Counter((number[row["step_ordinal"]], row["internal_id"], row["scheduled_tokens"]) for row in told)
    assert (mine & truth).total() >= 0.97 * truth.total()


def test_preempted_requests_are_seen_to_leave_and_to_come_back(bpf: None, tmp_path: Path) -> None:
    run = serve(tmp_path, 17, 17, kv_blocks=24)
    kinds = Counter(row["kind"] for row in run.rows("engine_event"))
    truth = Counter(row["kind"] for row in run.steps.rows("engine_event"))
    assert kinds["preempted"] == kinds["resumed"] == truth["preempted"] > 0
    messages = run.rows("engine_message")
    assert sum(row["preempted_requests"] for row in messages) == kinds["resumed"]
    again = sum(row["recomputed_tokens"] or 0 for row in run.steps.rows("step_member"))
    assert sum(row["preempted_queried_tokens"] - row["preempted_hit_tokens"] for row in messages) >= again > 0


def test_a_late_probe_joins_at_the_next_message(bpf: None, tmp_path: Path) -> None:
    with launch.start(tmp_path) as server:
        asyncio.run(load.run(server.url, 3, 3, model=MODEL))
        with reading(tmp_path) as wire:
            asyncio.run(load.run(server.url, 7, 7, model=MODEL))
            log = get(f"{server.url}/demo/log")[-7:]
            until(lambda: ended(wire, server.engine_pid) == 7)
    last = {row["internal_id"]: row for row in table(wire, "engine_request", server.engine_pid).to_pylist()}
    assert len(last) == 7
    assert Counter(row["output_tokens"] for row in last.values()) == Counter(each["chunks"] for each in log)
    assert wire.losses() == {}


def test_no_content_leaves_the_collector(bpf: None, tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with reading(tmp_path) as wire, launch.start(tmp_path) as server:
        body = json.dumps({"prompt": f"{mark} " * 5, "max_tokens": 3}).encode()
        request = urllib.request.Request(
            f"{server.url}/v1/completions", body, {"content-type": "application/json", "x-request-id": "kept"}
        )
        urllib.request.urlopen(request, timeout=10).close()
        until(lambda: table(wire, "engine_emission", server.engine_pid).num_rows == 3)
    assert len(table(wire, "engine_emission", server.engine_pid)) == 3
    for batch in wire.batches:
        assert mark not in str(batch.rows.to_pydict())
        assert not {"prompt_token_ids", "new_token_ids"} & set(batch.rows.schema.names)


SENDER = """
import sys, msgspec, zmq
socket = zmq.Context().socket(zmq.PUSH)
print("ready", flush=True)
encode = msgspec.msgpack.encode
for number, line in enumerate(sys.stdin):
    if not number:  # Only now: who joins a stream later has its first messages not.
        socket.connect(sys.argv[1])
    count, elements, padding = map(int, line.split())
    for number in range(count):
        ids = [7] * padding
        output = ["r", ids, *[None] * (elements - 2)]
        output[11:14] = [None, None, 0]
        socket.send(encode([0, [output], None, 1.5, None, None, None, None, None]))
    print("sent", flush=True)
"""


class Sender:
    """A process that sends outputs as an engine does, and the end that reads them."""

    def __init__(self, directory: Path, before: Sequence[str]) -> None:
        import zmq

        self.context = zmq.Context()
        self.door = self.context.socket(zmq.PULL)
        self.door.set_hwm(0)
        address = f"ipc://{directory}/out"
        self.door.bind(address)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", SENDER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers("ready")

    def _answers(self, word: str) -> None:
        assert self.process.stdout and self.process.stdout.readline().strip() == word

    def send(self, count: int, elements: int = 19, padding: int = 1) -> None:
        """Send `count` messages of one output, and return when all of them have come."""
        assert self.process.stdin
        self.process.stdin.write(f"{count} {elements} {padding}\n")
        self.process.stdin.flush()
        for _ in range(count):
            assert self.door.poll(10_000)
            self.door.recv()
        self._answers("sent")

    def close(self) -> None:
        self.process.communicate()
        self.context.destroy(linger=0)


@contextmanager
def sending(directory: Path, before: Sequence[str] = ()) -> Iterator[Sender]:
    """A sender; `before` is what stands before its command."""
    sender = Sender(directory, before)
    try:
        yield sender
    finally:
        sender.close()


@contextmanager
def probing(caught: Caught, **defines: int) -> Iterator[engine_wire.Probe]:
    caught.emitted.clear()
    probe = engine_wire.Probe(caught.context, defines)
    try:
        yield probe
    finally:
        probe.close()


def emitted(probe: engine_wire.Probe, wanted: int = 0) -> list[dict[str, Any]]:
    """What the probe tells until it has told `wanted` rows; a moment's worth where it is to tell none."""
    found: list[pa.RecordBatch] = []
    deadline = time.monotonic() + 20
    while True:
        time.sleep(0.1)  # A message may have come before the call that sent it has ended.
        found += [b.rows for b in probe.poll() if b.table.name == "engine_emission"]
        if sum(rows.num_rows for rows in found) >= wanted or time.monotonic() > deadline:
            return pa.Table.from_batches(found, schema.table("engine_emission").arrow).to_pylist()


def test_20011_messages_of_every_size_come_whole_and_in_order(bpf: None, caught: Caught, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    with probing(caught) as probe, sending(tmp_path) as sender:
        probe.targets.watch(sender.process.pid)
        for count, padding in ((10_007, 1), (9_001, 17), (996, 3_000), (7, 100_003)):
            for _ in range(count // 500):
                sender.send(500, padding=padding)
                rows += emitted(probe, 500)
            sender.send(count % 500, padding=padding)
            rows += emitted(probe, count % 500)
    assert [row["message"] for row in rows] == list(range(1, 20_012))
    assert Counter(row["new_tokens"] for row in rows) == {1: 10_007, 17: 9_001, 3_000: 996, 100_003: 7}
    assert caught.losses() == {}


def test_an_engine_in_a_time_namespace_has_the_nodes_times(bpf: None, caught: Caught, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    offset = unshare("--time", "--monotonic", "3600", "--fork", "--kill-child")
    with probing(caught) as probe, sending(tmp_path, offset) as sender:
        probe.targets.watch(child(sender.process.pid))
        sender.send(3)

        def told() -> bool:
            found.extend(r for b in probe.poll() if b.table.name == "engine_message" for r in b.rows.to_pylist())
            return len(found) == 3

        until(told)
    at = 1_500_000_000 + caught.context.clock.anchor_ns - 3_600_000_000_000
    assert {row["engine_time_ns"] for row in found} == {at}


def test_an_unknown_layout_is_counted_and_its_socket_left_alone(bpf: None, caught: Caught, tmp_path: Path) -> None:
    with probing(caught) as probe, sending(tmp_path) as sender:
        probe.targets.watch(sender.process.pid)
        sender.send(19, elements=21)
        until(lambda: emitted(probe) == [] and caught.losses() == {"engine wire: unknown layout": 19})
        sender.send(23, elements=21)
        assert emitted(probe) == []
        assert caught.losses() == {"engine wire: unknown layout": 19}


def test_what_a_full_ring_loses_is_counted_and_the_rest_is_right(bpf: None, caught: Caught, tmp_path: Path) -> None:
    with probing(caught, CHUNK_PAGES=16) as probe, sending(tmp_path) as sender:
        probe.targets.watch(sender.process.pid)
        sender.send(5, padding=3)
        before = emitted(probe, 5)
        sender.send(997, padding=1_009)
        emitted(probe)
        sender.send(11, padding=307)
        after = emitted(probe, 11)
        made = probe.tally.made(engine_wire.LOSSES[1])
        seen = probe.chunks.seen
    assert [row["new_tokens"] for row in before] == [3] * 5
    assert [row["new_tokens"] for row in after] == [307] * 11
    assert made == seen + caught.losses()["engine wire: ring full"]
    assert after[0]["message"] > 6
