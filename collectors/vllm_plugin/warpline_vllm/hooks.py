"""The wrappers around vLLM's scheduler and worker. Each calls what it wraps first or last, whatever happens to itself."""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from . import steps
from .ring import EXECUTED, FINISHED, SCHEDULED, UPDATED, StepRing, directory
from .transfers import Transfers

log = logging.getLogger("warpline_vllm")

ATTRIBUTE = "warpline_step"
"""The step's ordinal travels on SchedulerOutput, which vLLM pickles to its workers with all its attributes."""


class Recorder:
    """One process's ring, made at its first step; after a failure it does nothing more."""

    def __init__(self, simulated: bool = False) -> None:
        """Open nothing yet: most processes run no steps."""
        self._simulated = simulated
        self._ring: StepRing | None = None
        self._off = False
        self._tell: Callable[[int], None] | None = None
        self._looked = False
        self.ordinal = 0

    def write(self, kind: int, parts: Callable[[], tuple[bytes, ...]]) -> None:
        """Write one record, or switch off for good with the reason."""
        if self._off:
            return
        try:
            self.ring().write(kind, *parts())
        except Exception as error:  # Fail open: the engine goes on as if we were not there.
            self.fail(error)

    def ring(self) -> StepRing:
        """Return this process's ring."""
        if self._ring is None:
            self._ring = StepRing(directory(), simulated=self._simulated)
        return self._ring

    def fail(self, error: Exception) -> None:
        """Say once why nothing more is recorded."""
        self._off = True
        log.warning("warpline: step ledger off: %s", error)
        self.refuse(f"{type(error).__name__}: {error}")

    def refuse(self, reason: str) -> None:
        """Say in the ring, if there is one, what is no longer recorded and why."""
        if self._ring is not None:
            self._ring.refuse(reason)

    def tell_library(self, ordinal: int) -> None:
        """Tell the library that CUDA loaded, if it did, which step this thread runs; -1 is none, less a dummy step."""
        if not self._looked:
            self._looked = True
            self._tell = _set_step()
        if self._tell is not None:
            self._tell(ordinal)


def _set_step() -> Callable[[int], None] | None:
    """Return the injected library's function, where the library is already in this process: it is never loaded for us."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {line.rstrip("\n").partition("/")[2] for line in maps if "libwarpline_cuda.so" in line}
    for path in paths:
        function = ctypes.CDLL("/" + path).warpline_set_step
        function.argtypes, function.restype = [ctypes.c_int64], None
        return function
    return None


def wrap_scheduler(scheduler: type, recorder: Recorder) -> None:
    """Wrap `schedule`, `update_from_output`, `finish_requests`, and what tells of KV transfers; twice is once."""
    schedule, update = scheduler.schedule, scheduler.update_from_output  # type: ignore[attr-defined]
    if hasattr(schedule, "warpline"):
        return

    @functools.wraps(schedule)
    def scheduling(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = schedule(self, *args, **kwargs)
        _note_scheduled(recorder, self, output)
        return output

    @functools.wraps(update)
    def updating(self: Any, scheduler_output: Any, model_runner_output: Any, *args: Any, **kwargs: Any) -> Any:
        result = update(self, scheduler_output, model_runner_output, *args, **kwargs)
        ordinal = getattr(scheduler_output, ATTRIBUTE, None)
        if ordinal is not None:
            now = time.monotonic_ns()
            recorder.write(UPDATED, lambda: steps.updated(ordinal, now, model_runner_output))
            if getattr(self, "finished_req_ids", True):  # Nothing has ended: what came out need not be gone through.
                _note_finished(recorder, ordinal, now, lambda: steps.ended_in(result))
        return result

    scheduling.warpline = updating.warpline = True  # type: ignore[attr-defined]
    scheduler.schedule, scheduler.update_from_output = scheduling, updating  # type: ignore[attr-defined]
    _wrap_finishing(scheduler, recorder)
    Transfers(recorder).wrap(scheduler)


def _note_scheduled(recorder: Recorder, scheduler: Any, output: Any) -> None:
    now = time.monotonic_ns()
    try:
        if not output.total_num_scheduled_tokens and not output.finished_req_ids:
            return
        ordinal, recorder.ordinal = recorder.ordinal, recorder.ordinal + 1
        setattr(output, ATTRIBUTE, ordinal)
        if not ordinal:
            recorder.ring().set_engine(_engine_index(scheduler))
    except Exception as error:  # Fail open.
        recorder.fail(error)
        return
    recorder.write(SCHEDULED, lambda: steps.scheduled(ordinal, now, output))


def _wrap_finishing(scheduler: type, recorder: Recorder) -> None:
    finish = getattr(scheduler, "finish_requests", None)
    if finish is None:
        return

    @functools.wraps(finish)
    def finishing(self: Any, *args: Any, **kwargs: Any) -> Any:
        dropped = finish(self, *args, **kwargs)
        now = time.monotonic_ns()
        _note_finished(
            recorder, -1, now, lambda: [(each.request_id, each.get_finished_reason()) for each in dropped or ()]
        )
        return dropped

    scheduler.finish_requests = finishing  # type: ignore[attr-defined]


def _note_finished(recorder: Recorder, ordinal: int, now: int, ended: Callable[[], Sequence[tuple[str, Any]]]) -> None:
    """Write why requests ended. A vLLM that tells it otherwise keeps its ledger: only the reasons stay unknown."""
    try:
        found = ended()
    except (AttributeError, TypeError):
        return
    if found:
        recorder.write(FINISHED, lambda: steps.finished(ordinal, now, found))


def _engine_index(scheduler: Any) -> int:
    parallel = getattr(getattr(scheduler, "vllm_config", None), "parallel_config", None)
    return int(getattr(parallel, "data_parallel_rank", 0) or 0)


def wrap_worker(worker: type, recorder: Recorder) -> None:
    """Wrap `execute_model`, `sample_tokens` and `execute_dummy_batch`; twice is once."""
    execute = worker.execute_model  # type: ignore[attr-defined]
    if hasattr(execute, "warpline"):
        return
    state = threading.local()

    @functools.wraps(execute)
    def executing(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        ordinal = _begin(recorder, state, scheduler_output)
        start = time.monotonic_ns()
        try:
            return execute(self, scheduler_output, *args, **kwargs)
        finally:
            if ordinal >= 0:
                _end(recorder, ordinal, start, scheduler_output, self)

    executing.warpline = True  # type: ignore[attr-defined]
    worker.execute_model = executing  # type: ignore[attr-defined]
    _wrap_sampling(worker, recorder, state)
    _wrap_dummy(worker, recorder)


def _begin(recorder: Recorder, state: threading.local, output: Any) -> int:
    """The launches that follow belong to this step, until sampling or the next one."""
    try:
        ordinal = int(getattr(output, ATTRIBUTE, -1))
        state.ordinal = ordinal
        recorder.tell_library(ordinal)
        return ordinal if output.total_num_scheduled_tokens else -1
    except Exception as error:  # Fail open.
        recorder.fail(error)
        return -1


def _end(recorder: Recorder, ordinal: int, start: int, output: Any, worker: Any) -> None:
    times, thread = (start, time.monotonic_ns()), threading.get_native_id()
    rank = getattr(worker, "rank", 0)
    recorder.write(EXECUTED, lambda: steps.executed(ordinal, times, output, thread, int(rank or 0)))


def _tell(recorder: Recorder, ordinal: int) -> None:
    try:
        recorder.tell_library(ordinal)
    except Exception as error:  # Fail open.
        recorder.fail(error)


def _wrap_sampling(worker: type, recorder: Recorder, state: threading.local) -> None:
    sample = getattr(worker, "sample_tokens", None)
    if sample is None:
        return

    @functools.wraps(sample)
    def sampling(self: Any, *args: Any, **kwargs: Any) -> Any:
        _tell(recorder, getattr(state, "ordinal", -1))
        return sample(self, *args, **kwargs)

    worker.sample_tokens = sampling  # type: ignore[attr-defined]


def _wrap_dummy(worker: type, recorder: Recorder) -> None:
    dummy = getattr(worker, "execute_dummy_batch", None)
    if dummy is None:
        return
    count = [0]

    @functools.wraps(dummy)
    def idling(self: Any, *args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        ordinal, start = -1 - count[0], time.monotonic_ns()  # A dummy step is no scheduler's: its numbers go down.
        _tell(recorder, ordinal)
        try:
            return dummy(self, *args, **kwargs)
        finally:
            _tell(recorder, -1)
            _end(recorder, ordinal, start, None, self)

    worker.execute_dummy_batch = idling  # type: ignore[attr-defined]


def _on_scheduler(module: ModuleType, recorder: Recorder) -> None:
    wrap_scheduler(module.Scheduler, recorder)


def _on_worker(module: ModuleType, recorder: Recorder) -> None:
    wrap_worker(module.Worker, recorder)


TARGETS: dict[str, Callable[[ModuleType, Recorder], None]] = {
    "vllm.v1.core.sched.scheduler": _on_scheduler,
    "vllm.v1.worker.gpu_worker": _on_worker,
}
_RECORDER = Recorder()


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps a target when it has been imported: importing it ourselves would change vLLM's order of imports."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in TARGETS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            _wrap_loader(spec.loader, name)
        return spec


def _wrap_loader(loader: Any, name: str) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _apply(name, module)

    loader.exec_module = exec_module


def _apply(name: str, module: ModuleType) -> None:
    try:
        TARGETS[name](module, _RECORDER)
    except Exception as error:  # Fail open.
        _RECORDER.fail(error)


def install() -> None:
    """Wrap every target, now or when it is imported; twice is once."""
    for name in TARGETS:
        module = sys.modules.get(name)
        if module is not None:
            _apply(name, module)
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
