"""A simulated scene for the dashboard: a model server's last half hour and one request down to its kernels.

Nothing here was measured: every row that can say so is marked simulated. Tests, screenshots and `bench/ui.py` share it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tests.dashboards import scene_fleet, scene_gpu, scene_request
from tests.dashboards.scene_parts import INTERNAL_ID, MICRO, MILLI, REQUEST_ID, RESPONSE_ID, SECOND
from warpline.batch import Batch

__all__ = ["INTERNAL_ID", "REQUEST_ID", "RESPONSE_ID", "Scene", "scene"]


@dataclass(frozen=True)
class Scene:
    """Batches, and where in time the one request lies."""

    batches: list[Batch]
    start_ns: int
    end_ns: int


def scene(kernels: int = 100_000, requests: int = 2_000, gpus: int = 8, now_ns: int | None = None) -> Scene:
    """Return one request with `kernels` executions on `gpus` GPUs × 2 CUDA streams among `requests` others."""
    now = (time.time_ns() if now_ns is None else now_ns) // SECOND * SECOND
    lasted = int(np.clip(kernels * 10 * MICRO, 800 * MILLI, 60 * SECOND))
    start = now - 120 * SECOND - lasted
    steps = _steps(start, lasted, max(kernels // (gpus * 400), 24))
    batches = [
        *scene_fleet.traffic(now, requests),
        *scene_request.one_request(start, lasted, steps),
        *scene_gpu.gpu_work(steps, kernels, gpus),
        *scene_gpu.ranges(steps, kernels, gpus),
        *scene_gpu.threads(start, lasted, max(kernels // 20, 300)),
        *scene_fleet.samples(start - 60 * SECOND, lasted + 120 * SECOND, gpus),
        *scene_fleet.health(now),
        *scene_fleet.alerts(now),
        *scene_fleet.scaling(now),
    ]
    return Scene(batches, start, start + lasted)


def _steps(start: int, lasted: int, count: int) -> np.ndarray:
    """Return start, end of each engine step: one long prefill after a queue, then decode steps with gaps."""
    begin, end = start + int(lasted * 0.09), start + int(lasted * 0.975)
    prefill = int(lasted * 0.12)
    bounds = np.linspace(begin + prefill, end, count).astype(np.int64)
    width = int(np.diff(bounds).min() * 0.93)
    starts = np.concatenate([[begin], bounds[:-1]])
    ends = np.concatenate([[begin + int(prefill * 0.97)], bounds[:-1] + width])
    return np.stack([starts, ends])
