"""What HolisticTraceAnalysis says of real traces, beside what Warpline's reader says.

Left alone it rounds each start up and each end down to a whole µs, which would allow two µs of difference an execution; its
own switch turns that off. What is left is that it keeps absolute times as floats of µs, whose steps at today's date are
0.25 µs: gaps, which are differences of such times, may be off by a little. Lengths are short, so they are exact.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from collectors import kineto
from tests.collectors.reading import Reading, read

FLOAT_US = 1.0
"""How far a sum of gaps may be off by the steps of floats, in traces under a second; measured: 0.05 µs."""


def read_by_hta(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trace as HTA holds it, with every kernel that it launched."""
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    from hta.common.trace import Trace

    trace = Trace(trace_files={0: str(path)}, trace_dir=str(path.parent))
    trace.parse_traces(use_multiprocessing=False)
    trace.align_and_filter_trace(include_last_profiler_step=True)
    return trace


def assert_same_busy_and_idle_time(theirs: dict[str, float], gpu: dict[str, int]) -> None:
    assert theirs["kernel_time(us)"] == pytest.approx(gpu["span_ns"] / 1000, abs=FLOAT_US)
    assert theirs["idle_time(us)"] == pytest.approx((gpu["span_ns"] - gpu["busy_ns"]) / 1000, abs=FLOAT_US)


def assert_same_total_of_every_name(trace: Any, ours: Reading) -> None:
    frame, names = trace.traces[0], trace.symbol_table.get_sym_table()
    on_gpu = frame[frame["stream"].ne(-1)]
    theirs = {names[number]: round(us * 1000) for number, us in on_gpu.groupby("name")["dur"].sum().items()}
    totals: Counter[str] = Counter()
    for row in ours.rows("gpu_kernel").to_pylist():
        totals[row["name"]] += row["end_ns"] - row["start_ns"]
    assert ours.rows("gpu_kernel").num_rows == len(on_gpu) > 100
    assert dict(totals) == theirs


@pytest.mark.parametrize(
    ("name", "communicates"),
    [
        ("deepseek/train.json.gz", False),  # It does, by DeepEP, whose kernels HTA takes for compute.
        ("hta/nccl_parser_config__nccl_data.json.gz", True),
        ("hta/ns_resolution_trace__rank-0.Apr_03_18_51_38.1102.pt.trace.json.gz", False),
        ("tracelens/h100_vit.json.gz", False),
    ],
)
def test_busy_time_kernel_totals_and_overlap_are_those_of_holistic_trace_analysis(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, communicates: bool
) -> None:
    path = shared_data / "kineto" / name
    if not path.exists():
        pytest.skip(f"no {name} among the real recordings")
    ours = read(kineto, path, tmp_path)
    (gpu,) = ours.summary["gpus"].values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HTA is older than the pandas that it runs on.
        trace = read_by_hta(path, monkeypatch)
        from hta.analyzers.breakdown_analysis import BreakdownAnalysis
        from hta.analyzers.communication_analysis import CommunicationAnalysis

        (busy,) = BreakdownAnalysis.get_temporal_breakdown(trace, visualize=False).to_dict("records")
        (overlap,) = CommunicationAnalysis.get_comm_comp_overlap(trace, visualize=False).to_dict("records")
    assert_same_busy_and_idle_time(busy, gpu)
    assert_same_total_of_every_name(trace, ours)
    if communicates:
        share = 100 * gpu["overlapped_ns"] / gpu["communication_ns"]
        assert overlap["comp_comm_overlap_pctg"] == pytest.approx(share, abs=0.0051)  # It gives two decimals.
