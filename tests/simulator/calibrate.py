"""Fits `CONFIDENCE` of correlator/joins/membership.py: how often rows of each kind are right, on a seed that is not scored.

    python -m tests.simulator.calibrate FOLDER [LEVEL ...]

records every condition anew with vLLM under seed 5, unless FOLDER has it, and prints the shares. A row of a kind that was
always right is put down as 0.995, as no finite number of rows shows certainty.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from correlator.joins import membership
from tests.simulator.accuracy import said
from tests.simulator.conditions import CONDITIONS
from tests.simulator.estimator import joins
from tests.simulator.recording import Recording, record, tables

SEED = 5
LOST = 0.01
_TOLD = (0.9, 0.95, 0.5)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in CONDITIONS if not (folder / f"{name}.msgpack.xz").exists()]
    if missing:
        record(folder, missing, SEED)
    # Confidences by which a row tells its kind: what comes after the first token is at most a half.
    membership.CONFIDENCE.update(dict.fromkeys(membership.CONFIDENCE, _TOLD))
    right: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name in CONDITIONS:
        recording = Recording(name, folder)
        truth = recording.truth()
        for level in sys.argv[2:] or list(membership.CONFIDENCE):
            for lost in (0.0, LOST) if level == "wire" else (0.0,):
                rows = joins(tables(recording.seen(level, lost)))["member"]
                _count(right, level, rows, truth)
    for (level, kind), (good, all_) in sorted(right.items()):
        print(f"{level} {kind}: {good / all_:.4f} of {all_:.0f}")


def _count(right: dict[tuple[str, int], list[float]], level: str, rows: pa.Table, truth: dict[str, pa.Table]) -> None:
    found = said(truth, {"member": rows})
    kind = np.select([found.exact | (found.sure == _TOLD[0]), found.sure == _TOLD[1]], [0, 1], 2)
    chance = np.where((kind == 2) & (level != "wire"), found.sure / _TOLD[2], 1.0)
    for each in range(3):
        right[level, each][0] += float(found.known[kind == each].sum())
        right[level, each][1] += float(chance[kind == each].sum())


if __name__ == "__main__":
    main()
