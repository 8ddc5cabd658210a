"""Nothing of a request's content leaves the collector: marked prompts and answers, on every way that the Linux kernel sees.

A real collector watches a real server, its clients and an engine (marked_traffic.py); its OTLP output goes by a relay to a
real correlator. Searched are every byte of the relay's requests, of both spools, of the store's files, of logs and of
/metrics, and their rows as Arrow, because compression and columns hide texts. What is told by design, the ids of the same
requests, is searched for alike and has to be found: a search that finds nothing else can find something.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import urllib3
from hpack import Encoder
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from correlator.storage.store import Store
from tests import marked_traffic
from tests.collectors.tls_files import certificate
from tests.correlator.storing import small
from tests.faults.rig import Rig
from tests.marked_traffic import ANSWER, MARK_LENGTH, PROMPT, PROMPT_TOKENS, WAYS
from tests.waiting import until
from warpline import record, schema
from warpline.children import free_port

pytestmark = pytest.mark.needs_bpf
ROOT = Path(__file__).resolve().parent.parent
TRAFFIC = str(Path(marked_traffic.__file__))
SOURCES = "http_exchange,engine_wire,syscall,process"
"""Those that read memory of other processes."""
IDS = ("request_id", "external_id")


def plain(rows: pa.RecordBatch | pa.Table) -> bytes:
    """Rows as bytes that hide nothing: an Arrow stream without compression."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return bytes(sink.getvalue())


def hidden(mark: str) -> list[bytes]:
    """What a mark looks like as the ways write it: as it is, in UTF-16, hexadecimal, base64, and in HPACK's Huffman code."""
    text = mark.encode()
    coded = [base64.b64encode(b"x" * shift + text)[4:12] for shift in range(3)]
    return [text, mark.encode("utf-16-le"), text.hex().encode(), *coded, Encoder().encode([("x", mark)])[4:-1]]


def ids_of_tokens(token: int) -> list[bytes]:
    """A list of token ids as texts write it, and two of a kind in a row as msgpack and Arrow do: one alone may be a time."""
    texts = [f"[{token}", f"{token},{token}", f"{token}, {token}", f"{token} {token}"]
    numbers = [b"\xce" + token.to_bytes(4, "big"), token.to_bytes(4, "little"), token.to_bytes(8, "little")]
    return [*(each.encode() for each in texts), *(2 * each for each in numbers)]


@dataclass
class Place:
    """Somewhere that content could have come to: all of its bytes, and of its rows the ids, and the engine's counts."""

    bytes: list[bytes] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    counts: set[int] = field(default_factory=set)

    def add(self, content: bytes) -> None:
        self.bytes.append(content)

    def add_rows(self, rows: pa.RecordBatch | pa.Table) -> None:
        self.bytes.append(plain(rows))
        for name in set(IDS) & set(rows.schema.names):
            self.ids.update(each for each in rows.column(name).to_pylist() if each)
        if "internal_id" in rows.schema.names:
            numbers = [each.name for each in rows.schema if pa.types.is_integer(each.type) and "_ns" not in each.name]
            self.counts.update(each for name in numbers for each in rows.column(name).to_pylist())

    def add_files(self, directory: Path) -> None:
        """Every file; records of spools and of the flight recorder also as rows."""
        for path in (each for each in directory.rglob("*") if each.is_file() and each.parent.name != "bpf"):
            content = path.read_bytes()
            self.add(content)
            if path.suffix in (".spool", ".ring"):
                view = memoryview(content)
                for found in record.scan(view, 0):
                    self.add_rows(record.unpack(view[found.start + record.HEADER.size : found.end]).rows)

    def has(self, *forms: bytes) -> list[bytes]:
        """Which of `forms` are there."""
        return [form for form in forms if any(form in content for content in self.bytes)]

    def told(self, number: int) -> set[str]:
        """The ways of which this has a request of a round."""
        engine = {"engine"} if f"{number:04d}-3-0" in self.ids else set()
        return engine | {way for way in WAYS if f"{way}-{number}" in self.ids}


class Relay:
    """An OTLP door that keeps what comes and hands it on, or says `later` once it is shut."""

    def __init__(self, target: str) -> None:
        self.place, self.shut = Place(), False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.keep(self.path, body)
                kind = {"content-type": self.headers["content-type"]}
                status, said = 503, b""
                if not outer.shut:
                    answer = urllib3.request("POST", target + self.path, body=body, headers=kind, retries=False)
                    status, said = answer.status, answer.data
                self.send_response(status)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def keep(self, path: str, body: bytes) -> None:
        self.place.add(body)
        if path != "/v1/logs":
            return
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            for scope in resource.scope_logs:
                for told in scope.log_records:
                    with pa.ipc.open_stream(told.body.bytes_value) as reader:
                        self.place.add_rows(reader.read_all())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def talking(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One part of the traffic, ended with the block."""
    command = [sys.executable, TRAFFIC, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline().strip()
    assert line, f"{process.args} ended"
    return line


@contextmanager
def collecting(
    folder: Path, compiled: Path, endpoint: str, ports: list[str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A whole collector at its highest detail, and the address of its /metrics."""
    metrics = f"127.0.0.1:{free_port()}"
    settings = {
        "state_dir": folder, "node": "node-1", "collector_endpoint": endpoint, "collector_metrics_address": metrics,
        "collector_detail": 3, "http_ports": ",".join(ports), "engine_wire_executables": "marked_traffic.py",
    }  # fmt: skip
    (folder).mkdir()
    (folder / "bpf").symlink_to(compiled)  # What a test before this one compiled.
    named = {f"WARPLINE_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "warpline.cli", "collect", "--sources", SOURCES]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | named, cwd=ROOT, stderr=log, stdout=log)
    try:
        yield process, metrics
    finally:
        process.kill()
        process.wait()


@dataclass
class Found:
    """Where content could be, by name."""

    mark: str
    places: dict[str, Place]
    rounds: int


@pytest.fixture(scope="module")
def found(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    folder = tmp_path_factory.mktemp("content")
    (folder / "zmq").mkdir()
    compiled = tmp_path_factory.getbasetemp() / "bpf"
    compiled.mkdir(mode=0o700, exist_ok=True)
    mark = ("q" + secrets.token_hex(8))[:MARK_LENGTH]
    rig = Rig(folder / "correlator").start(correlator_store_delay_s=3600)  # What it takes stays in its spool for now.
    places = {name: Place() for name in ("otlp", "collector's files", "metrics", "correlator's spool", "database")}
    with ExitStack() as stack:
        stack.callback(rig.end)
        relay = Relay(rig.url)
        stack.callback(relay.close)
        server = stack.enter_context(talking("serve", mark, *certificate(folder)))
        ports = said(server).split()
        engine = stack.enter_context(talking("engine", mark, str(folder / "zmq")))
        clients = stack.enter_context(talking("ask", mark, *ports))
        assert (said(engine), said(clients)) == ("ready", "ready")
        collector, metrics = stack.enter_context(collecting(folder / "collector", compiled, relay.url, ports))
        rounds = 0

        def all_told() -> bool:
            """Make a round, and look whether all of one was told; the first may be over before its process was watched."""
            nonlocal rounds
            rounds += 1
            go(rounds, clients, engine)
            return any(relay.place.told(number) == set(WAYS) for number in range(1, rounds + 1))

        until(lambda: up(metrics) == SOURCES.count(",") + 1, 240)
        until(all_told, 240)
        relay.shut = True  # What comes now stays in the collector's queue.
        rounds += 1
        go(rounds, clients, engine)
        places["metrics"].add(urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10).read())
        collector.send_signal(signal.SIGTERM)
        collector.wait(60)
        places["otlp"] = relay.place
        places["collector's files"].add_files(folder / "collector")
        places["correlator's spool"].add_files(folder / "correlator" / "spool")
        rig.terminate()  # What it has taken is stored first.
    places["database"].add_files(folder / "correlator")
    places["database"].add((folder / "correlator.log").read_bytes())
    read_store(places["database"], folder / "correlator")
    yield Found(mark, places, rounds)


def up(metrics: str) -> int:
    """How many sources run."""
    try:
        text = urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10).read().decode()
    except OSError:
        return 0
    return sum(line.startswith("warpline_source_up{") and line.endswith(" 1.0") for line in text.splitlines())


def go(number: int, *processes: subprocess.Popen[str]) -> None:
    for each in processes:
        assert each.stdin
        each.stdin.write(f"{number}\n")
        each.stdin.flush()
    assert [said(each) for each in processes] == ["done"] * len(processes)


def read_store(place: Place, state_dir: Path) -> None:
    """Every table as the store shows it, and each that lies in one of its files."""
    store = Store(small(state_dir))
    place.ids.clear()
    for table in schema.TABLES:
        place.add_rows(store.query(f"SELECT * FROM {table.name}"))
    lying = store.query("SELECT database_name, schema_name, table_name FROM duckdb_tables() WHERE NOT internal")
    for database, name, table_name in zip(*(column.to_pylist() for column in lying.columns), strict=True):
        place.add(plain(store.query(f'SELECT * FROM "{database}"."{name}"."{table_name}"')))
    for segment in (state_dir / "store").rglob("*.parquet"):
        place.add(plain(store.query(f"SELECT * FROM read_parquet('{segment}')")))
    store.close()


@pytest.mark.parametrize("where", ["otlp", "collector's files", "metrics", "correlator's spool", "database"])
def test_no_content_is_found_anywhere(found: Found, where: str) -> None:
    place = found.places[where]
    assert place.bytes
    assert place.has(*hidden(found.mark)) == []
    assert place.has(*ids_of_tokens(PROMPT), *ids_of_tokens(ANSWER)) == []
    assert not {PROMPT, ANSWER} & place.counts


@pytest.mark.parametrize("where", ["otlp", "collector's files", "correlator's spool", "database"])
def test_what_is_told_of_the_same_requests_is_found_everywhere(found: Found, where: str) -> None:
    place = found.places[where]
    rounds = [place.told(number) for number in range(1, found.rounds + 1)]
    assert set(WAYS) in rounds, rounds
    ids = [f"{way}-{rounds.index(set(WAYS)) + 1}".encode() for way in WAYS if way != "engine"]
    assert place.has(*ids) == ids
    assert PROMPT_TOKENS in place.counts


def test_a_mark_would_be_found_in_whatever_form_it_is_kept() -> None:
    mark = "q0123456789"
    for rows in ({"a": [None, mark]}, {"a": [[{"b": f"so {mark}."}]]}, {"a": [b"\0" + mark.encode()]}):
        place = Place()
        place.add_rows(pa.table(rows))
        assert place.has(*hidden(mark)) == [mark.encode()]
    for form in (
        mark.encode("utf-16-le"),
        base64.b64encode(b"so " + mark.encode() + b"."),
        b"\x00\x01x" + Encoder().encode([("x", mark)]),
    ):
        place = Place()
        place.add(form)
        assert place.has(*hidden(mark))
    for numbers in (pa.array([PROMPT, PROMPT]), pa.array([PROMPT, PROMPT], pa.int32()), pa.array([f"[{PROMPT}]"])):
        place = Place()
        place.add_rows(pa.table({"a": numbers}))
        assert place.has(*ids_of_tokens(PROMPT))
