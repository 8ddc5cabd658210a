"""What GPUs executed and what the host asked of them, from the library that CUDA loads into its processes.

Hook: `CUDA_INJECTION64_PATH` names `collectors/inject`'s library in the engine's pod; it listens to CUPTI and writes a ring
file into a directory shared with the collector (setting `ring_dir`). This source reads all rings of the node. Needs CUDA
12.0 or later, any Linux kernel, and write access to the ring directory. Costs what the library itself measures and keeps
under the setting `gpu_budget_ratio`; `gpu_busy.overhead_ratio` says it.

It gives launches with the call's own times, executions with the GPU's times, and the time that GPUs were busy. Rows that a
CUDA double made have `simulated` set. What is missing is counted: records that CUPTI dropped, rings that were overrun,
steps whose eager kernels the budget left out, processes in which the library could not collect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from collectors.recordings import kernel_class
from collectors.rings import executions, folder
from collectors.rings.budget import Budget
from collectors.rings.busy import INTERVAL_NS, Busy, Course, Interval
from collectors.rings.ring_file import LEVELS, Ring, Taken
from collectors.rings.trials import RUNGS
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

LAUNCH = schema.table("launch")
GPU_KERNEL = schema.table("gpu_kernel")
GPU_BUSY = schema.table("gpu_busy")
GPU = schema.table("gpu")
TABLES = (LAUNCH, GPU_KERNEL, GPU_BUSY, GPU)
SCOPE = "node"

_POLL_S = 0.05
_STEER_EVERY_NS = 2_000_000_000
_ALL = 3
_WHOLE = RUNGS.index("eager")
_WINDOW_STEPS = 16
"""Steps of which each kernel inside CUDA graphs is recorded, in each interval of steering, where all detail is asked for."""
_LOSSES = {
    "lost_by_cupti": "dropped by CUPTI",
    "lost_outside_sample": "execution of a step that was not sampled",
    "lost_names": "no room for a kernel's name",
}


def check(settings: Settings) -> str | None:
    """Return why rings cannot be read here, or None."""
    return folder.why_not(settings)


@dataclass
class _Watched:
    """One ring, and what is known of its process."""

    ring: Ring
    process_uid: str
    offset_ns: int
    budget: Budget
    busy: Busy = field(default_factory=Busy)
    losses: dict[str, int] = field(default_factory=dict)
    said: str = ""
    devices: int = 0
    last_ns: int = 0
    awaited: int = 0
    overrun: bool = False
    steered_ns: int = 0
    course: Course = field(default_factory=Course)


def run(context: Context) -> Iterator[Batch]:
    """Yield what the rings say until told to stop; what they hold at that moment is still read."""
    yield Batch(LAUNCH, pa.RecordBatch.from_pylist([], LAUNCH.arrow))  # Up, though nobody may launch yet.

    def watch(ring: Ring, writer: folder.Writer) -> _Watched:
        return _Watched(ring, writer.process_uid, writer.offset_ns, Budget(context.settings.gpu_budget_ratio))

    def read(watched: _Watched, ended: bool, stopping: bool) -> Iterator[Batch]:
        return _read(context, watched, ended, stopping)

    yield from folder.follow(context, "cuda-*.ring", _POLL_S, Ring, watch, read)


def _read(context: Context, watched: _Watched, ended: bool, stopping: bool) -> Iterator[Batch]:
    ring, most = watched.ring, context.settings.collector_batch_rows
    while True:
        taken = ring.take(most, ended)
        if taken.overrun or taken.unfinished:
            _count_missed(context, watched, taken)
        if len(taken.records):
            yield from _rows(context, watched, taken.records)
        if len(taken.records) < most:
            break
    yield from _device_rows(context, watched)
    yield from _busy_rows(context, watched, all_of_it=ended or stopping)
    _count_losses(context, watched)
    if ended:
        _count_untold(context, watched)
    now_ns = time.monotonic_ns()
    if now_ns - watched.steered_ns > _STEER_EVERY_NS and not ended:
        watched.steered_ns = now_ns
        _steer(context, watched, now_ns)


def _rows(context: Context, watched: _Watched, records: executions.Records) -> Iterator[Batch]:
    devices = watched.ring.devices()
    origin = executions.Origin(
        node=context.node,
        process_uid=watched.process_uid,
        offset_ns=watched.offset_ns,
        uuids={number: device.uuid for number, device in devices.items()},
        names=watched.ring.names(),
        simulated=True if watched.ring.get("simulated") else None,
        observed_by=context.name,
    )
    records = _without_trials(context, watched, records)
    if not len(records):
        return
    launched = executions.is_launch(records)
    watched.awaited += executions.awaited(records)
    watched.last_ns = int(records["end"][-1]) + watched.offset_ns
    if launched.any():
        yield Batch(LAUNCH, executions.launches(records[launched], origin))
    if launched.all():
        return
    executed = records[~launched]
    batch = executions.gpu_kernels(executed, origin, context.clock.now_ns())
    classes = kernel_class.classes(batch.column("name"), batch.column("kind"))
    yield Batch(GPU_KERNEL, batch.set_column(batch.schema.get_field_index("kernel_class"), "kernel_class", classes))
    timed = executed[executions.is_timed(executed)]
    late = watched.busy.add(timed["start"], timed["end"], timed["device"])
    context.lost("too late for its second of gpu_busy", late, process_uid=watched.process_uid)


def _without_trials(context: Context, watched: _Watched, records: executions.Records) -> executions.Records:
    """Give the steps of a trial to the budget; return the other records. Steps that ran below the level are counted."""
    trial = executions.is_trial(records)
    if not trial.any():
        return records
    tried = records[trial]
    watched.budget.trials.add(tried["level"], tried["end"] - tried["start"], tried["value"])
    begin, end = (int(each) + watched.offset_ns for each in (tried["start"].min(), tried["end"].max()))
    context.lost(
        "step not recorded whole, to measure what recording costs", int((tried["level"] < _WHOLE).sum()), begin, end,
        process_uid=watched.process_uid,
    )  # fmt: skip
    return records[~trial]


def _device_rows(context: Context, watched: _Watched) -> Iterator[Batch]:
    devices = watched.ring.devices()
    if len(devices) == watched.devices:
        return
    watched.devices = len(devices)
    for number, device in devices.items():
        mig = device.uuid.startswith("MIG-")
        row = {
            "time_ns": context.clock.now_ns(),
            "node": context.node,
            "gpu_uuid": device.uuid,
            "gpu_instance": device.gpu_instance,
            "compute_instance": device.compute_instance,
            "mig_uuid": device.uuid if mig else None,
            "index": number,
            "model": device.name or None,
            "vendor": "nvidia",
            "observed_by": context.name,
            "simulated": True if watched.ring.get("simulated") else None,
        }
        yield Batch(GPU, GPU.batch(row, rows=1))


def _busy_rows(context: Context, watched: _Watched, all_of_it: bool) -> Iterator[Batch]:
    found = watched.busy.close(time.monotonic_ns(), all_of_it)
    if found:
        yield Batch(GPU_BUSY, _busy_batch(context, watched, found))


def _busy_batch(context: Context, watched: _Watched, found: list[Interval]) -> pa.RecordBatch:
    devices = watched.ring.devices()
    starts = [each.start_ns + watched.offset_ns for each in found]
    now = watched.ring.get("level"), None
    held = [watched.course.over(each.start_ns, each.start_ns + INTERVAL_NS) or now for each in found]
    columns = {
        "start_ns": starts,
        "end_ns": [start + INTERVAL_NS for start in starts],
        "node": context.node,
        "process_uid": watched.process_uid,
        "gpu_uuid": [devices[n].uuid if (n := each.device) in devices else str(n) for each in found],
        "busy_ns": [each.busy_ns for each in found],
        "kernel_ns": [each.kernel_ns for each in found],
        "executions": [each.executions for each in found],
        "detail": [LEVELS[min(level, 3)] for level, _ in held],
        "overhead_ratio": pa.array([ratio for _, ratio in held], pa.float64()),
        "simulated": True if watched.ring.get("simulated") else None,
    }
    return GPU_BUSY.batch(columns, rows=len(found))


def _count_missed(context: Context, watched: _Watched, taken: Taken) -> None:
    """Count what a ring lost: between the last record that was read and the first that could be read again."""
    after = int(taken.records["start"][0]) + watched.offset_ns if len(taken.records) else context.clock.now_ns()
    before = watched.last_ns or watched.ring.get("opened_ns") + watched.offset_ns
    watched.overrun = True
    for reason, count in (("ring overrun", taken.overrun), ("record never finished", taken.unfinished)):
        context.lost(reason, count, min(before, after), after, process_uid=watched.process_uid)


def _count_losses(context: Context, watched: _Watched) -> None:
    reason = watched.ring.reason
    if reason and reason != watched.said:
        log.warning("process %s: %s", watched.process_uid, reason)
        context.lost(reason, 1, lower_bound=True, process_uid=watched.process_uid)
    watched.said = reason
    for name, text in _LOSSES.items():
        now = watched.ring.get(name)
        context.lost(text, now - watched.losses.get(name, 0), process_uid=watched.process_uid)
        watched.losses[name] = now


def _count_untold(context: Context, watched: _Watched) -> None:
    """Count executions that CUPTI still held when their process was killed: launches that were never answered."""
    if not watched.overrun:
        untold = watched.awaited - watched.ring.get("lost_by_cupti")
        began_ns = watched.last_ns or context.clock.now_ns()
        reason = "execution untold when its process ended"
        context.lost(reason, untold, began_ns, lower_bound=True, process_uid=watched.process_uid)


def _steer(context: Context, watched: _Watched, now_ns: int) -> None:
    """Keep the library under its budget, and follow the detail that is asked for."""
    level, first = watched.ring.get("level"), not watched.budget.at_ns
    cost_ratio = watched.budget.measure(watched.ring, now_ns)
    if not first:  # The first look has nothing to compare with.
        watched.course.note(now_ns, level, cost_ratio)
    watched.budget.compare_levels(watched.ring, now_ns)
    done = watched.budget.steer(watched.ring)
    if done:
        log.info("process %s: cost %.4f of its time; %s", watched.process_uid, cost_ratio, done)
    if context.detail() == _ALL and not watched.ring.get("pinned") and level == 2:
        watched.ring.set("node_steps", _WINDOW_STEPS)
