"""Busy time: how long a GPU worked, where kernels overlap.

Kernel time adds up what each execution took; where two overlap, the GPU was busy once. The busy time of an execution is
the integral of 1/m over it, m being how many ran; so busy times of all executions sum to the union of their intervals.
In whole nanoseconds: each stretch between two events gives each of its m executions the whole part of length / m, and
the remaining nanoseconds to those that began first. That depends on the overlapping executions alone, so the answer is
the same whatever window it is computed in.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def busy_time(gpu: Int64, start: Int64, end: Int64) -> Int64:
    """Return the busy time of each execution in ns; [start, end) in ns of one clock, `gpu` a code of its device.

    The sum over one GPU is the length of the union of its intervals, exactly. An empty interval has none.
    """
    order = np.lexsort((end, start, gpu))
    device, begins, ends = gpu[order], start[order], np.maximum(end, start)[order]
    busy = ends - begins
    for low, high in _overlapping_runs(device, begins, ends):
        busy[low:high] = _sweep(begins[low:high], ends[low:high])
    result = np.empty_like(busy)
    result[order] = busy
    return result


def _overlapping_runs(device: Int64, begins: Int64, ends: Int64) -> list[tuple[int, int]]:
    """Return the row ranges in which intervals overlap, joined into batches; rows outside run alone."""
    if len(begins) < 2:
        return []
    reach = np.empty_like(ends)
    for low, high in _device_ranges(device):
        reach[low:high] = np.maximum.accumulate(ends[low:high])
    touches = np.concatenate([[False], (begins[1:] < reach[:-1]) & (device[1:] == device[:-1])])
    fresh = np.flatnonzero(~touches)
    stops = np.concatenate([fresh[1:], [len(begins)]])
    several = stops - fresh > 1
    return _batched(fresh[several], stops[several], device)


def _device_ranges(device: Int64) -> list[tuple[int, int]]:
    cuts = np.flatnonzero(np.diff(device)) + 1
    edges = [0, *cuts.tolist(), len(device)]
    return list(itertools.pairwise(edges))


def _batched(low: Int64, high: Int64, device: Int64) -> list[tuple[int, int]]:
    """Join neighbouring runs of one device, with the lone rows between them, while at most 100,000 rows long."""
    runs: list[tuple[int, int]] = []
    for first, last in zip(low.tolist(), high.tolist(), strict=True):
        near = runs and device[runs[-1][0]] == device[first] and last - runs[-1][0] <= 100_000
        if near and first - runs[-1][1] <= 1_000:
            runs[-1] = (runs[-1][0], last)
        else:
            runs.append((first, last))
    return runs


def _sweep(begins: Int64, ends: Int64) -> Int64:
    times = np.unique(np.concatenate([begins, ends]))
    first = np.searchsorted(times, begins)
    last = np.searchsorted(times, ends)
    spans = last - first
    offsets = np.cumsum(spans) - spans
    row = np.repeat(np.arange(len(begins)), spans)
    stretch = np.repeat(first - offsets, spans) + np.arange(len(row))
    order = np.argsort(stretch, kind="stable")  # Rows stand in the order of their begin: so do those of a stretch.
    row, stretch = row[order], stretch[order]
    running = np.bincount(stretch, minlength=len(times))
    rank = np.arange(len(row)) - (np.cumsum(running) - running)[stretch]
    length = np.diff(times)[stretch]
    part = length // running[stretch] + (rank < length % running[stretch])
    return np.bincount(row, part, minlength=len(begins)).astype(np.int64)
