"""KV transfers as vLLM's scheduler sees them: requests that wait for a KV cache, and KV caches that wait to be fetched.

TRANSFER: start, end, direction (0 received, 1 sent), outcome (0 not told, 1 done, 2 failed, 3 aborted); then the request's
id and the id that both ends know, with a NUL between them. One record for each transfer, once it has ended.

Times are CLOCK_MONOTONIC in ns, and bounds: of what is received, from when the scheduler let its request wait for it to when
the workers' word that it had come reached the scheduler, or its request ended; of what is sent, from the end of its request,
whose blocks are kept, to the workers' word that they may go. The wire was at it for a part of this. vLLM says the same of a
cache that nobody fetched in time as of one that was sent: no outcome is told of these. A cache that is loaded within a step
is waited for by nobody, and is not told.
"""

from __future__ import annotations

import functools
import logging
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .ring import TRANSFER

if TYPE_CHECKING:
    from .hooks import Recorder

log = logging.getLogger("warpline_vllm")

LAYOUT = struct.Struct("<qqII")
RECEIVED, SENT = range(2)
NOT_TOLD, DONE, FAILED, ABORTED = range(4)
_WAITS, _HAS_COME = "in_progress", "completed_waiting"
"""vLLM's stages of a request that wants a KV cache (vllm/v1/metrics/stats.py, KV_FETCH_STAGES)."""
_MOST = 65536
"""Transfers that may be open: the oldest beyond it are let go."""


class Transfers:
    """What one process's scheduler waits for. A vLLM that tells it otherwise keeps its step ledger: only transfers end."""

    def __init__(self, recorder: Recorder) -> None:
        """Know of no transfer."""
        self._recorder = recorder
        self._open: dict[tuple[int, str], tuple[int, str]] = {}
        self._off = False

    def wrap(self, scheduler: type) -> None:
        """Look on where the scheduler begins and ends to wait; what it does not have is left alone."""
        self._after(scheduler, "_set_kv_fetch_stage", self._stage)
        self._after(scheduler, "_handle_failed_recving", self._failed)
        self._after(scheduler, "_handle_invalid_blocks", self._failed)
        self._after(scheduler, "_connector_finished", self._kept)
        self._after(scheduler, "_update_from_kv_xfer_finished", self._fetched)

    def _after(self, scheduler: type, name: str, note: Callable[..., None]) -> None:
        original = getattr(scheduler, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def noting(its: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(its, *args, **kwargs)
            if not self._off:
                try:
                    note(its, result, *args, **kwargs)
                except Exception as error:  # Fail open.
                    self._fail(error)
            return result

        setattr(scheduler, name, noting)

    def _fail(self, error: Exception) -> None:
        self._off = True
        self._open.clear()
        log.warning("warpline: KV transfers off: %s", error)
        self._recorder.refuse(f"KV transfers: {type(error).__name__}: {error}")

    def _stage(self, scheduler: Any, _: None, request: Any, stage: str | None) -> None:
        """A request begins to wait for its KV cache, has it, or (no stage) ends or runs."""
        if stage == _WAITS:
            self._begin(RECEIVED, request.request_id, request.kv_transfer_params or {})
        elif stage == _HAS_COME:
            broken = request.request_id in scheduler.failed_recving_kv_req_ids
            self._end(RECEIVED, request.request_id, FAILED if broken else DONE)
        elif stage is None:
            self._end(RECEIVED, request.request_id, ABORTED)

    def _failed(self, _: Any, ended: set[str], *args: Any) -> None:
        """Requests end because what they waited for did not come whole."""
        for each in ended:
            self._end(RECEIVED, each, FAILED)

    def _kept(self, _: Any, result: tuple[bool, dict[str, Any] | None], request: Any) -> None:
        """A request has ended; its blocks may be kept for another engine."""
        kept, offered = result
        asked = request.kv_transfer_params or {}
        if kept and asked.get("do_remote_decode"):
            self._begin(SENT, request.request_id, {**(offered or {}), **asked})

    def _fetched(self, _: Any, result: None, said: Any) -> None:
        for each in said.finished_sending or ():
            self._end(SENT, each, NOT_TOLD)

    def _begin(self, direction: int, request_id: str, params: dict[str, Any]) -> None:
        known = params.get("transfer_id") or params.get("remote_request_id") or ""
        self._open[direction, request_id] = (time.monotonic_ns(), str(known))
        while len(self._open) > _MOST:
            self._open.pop(next(iter(self._open)))

    def _end(self, direction: int, request_id: str, outcome: int) -> None:
        """Tell of a transfer; of one that was not seen to begin nothing is known."""
        found = self._open.pop((direction, request_id), None)
        if found is not None:
            start, known = found
            head = LAYOUT.pack(start, time.monotonic_ns(), direction, outcome)
            names = f"{request_id}\0{known}".encode("utf-8", "replace")
            self._recorder.write(TRANSFER, lambda: (head, names))
