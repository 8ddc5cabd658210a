"""How right the joins are, against vLLM's own scheduler, whose truth they never see: membership, GPU time, sums, claims.

Where vLLM is installed (`make vllm`), the recordings of tests/simulator are made anew first, from the traces in shared/data;
else those of the project are used. For each condition and level the estimator runs as a process of its own over what sources
would have seen (tests/simulator/estimator.py), beside it the baselines. Confidences were fitted on another seed
(tests/simulator/calibrate.py). `BENCH_ACCURACY_WRITE=1` writes the table to docs/accuracy.md.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.simulator.accuracy import Accuracy, score
from tests.simulator.baselines import BASELINES
from tests.simulator.conditions import CONDITIONS
from tests.simulator.estimator import estimate, read, write
from tests.simulator.recording import LEVELS, RECORDINGS, ROOT, TRACES, Recording, python_with_vllm, record

DOCUMENT = ROOT / "docs" / "accuracy.md"
LOST = {"batch_20": 0.01, "preempted_heavily": 0.01}
"""Conditions that are scored once more with this share of messages lost: of the plugin's steps, of spans, of exchanges."""
HEAD = (
    *("condition", "batch", "preempted", "level", "precision", "recall", "wrong", "wrong, own costs"),
    *("median", "p95", "nobody's", "calibration"),
)
Row = tuple[str, str, Recording, Accuracy]


def run() -> None:
    """Print the table and its figures."""
    with tempfile.TemporaryDirectory() as directory:
        folder = _recordings(Path(directory))
        found = [row for name in CONDITIONS for row in _condition(name, folder, Path(directory))]
    lines = table(found)
    print("\n".join(lines))
    _figures(found)
    text = document(lines, found)
    if os.environ.get("BENCH_ACCURACY_WRITE"):
        DOCUMENT.write_text(text, "utf-8")
    elif not DOCUMENT.exists() or DOCUMENT.read_text("utf-8") != text:
        print("docs/accuracy.md says otherwise: BENCH_ACCURACY_WRITE=1 writes it anew")


def _recordings(scratch: Path) -> Path:
    if python_with_vllm() is None or not TRACES.exists():
        print("vLLM is not installed (make vllm), or shared/data is not there: the project's recordings are used")
        return RECORDINGS
    made = scratch / "recordings"
    made.mkdir()
    record(made, list(CONDITIONS))
    same = [n for n in CONDITIONS if Recording(n, made).heard == Recording(n, RECORDINGS).heard]
    print(f"vLLM's scheduler run anew: {len(same)} of {len(CONDITIONS)} recordings came out with the same bytes")
    return made


def _condition(name: str, folder: Path, scratch: Path) -> list[Row]:
    recording = Recording(name, folder)
    jobs, labels = [], []
    for level in LEVELS:
        for lost in (0.0, LOST[name]) if name in LOST else (0.0,):
            seen = scratch / name / f"{level}-{lost}"
            write(seen, recording.seen(level, lost, seed=1))
            jobs.append((seen, "joins", Path(f"{seen}-found")))
            labels.append((f"{name}, {lost:.0%} lost" if lost else name, level))
    seen = scratch / name / "baselines"
    write(seen, {**recording.seen("wire"), **recording.seen("sockets")})
    jobs += [(seen, method, scratch / name / method) for method in BASELINES]
    labels += [(name, method) for method in BASELINES]
    estimate(jobs)
    truth = recording.truth()
    return [(*label, recording, score(truth, read(out))) for label, (_, _, out) in zip(labels, jobs, strict=True)]


def table(found: list[Row]) -> list[str]:
    """Return the table in Markdown."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for name, level, recording, a in found:
        batch, preempted = len(recording.step) / len(recording.start), recording.preemptions
        shares = (f"{v:.2%}" for v in (a.misallocated, a.own_misallocated, a.median_error, a.p95_error, a.unattributed))
        sure = f"{a.calibration_error:.3f}" if level in LEVELS else ""
        rows.append(
            (name, f"{batch:.0f}", str(preempted), level, f"{a.precision:.4f}", f"{a.recall:.4f}", *shares, sure)
        )
    return ["| " + " | ".join(row) + " |" for row in rows]


def _figures(found: list[Row]) -> None:
    for level in LEVELS:
        calm = [a for n, at, r, a in found if at == level and not r.preemptions and "lost" not in n]
        pressed = [a for n, at, r, a in found if at == level and r.preemptions and "lost" not in n]
        limits = {"plugin": ("1", "1", "0.00001", "0.00001"), "wire": ("0.9995", "0.997", "0.002", "0.02")}.get(level)
        values = (
            ("precision", min(a.precision for a in calm)),
            ("recall", min(a.recall for a in calm)),
            ("misallocated_ratio", max(a.misallocated for a in calm)),
            ("preempted.misallocated_ratio", max(a.misallocated for a in pressed)),
        )
        for place, (name, value) in enumerate(values):
            limit = f" limit={limits[place]}" if limits else ""
            print(f"FIGURE accuracy.{level}.{name} {value:.5f} 1 engine=vllm weights=same{limit}")
        own = max(a.own_misallocated for a in calm)
        print(f"FIGURE accuracy.{level}.own_costs.misallocated_ratio {own:.5f} 1 engine=vllm weights=independent")
    ours = [a for _, level, _, a in found if level in LEVELS]
    worst = max(a.calibration_error for a in ours)
    print(f"FIGURE accuracy.calibration_error {worst:.5f} 1 limit=0.05 cells={len(ours)}")
    print(f"FIGURE accuracy.wrong_exact {sum(a.wrong_exact for a in ours)} rows limit=0")
    print(f"FIGURE accuracy.not_conserved {sum(not a.conserved for a in ours)} cells limit=0")


def document(lines: list[str], found: list[Row]) -> str:
    """Return docs/accuracy.md."""
    version = found[0][2].vllm
    return f"""# How right the joins are

Written by `BENCH_ACCURACY_WRITE=1 python -m bench accuracy`. Truth: the real scheduler of vLLM {version} with its real
message encoder, in virtual time, on arrivals and lengths of the public traces of Azure and Mooncake; **GPU times are
simulated**, by a model that the joins do not know (tests/simulator). No number here was measured on a GPU.

The estimator is a process of its own and sees what Warpline's sources would: executions, launches, and what the level has.
`plugin`: the engine's own record of each batch. `wire`: its messages, replayed. `batches`: the batch ids of SGLang's trace,
for the same schedule, which has prompts among decodes (SGLang's `--enable-mixed-chunk`, whose chunks nobody tells; without
it the fault matrix's toy finds every row right). `totals`: messages with step totals but without who got tokens. `spans`:
one OpenTelemetry span a request. `sockets`: HTTP exchanges alone. Baselines: executions shared equally among requests open
at the time (`time_windows`), given to the oldest one (`arrival_order`), the wire's ledger shared equally (`equal_share`),
and 100 launches a second extrapolated (`sampled_launches`). `1% lost`: of the level's own rows: steps, messages, spans,
exchanges.

- **precision, recall**: of (step, request) pairs, weighted by the step's GPU time.
- **wrong**: GPU time given to a request that did not cause it, of all GPU time; truth shared with the joins' own weights, so
  that only membership counts. **wrong, own costs**: truth by the engine's own cost model, so that the weights count too.
- **median, p95**: error of one request's GPU time, of its true time. **nobody's**: GPU time left unattributed.
- **calibration**: expected calibration error of the stated confidences, which were fitted on another seed
  (`python -m tests.simulator.calibrate`).

{chr(10).join(lines)}

What it does not show: several ranks, LoRA, encoders, priority scheduling, real KV transfers (a connector that moves nothing
stands in for NIXL), and how far a real GPU's costs are from the weights. Preempted requests that resume in the same step
share a known total; its division among them is what is wrong in those rows.
"""


if __name__ == "__main__":
    run()
