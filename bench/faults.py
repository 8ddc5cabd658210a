"""Faults, long: what was acknowledged and is lost, and what is stored twice, over all cases and fifty SIGKILLs.

The cases are those of tests/faults. What damaged media cost is no acknowledged loss where it is counted by name: those cases
say what they lost, and what the loss table says of it.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import cases
from tests.faults.cases import cut, flip, scramble
from tests.faults.rig import Outcome

KILLS = 50


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
    figure("faults.acked_lost", lost, "{row}", limit=0, kills=KILLS)
    figure("faults.stored_twice", twice, "{row}", limit=0)
    figure("faults.cases", count, "{case}")
    spool()


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


def spool() -> None:
    """Say what damage to the spool cost, and whether the loss table says the same."""
    for name, damage in (("flipped", flip), ("cut", cut), ("scrambled", scramble)):
        with tempfile.TemporaryDirectory() as directory:
            outcome, losses = cases.damaged_spool(Path(directory) / "state", damage)
        told = sum(lost for (source, _), lost in losses.items() if source == "spool")
        figure("faults.spool.lost", outcome.lost, "{row}", case=name, records_told=told, twice=outcome.twice)


def _full(state_dir: Path) -> Outcome:
    with cases.small_disk(state_dir, 96) as mount:
        return cases.disk_full(mount)[0]


_CASES: dict[str, Callable[[Path], Outcome]] = {
    f"{KILLS} SIGKILLs": lambda state: cases.sigkills(state, KILLS, seed=int(time.time())),
    "SIGTERM under load": lambda state: cases.sigterm_under_load(state)[0],
    "duplicate sends": cases.duplicates,
    "write-ahead log flipped": lambda state: cases.damaged_log(state, flip),
    "write-ahead log cut": lambda state: cases.damaged_log(state, cut),
    "write-ahead log scrambled": lambda state: cases.damaged_log(state, scramble),
    "write-ahead log missing": lambda state: cases.damaged_log(state, Path.unlink),
    "disk full, then freed": _full,
    "clock jumps of an hour": cases.clock_jumps,
    "disconnects in a body": cases.broken_off,
}
