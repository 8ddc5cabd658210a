"""The way out against a real HTTP server that misbehaves on purpose: nothing lost, nothing twice, losses counted."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from tests.correlator.doors import open_doors
from tests.waiting import until
from warpline import export, otlp, schema
from warpline.batch import Batch
from warpline.errors import SettingsError
from warpline.export import QUEUE_FULL, TOO_LARGE, Exporter
from warpline.sender import _retry_after
from warpline.settings import Settings
from warpline.spool import Spool

SYSCALL = schema.table("syscall")
LOSS = schema.table("loss")


def batch(first: int, rows: int = 1) -> Batch:
    return Batch(SYSCALL, SYSCALL.batch({"start_ns": np.arange(first, first + rows), "node": "n", "name": "read"}))


class Receiver:
    """An OTLP door that answers with the statuses it is given, then with 200."""

    def __init__(self, statuses: list[int] | None = None, headers: dict[str, str] | None = None) -> None:
        self.statuses, self.headers = statuses or [], headers or {}
        self.batches: list[Batch] = []
        self.seen: list[dict[str, str]] = []
        self.answer = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                body = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                outer.seen.append({k.lower(): v for k, v in self.headers.items()})
                status = outer.statuses.pop(0) if outer.statuses else 200
                if status == 200:
                    outer.batches += otlp.decode("logs", body).batches
                self.send_response(status)
                for name, value in (outer.headers if status != 200 else {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(outer.answer)))
                self.end_headers()
                self.wfile.write(outer.answer)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def times(self) -> list[int]:
        """The start times of all syscall rows received, sorted."""
        rows = [b.rows["start_ns"].to_pylist() for b in self.batches if b.table is SYSCALL]
        return sorted(each for part in rows for each in part)

    def ids(self) -> Counter[str]:
        return Counter(b.batch_id for b in self.batches)

    def losses(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for each in self.batches:
            if each.table is LOSS:
                for row in each.rows.select(["reason", "lost"]).to_pylist():
                    found[row["reason"]] += row["lost"]
        return dict(found)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first wait before a request is sent again, a second elsewhere."""
    monkeypatch.setattr(export, "_BACK_OFF_S", 0.1)


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    made: list[Receiver] = []
    yield made
    for each in made:
        each.close()


def receiver(receivers: list[Receiver], *arguments: Any) -> Receiver:
    receivers.append(Receiver(*arguments))
    return receivers[-1]


def settings(tmp_path: Path, url: str, **more: Any) -> Settings:
    return Settings(state_dir=str(tmp_path), collector_endpoint=url, collector_batch_delay_s=0.02, **more)


def test_rows_of_many_sources_arrive_once_in_batches_that_are_named(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers)
    exporter = Exporter(settings(tmp_path, door.url), "node-1")
    threads = [
        threading.Thread(target=lambda n=n: [exporter.emit(batch(n * 1000 + k)) for k in range(97)]) for n in range(5)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert exporter.close(10)
    assert door.times() == sorted(n * 1000 + k for n in range(5) for k in range(97))
    assert set(door.ids().values()) == {1} and all(name.startswith("node-1/") for name in door.ids())
    assert len(door.batches) < 5 * 97


def test_a_request_that_is_compressed_as_a_whole_is_smaller_and_comes_in_at_the_correlators_door(
    tmp_path: Path, receivers: list[Receiver]
) -> None:
    double = receiver(receivers)
    with open_doors() as (door, kept):
        real = f"http://{door.http_address}"
        for name, url in (("plain", double.url), ("thin", double.url), ("real", real)):
            exporter = Exporter(settings(tmp_path / name, url, collector_gzip=name != "plain"), "n")
            exporter.emit(batch(5, 97))
            assert exporter.close(10)
    assert [row["start_ns"] for row in kept.rows("syscall")] == list(range(5, 102))
    assert double.times() == sorted([*range(5, 102)] * 2)
    plain, thin = (int(each["content-length"]) for each in double.seen)
    assert thin * 2 < plain


def test_rows_that_their_source_named_are_on_disk_under_that_name_once_emitted(
    tmp_path: Path, receivers: list[Receiver]
) -> None:
    door = receiver(receivers)
    made = settings(tmp_path, "http://127.0.0.1:9", collector_batch_rows=10)
    exporter = Exporter(made, "n")
    exporter.emit(replace(batch(0, 25), batch_id="n/5/source"))
    waiting = exporter.spool.bytes
    assert waiting > 0, "before anything was packed"
    exporter.emit(replace(batch(0, 25), batch_id="n/5/source"))
    exporter.close(0)
    exporter = Exporter(replace(made, collector_endpoint=door.url), "n")
    assert exporter.close(10)
    named = [each for each in door.batches if each.table is SYSCALL]
    assert {each.batch_id for each in named} == {"n/5/source", "n/5/source/1", "n/5/source/2"}
    assert set(Counter((each.batch_id, str(each.rows.to_pylist())) for each in named).values()) == {2}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_retried_is_sent_again_with_the_same_name(
    tmp_path: Path, receivers: list[Receiver], status: int
) -> None:
    door = receiver(receivers, [status])
    exporter = Exporter(settings(tmp_path, door.url), "n")
    exporter.emit(batch(1))
    assert exporter.close(10)
    assert door.times() == [1] and len(door.seen) == 2 and not exporter.losses


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_what_is_refused_for_good_is_counted_and_not_sent_again(
    tmp_path: Path, receivers: list[Receiver], status: int
) -> None:
    door = receiver(receivers, [status])
    exporter = Exporter(settings(tmp_path, door.url), "n")
    exporter.emit(batch(1, 5))
    wait_for(lambda: exporter.losses)
    exporter.emit(batch(9))
    assert exporter.close(10)
    assert door.times() == [9]
    assert exporter.losses == {f"refused with status {status}": 5} == door.losses()


def test_a_partial_success_is_counted_and_not_sent_again(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers)
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 1
    door.answer = response.SerializeToString()
    exporter = Exporter(settings(tmp_path, door.url), "n")
    exporter.emit(batch(1))
    wait_for(lambda: exporter.losses)
    assert exporter.losses["rejected by the receiver"] == 1
    door.answer = b""
    assert exporter.close(10)
    assert door.times() == [1]


def test_retry_after_is_kept_to(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers, [503], {"retry-after": "1"})
    exporter = Exporter(settings(tmp_path, door.url), "n")
    began = time.monotonic()
    exporter.emit(batch(1))
    assert exporter.close(20)
    assert time.monotonic() - began >= 1 and door.times() == [1]


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (None, 0, 0), ("7", 7, 7), ("-3", 0, 0), ("soon", 0, 0), ("99999", 300, 300),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 300, 300),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_a_number_or_a_date(value: str | None, least: float, most: float) -> None:
    assert least <= _retry_after(value) <= most


def test_a_request_that_is_too_large_is_sent_in_halves(tmp_path: Path, receivers: list[Receiver]) -> None:
    queue = Spool(tmp_path / "queue", 1 << 20)
    queue.append([replace(batch(number), batch_id=f"n/0/{number}") for number in range(3)])
    queue.close()
    door = receiver(receivers, [413])
    assert Exporter(settings(tmp_path, door.url), "n").close(10)
    assert door.times() == [0, 1, 2] and len(door.seen) == 3


def test_more_rows_than_a_record_may_hold_are_split(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers)
    exporter = Exporter(settings(tmp_path, door.url, collector_batch_rows=1000), "n")
    exporter.emit(batch(0, 2500))
    assert exporter.close(10)
    assert door.times() == list(range(2500)) and max(b.rows.num_rows for b in door.batches) <= 1000


def test_a_row_that_no_record_can_hold_is_counted(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers)
    exporter = Exporter(settings(tmp_path, door.url), "n")
    huge = np.random.default_rng(1).bytes(4 << 20).hex()
    span = schema.table("process")
    row = {"start_ns": 1, "node": "n", "process_uid": "p", "arguments": [huge]}
    exporter.emit(Batch(span, span.batch(row)))
    wait_for(lambda: exporter.losses)
    assert exporter.losses == {TOO_LARGE: 1}
    assert exporter.close(10) and door.losses() == {TOO_LARGE: 1}


def test_what_is_seen_while_nobody_answers_arrives_when_somebody_does(
    tmp_path: Path, receivers: list[Receiver]
) -> None:
    door = receiver(receivers)
    door.close()
    receivers.remove(door)
    exporter = Exporter(settings(tmp_path, door.url), "n")
    for number in range(20):
        exporter.emit(batch(number))
    assert not exporter.close(0.3)
    again = receiver(receivers)
    exporter = Exporter(settings(tmp_path, again.url), "n")
    exporter.emit(batch(20))
    assert exporter.close(10)
    assert again.times() == list(range(21))


def test_a_full_queue_loses_the_newest_rows_and_says_how_many(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers)
    door.statuses = [503] * 2
    exporter = Exporter(settings(tmp_path, door.url, collector_queue_mb=1), "n")
    generator = np.random.default_rng(2)
    rows = 20000
    for _ in range(8):
        noise = generator.integers(0, 1 << 60, rows)
        exporter.emit(Batch(SYSCALL, SYSCALL.batch({"start_ns": noise, "end_ns": noise, "node": "n", "name": "read"})))
        wait_for(lambda: not exporter._pending)
    assert exporter.close(20)
    lost = exporter.losses[QUEUE_FULL]
    assert lost > 0 and len(door.times()) + lost == 8 * rows


def test_the_token_is_shown_and_a_missing_file_is_told(tmp_path: Path, receivers: list[Receiver]) -> None:
    door = receiver(receivers)
    token = tmp_path / "token"
    token.write_text("secret\n")
    exporter = Exporter(settings(tmp_path, door.url, collector_token_file=str(token)), "n")
    exporter.emit(batch(1))
    assert exporter.close(10) and door.seen[0]["authorization"] == "Bearer secret"
    with pytest.raises(SettingsError, match="collector_token_file"):
        Exporter(settings(tmp_path / "x", door.url, collector_token_file=str(tmp_path / "none")), "n")


_COLLECTOR = """
import sys, time
from warpline import export, no_pandas, schema
from warpline.batch import Batch
from warpline.settings import Settings
no_pandas.keep_out()
export._BACK_OFF_S = 0.1
settings = Settings(state_dir=sys.argv[1], collector_endpoint=sys.argv[2], collector_batch_delay_s=0.01)
exporter, syscall = export.Exporter(settings, "n"), schema.table("syscall")
for number in range(1000000):
    exporter.emit(Batch(syscall, syscall.batch({"start_ns": [number], "node": "n", "name": "read"})))
    if number % 50 == 0:
        time.sleep(0.02)
"""


@pytest.mark.faults
def test_a_killed_collector_sends_what_was_on_its_disk_and_nothing_twice(
    tmp_path: Path, receivers: list[Receiver], root: Path
) -> None:
    door = receiver(receivers)
    for _ in range(3):
        door.statuses = [503] * 2
        child = subprocess.Popen([sys.executable, "-c", _COLLECTOR, str(tmp_path), door.url], cwd=root)
        until(lambda: (tmp_path / "queue").exists() and not door.statuses and len(door.batches) > 0)
        time.sleep(0.3)
        child.kill()
        child.wait()
    exporter = Exporter(settings(tmp_path, door.url), "n")
    assert exporter.close(10) and exporter.losses.total() == 0
    # What was on the wire when the process died comes again, under the same name: the store knows it by that.
    by_id = {b.batch_id: b.rows["start_ns"].to_pylist() for b in door.batches if b.table is SYSCALL}
    for name in {identity.rpartition("/")[0] for identity in by_id}:
        life = sorted(each for key, part in by_id.items() if key.rpartition("/")[0] == name for each in part)
        assert life == list(range(len(life)))


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
