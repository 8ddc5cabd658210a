"""Faults, long: what was acknowledged and is lost, and what is stored twice, over all cases and fifty SIGKILLs.

The cases are those of tests/faults. What damaged media cost is no acknowledged loss where it is counted by name: those cases
say what they lost, and what the loss table says of it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import urllib3

from bench import _bad_inputs, _edge_link
from bench.payloads import requests
from correlator.storage.store import Store
from tests.faults import cases
from tests.faults.cases import NEVER, cut, flip, flip_footer, scramble
from tests.faults.rig import Outcome, Rig
from tests.waiting import until
from warpline import otlp
from warpline.settings import Settings

KILLS = int(os.environ.get("BENCH_KILLS", "50"))
AIMED = max(KILLS // 10, 1)
SOAK_S = int(os.environ.get("BENCH_SOAK_S", "600"))
SOAK_SPANS_S, SOAK_BATCH, SOAK_MB = 10_000, 2_000, 512
"""The soak: spans a second for so many seconds while the store stands still, and the memory that DuckDB may use."""


def figure(name: str, value: float, unit: str, **keys: Any) -> None:
    print(f"FIGURE {name} {value:.6g} {unit}", *(f"{k}={v}" for k, v in keys.items()), flush=True)


def run() -> None:
    """Print all figures of this group."""
    lost = twice = count = 0
    for name, outcome, seconds in outcomes():
        print(
            f"{name}: sent {outcome.sent}, acknowledged {outcome.acknowledged}, stored {outcome.stored},"
            f" lost {outcome.lost}, twice {outcome.twice} ({seconds:.0f} s)",
            flush=True,
        )
        lost, twice, count = lost + outcome.lost, twice + outcome.twice, count + 1
    figure("faults.acked_lost", lost, "{row}", limit=0, kills=KILLS + 2 * AIMED)
    figure("faults.stored_twice", twice, "{row}", limit=0)
    figure("faults.cases", count, "{case}")
    media()
    _bad_inputs.run(figure)
    soak()
    _edge_link.run(figure)


def outcomes() -> Iterator[tuple[str, Outcome, float]]:
    """Yield each case's name, outcome and duration."""
    for name, case in _CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            began = time.monotonic()
            try:
                outcome = case(Path(directory) / "state")
            except subprocess.CalledProcessError as error:
                print(f"{name}: cannot run here: {error.stderr.decode().strip()}", flush=True)
                continue
            yield name, outcome, time.monotonic() - began


def media() -> None:
    """Say what damage to the spool, to a day's file and to a segment cost, and whether the loss table says the same."""
    ways = {"flipped": flip, "cut": cut, "scrambled": scramble}
    parts = {"spool": cases.damaged_spool, "store": cases.damaged_day, "segment": cases.damaged_segment}
    for part, case in parts.items():
        for name, damage in (ways | {"flipped": flip_footer} if part == "segment" else ways).items():
            with tempfile.TemporaryDirectory() as directory:
                outcome, losses = case(Path(directory) / "state", damage)
            source = "spool" if part == "spool" else "store"
            told = {reason: lost for (by, reason), lost in losses.items() if by == source}
            print(f"{part} {name}: {told}", flush=True)
            figure(
                f"faults.{part}.lost", outcome.lost, "{row}", case=name, told=sum(told.values()), twice=outcome.twice
            )


def soak() -> None:
    """Spans at a steady rate while nothing is stored; then the store starts, and all of them have to be there."""
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory) / "state", correlator_memory_limit_mb=SOAK_MB).start(**NEVER)
        sent, late, peak_mb = _send_steadily(rig)
        spool_mb = sum(path.stat().st_size for path in (rig.state_dir / "spool").glob("*.spool")) / 1e6
        figure("correlator.soak_rss_mb", peak_mb, "MB", limit=SOAK_MB, spans=sent, seconds=SOAK_S, late_s=f"{late:.1f}")
        figure("correlator.soak_spool_mb", spool_mb, "MB", bytes_per_span=f"{spool_mb * 1e6 / sent:.0f}")
        rig.kill()
        began = time.monotonic()
        rig.start()
        until(lambda: rig.given("span") >= sent, 1200)
        figure("correlator.soak_drain_s", time.monotonic() - began, "s", spans=sent)
        rig.terminate()
        figure("correlator.soak_lost", sent - _distinct_spans(rig.state_dir), "{span}", limit=0)


def _send_steadily(rig: Rig) -> tuple[int, float, float]:
    """Return the spans acknowledged, by how many seconds the last was late, and the peak of the correlator's RSS in MB."""
    assert rig.process is not None
    process, pool = psutil.Process(rig.process.pid), urllib3.PoolManager()
    began, sent, peak = time.monotonic(), 0, 0
    for body in requests("mixed", SOAK_BATCH, SOAK_S * SOAK_SPANS_S // SOAK_BATCH):
        time.sleep(max(began + sent / SOAK_SPANS_S - time.monotonic(), 0))
        answer = pool.request("POST", f"{rig.url}/v1/traces", body=body, headers={"content-type": otlp.PROTOBUF})
        assert answer.status == 200, answer.data
        sent += SOAK_BATCH
        peak = max(peak, process.memory_info().rss)
    pool.clear()
    return sent, time.monotonic() - began - sent / SOAK_SPANS_S, peak / 1e6


def _distinct_spans(state_dir: Path) -> int:
    store = Store(Settings(state_dir=str(state_dir)))
    found = store.query("SELECT count(*) AS rows, count(DISTINCT (trace_id, span_id)) AS spans FROM span").to_pylist()[
        0
    ]
    store.close()
    assert found["rows"] == found["spans"], found
    return int(found["spans"])


def _full(state_dir: Path) -> Outcome:
    with cases.small_disk(state_dir, 96) as mount:
        return cases.disk_full(mount)[0]


_CASES: dict[str, Callable[[Path], Outcome]] = {
    f"{KILLS} SIGKILLs": lambda state: cases.sigkills(state, KILLS, seed=int(time.time())),
    f"{AIMED} SIGKILLs in compaction": lambda state: cases.sigkills_in_compaction(state, AIMED)[0],
    f"{AIMED} SIGKILLs as a day begins": lambda state: cases.sigkills_at_midnight(state, AIMED),
    "SIGTERM under load": lambda state: cases.sigterm_under_load(state)[0],
    "duplicate sends": cases.duplicates,
    "write-ahead log flipped": lambda state: cases.damaged_log(state, flip),
    "write-ahead log cut": lambda state: cases.damaged_log(state, cut),
    "write-ahead log scrambled": lambda state: cases.damaged_log(state, scramble),
    "write-ahead log missing": lambda state: cases.damaged_log(state, Path.unlink),
    "disk full, then freed": _full,
    "clock jumps of an hour": cases.clock_jumps,
    "clock steps of an hour under the correlator": lambda state: cases.clock_steps(state)[0],
    "disconnects in a body": cases.broken_off,
}
