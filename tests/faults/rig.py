"""A real correlator process to break, a load whose every row has a number, and the count of what is lost or doubled.

`bench/faults.py` runs the long forms of what the tests here run short.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from tests.correlator.storing import DAY, KERNEL, SYSCALL
from tests.waiting import until
from warpline import otlp
from warpline.batch import Batch
from warpline.client import Client
from warpline.errors import StoreError
from warpline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL, LARGE = 211, 40_009
"""Rows of a batch that goes to DuckDB's own tables, and of one that becomes a segment; primes: no sum hides a hole."""
NUMBERS = {"syscall": "result", "gpu_kernel": "correlation_id"}
"""The tables of the load, and the column of each that holds its rows' numbers."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


_open: list[Rig] = []


@atexit.register
def end_all() -> None:
    """End what a case that failed left running: called behind each test, and when the process ends."""
    while _open:
        _open.pop().end()


class Rig:
    """One correlator in a process of its own, started as often as a test breaks it, always at the same addresses."""

    def __init__(self, state_dir: Path, **settings: Any) -> None:
        self.state_dir = state_dir
        ports = {door: free_port() for door in ("grpc", "http", "query")}
        self.url = f"http://127.0.0.1:{ports['http']}"
        self.grpc_address = f"127.0.0.1:{ports['grpc']}"
        self.query_url = f"http://127.0.0.1:{ports['query']}"
        self.client = Client(Settings(query_url=self.query_url))
        asked = {
            "state_dir": state_dir, "node": "rig", "correlator_memory_limit_mb": 512, "correlator_store_delay_s": 0.05,
            "correlator_disk_reserve_mb": 16, "correlator_upkeep_s": 1,
        }  # fmt: skip
        addresses = {f"correlator_{door}_address": f"127.0.0.1:{port}" for door, port in ports.items()}
        self._settings = asked | addresses | settings
        self.environment: dict[str, str] = {}
        self._garbage: dict[int, int] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.loads: list[Load] = []
        _open.append(self)

    def end(self) -> None:
        """Leave no correlator and no sender behind where a case fails."""
        for load in self.loads:
            load.ask_to_stop()
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def start(self, **settings: Any) -> Rig:
        named = {f"WARPLINE_{name.upper()}": str(value) for name, value in (self._settings | settings).items()}
        self.state_dir.mkdir(parents=True, exist_ok=True)
        with (self.state_dir.parent / f"{self.state_dir.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "warpline.cli", "correlate"],
                cwd=ROOT,
                env=os.environ | named | self.environment,
                stderr=log,
            )
        until(self.answers, 240)
        return self

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log()[-2000:]
        try:
            return urllib3.request("GET", f"{self.query_url}/healthz", retries=False, timeout=2).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def log(self) -> str:
        return (self.state_dir.parent / f"{self.state_dir.name}.log").read_text(errors="replace")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def send(self, *batches: Batch, timeout: float = 10) -> int:
        """Send batches once; return the status, 0 for no answer."""
        body = otlp.encode(batches, {"k8s.node.name": "rig"})
        headers = {"content-type": otlp.PROTOBUF}
        try:
            answer = urllib3.request(
                "POST", f"{self.url}/v1/logs", body=body, headers=headers, retries=False, timeout=timeout
            )
        except urllib3.exceptions.HTTPError:
            return 0
        return int(answer.status)

    def send_garbage(self) -> None:
        """Send what is no OTLP: it is counted as lost."""
        answer = urllib3.request("POST", f"{self.url}/v1/logs", body=b"\xff", headers={"content-type": otlp.PROTOBUF})
        assert answer.status == 400

    def hours_off(self) -> list[int]:
        """By how many hours the times of the rows for garbage are off, in the order in which they were first seen."""
        found = self.client.table("loss").to_pylist()
        for row in found:
            if row["reason"] == "malformed request" and row["start_ns"] not in self._garbage:
                self._garbage[row["start_ns"]] = round((row["start_ns"] - time.time_ns()) / 3_600_000_000_000)
        return list(self._garbage.values())

    def stored(self) -> tuple[set[int], int]:
        """The numbers that are stored, and how many of them are stored more than once."""
        found = [self.client.table(table)[column].to_numpy() for table, column in NUMBERS.items()]
        numbers, times = np.unique(np.concatenate(found), return_counts=True)
        return set(numbers.tolist()), int((times > 1).sum())

    def settle(self, seconds: float = 240) -> None:
        """Wait until all that was acknowledged is stored."""
        until(self._has_stored, seconds)

    def _has_stored(self) -> bool:
        try:
            return self.client.progress()[0]
        except StoreError:
            return False

    def rows(self) -> int:
        """How many rows of the load are stored."""
        return sum(self.client.table(name).num_rows for name in NUMBERS)

    def reads(self) -> bool:
        """Whether every table of the load can be read."""
        try:
            return self.rows() >= 0
        except StoreError:
            return False

    def given(self, table: str) -> int:
        """How many rows of a table the store was given since it began, by /metrics; 0 where nobody answers."""
        begin = f'warpline_store_rows_total{{table="{table}"}}'
        try:
            lines = self.client.get("/metrics").data.decode().splitlines()
        except StoreError:
            return 0
        return next((int(float(line.split()[-1])) for line in lines if line.startswith(begin)), 0)

    def losses(self) -> dict[tuple[str, str], int]:
        """What the loss table says, by source and reason."""
        return {(row["source"], row["reason"]): row["lost"] for row in self.client.view("loss_total").to_pylist()}


def numbered(batch_id: str, first: int, rows: int, start_ns: int | None = None) -> Batch:
    """A batch whose rows are numbered from `first`, 1 µs apart from `start_ns` on, else around a midnight."""
    number = np.arange(first, first + rows)
    at = (20_001 * DAY - rows // 2 * 1000 if start_ns is None else start_ns) + np.arange(rows) * 1000
    if rows >= LARGE:
        columns = {
            "start_ns": at,
            "end_ns": at + 900,
            "node": "rig",
            "name": "k",
            "kind": "kernel",
            "correlation_id": number,
        }
        return Batch(KERNEL, KERNEL.batch(columns), batch_id)
    return Batch(SYSCALL, SYSCALL.batch({"start_ns": at, "node": "rig", "name": "read", "result": number}), batch_id)


@dataclass(frozen=True)
class Outcome:
    """What became of a load, in rows."""

    sent: int
    acknowledged: int
    stored: int
    lost: int
    twice: int


class Load:
    """Senders that send numbered batches, each again until it is acknowledged, as the collector's exporter does."""

    def __init__(self, rig: Rig, senders: int = 4, large_every: int = 9, pause_s: float = 0) -> None:
        self.rig, self.large_every, self.pause_s = rig, large_every, pause_s
        self.midnight = 20_001
        """The day (since 1970-01-01) before and after whose beginning the rows lie."""
        self.acknowledged: set[int] = set()
        self.sent = 0
        self.busy = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(senders)]
        rig.loads.append(self)

    def start(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def ask_to_stop(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        self.ask_to_stop()
        for each in self._threads:
            each.join(60)

    def _run(self, sender: int) -> None:
        for count in range(1_000_000):
            rows = LARGE if count % self.large_every == self.large_every - 1 else SMALL
            with self._lock:
                first, self.sent = self.sent, self.sent + rows
            start_ns = self.midnight * DAY - rows // 2 * 1000
            self._send(numbered(f"load-{sender}/1/{count}", first, rows, start_ns), first, rows)
            if self._stop.wait(self.pause_s):
                return

    def _send(self, batch: Batch, first: int, rows: int) -> None:
        while True:
            status = self.rig.send(batch)
            if status == 200:
                with self._lock:
                    self.acknowledged.update(range(first, first + rows))
                return
            self.busy += status == 503
            if self._stop.is_set():
                return  # It was never acknowledged: nobody promised to have it.
            time.sleep(0.05)

    def outcome(self) -> Outcome:
        """Count what the rig has of the load; it must be running."""
        self.rig.settle()
        stored, twice = self.rig.stored()
        return Outcome(self.sent, len(self.acknowledged), len(stored), len(self.acknowledged - stored), twice)
