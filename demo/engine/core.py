"""The engine process: requests in by ZMQ, steps on the GPU, tokens out by ZMQ.

Run by the API server: `python -m demo.engine.core INPUT OUTPUT`. It is watched as vLLM is: by the plugin's own code, by
the library that CUDA loads, and from outside.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from collectors.vllm_plugin.warpline_vllm import hooks
from demo.engine.scheduler import Policy, Request, Scheduler, SchedulerOutput
from demo.engine.wire import (
    ABORT,
    ABORTED,
    ADD,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    IterationDetails,
    PrefixCacheStats,
    SchedulerStats,
    UtilityOutput,
)
from demo.engine.worker import Worker

_IDENTITY = (0).to_bytes(2, "little")
_IDLE_MS = 1000
_XID_CONTAINED = 94
"""NVIDIA's code of an uncorrectable memory error that was contained to one process."""


class Engine:
    """One engine: a scheduler, a worker, two sockets."""

    def __init__(self, input_address: str, output_address: str) -> None:
        """Connect, and say that we are ready."""
        self.context = zmq.Context()
        self.input = self.context.socket(zmq.DEALER)
        self.input.setsockopt(zmq.IDENTITY, _IDENTITY)
        self.input.connect(input_address)
        self.output = self.context.socket(zmq.PUSH)
        self.output.connect(output_address)
        self.scheduler, self.worker = Scheduler(Policy()), Worker()
        self.memory_errors = 0
        self.encoder, self.steps = msgspec.msgpack.Encoder(), 0
        self._requests = msgspec.msgpack.Decoder(EngineCoreRequest)
        self.input.send(b"ready")

    def run(self) -> None:
        """Serve until the API server's process ends."""
        while True:
            self._receive(0 if self.scheduler.has_work else _IDLE_MS)
            if self.scheduler.has_work:
                self._step()

    def _receive(self, wait_ms: int) -> None:
        while self.input.poll(wait_ms):
            kind, payload = self.input.recv_multipart()
            if kind == ADD:
                self.scheduler.add(self._requests.decode(payload))
            elif kind == ABORT:
                self.scheduler.finish_requests(msgspec.msgpack.decode(payload), ABORTED)
            else:
                self._call(*msgspec.msgpack.decode(payload))
            wait_ms = 0

    def _step(self) -> None:
        start = time.monotonic()
        planned = self.scheduler.schedule()
        contexts = {request.request_id: request.computed for request, _ in planned.members}
        given = self.worker.execute_model(planned)
        emitted = self.scheduler.update_from_output(planned, given)[0].outputs
        self.steps += 1
        outputs = [_refusal(request, "larger than the KV cache") for request in self.scheduler.impossible]
        self.scheduler.impossible = []
        if not planned.members and not outputs:
            return
        details = self._details(planned, contexts, (time.monotonic() - start) * 1000)
        outputs += emitted
        self._send(EngineCoreOutputs(0, outputs, self._stats(details), time.monotonic()))

    def _details(self, planned: SchedulerOutput, contexts: dict[str, int], elapsed_ms: float) -> IterationDetails:
        """Totals as vLLM counts them: a request is context for as long as it has put out nothing."""
        context = [
            amount
            for request, amount in planned.members
            if contexts[request.request_id] < len(request.core.prompt_token_ids)
        ]
        requests, tokens = len(planned.members), planned.total_num_scheduled_tokens
        return IterationDetails(
            self.steps, len(context), sum(context), requests - len(context), tokens - sum(context), elapsed_ms
        )

    def _stats(self, details: IterationDetails | None) -> SchedulerStats:
        scheduler = self.scheduler
        used = 1 - scheduler.free_blocks / max(scheduler.policy.kv_blocks, 1)
        counted, scheduler.cache_stats = scheduler.cache_stats, PrefixCacheStats()
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        return SchedulerStats(running, waiting, self.steps, 0, used, details, counted)

    def _send(self, outputs: EngineCoreOutputs) -> None:
        self.output.send(self.encoder.encode(outputs))

    def _call(self, client: int, call_id: int, method: str, arguments: list[Any]) -> None:
        """Answer a call of one of our own methods, as vLLM answers its utility calls."""
        allowed: dict[str, Callable[..., Any]] = {
            "state": self.state,
            "set_clock_ratio": self.set_clock_ratio,
            "set_policy": self.set_policy,
            "fail_memory": self.fail_memory,
            "spill_weights": self.spill_weights,
            "slow_gemm": self.slow_gemm,
        }
        try:
            answer = UtilityOutput(call_id, None, allowed[method](*arguments))
        except (KeyError, TypeError, ValueError) as error:
            answer = UtilityOutput(call_id, f"{type(error).__name__}: {error}")
        self._send(EngineCoreOutputs(utility_output=answer, timestamp=time.monotonic()))

    def state(self) -> dict[str, Any]:
        """Return what the GPU and the scheduler are at."""
        scheduler, driver = self.scheduler, self.worker.driver
        return {
            "busy_ns": driver.busy_ns,
            "clock_ratio": driver.clock_ratio,
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "preemptions": scheduler.preemptions,
            "kv_used_ratio": 1 - scheduler.free_blocks / max(scheduler.policy.kv_blocks, 1),
            "steps": self.steps,
            "received_bytes": self.worker.received_bytes,
            "sent_bytes": self.worker.sent_bytes,
            "memory_errors": self.memory_errors,
            "xid": _XID_CONTAINED if self.memory_errors else 0,
            **dataclasses.asdict(scheduler.policy),
        }

    def set_clock_ratio(self, ratio: float) -> float:
        """Fault: let the GPU's clock fall to a share of its full speed."""
        if not 0 < ratio <= 1:
            raise ValueError(f"clock ratio {ratio}: not in (0, 1]")
        self.worker.driver.clock_ratio = ratio
        return ratio

    def spill_weights(self, megabytes: int) -> int:
        """Fault: let so much of the weights lie in the host's memory, from where each step reads them."""
        if megabytes < 0:
            raise ValueError(f"weights on the host {megabytes} MB: not at least 0")
        self.worker.weights_on_host = megabytes * 1_000_000
        return megabytes

    def slow_gemm(self, times: float) -> float:
        """Fault: let matrix multiplications take so many times as long, as after an update that chose worse ones."""
        if not 1 <= times <= 100:
            raise ValueError(f"slowdown of matrix multiplications {times}: not in [1, 100]")
        self.worker.gemm_slowdown = times
        return times

    def fail_memory(self, count: int) -> int:
        """Fault: let the GPU find `count` uncorrectable memory errors; requests in flight lose what they have and end."""
        if count < 1:
            raise ValueError(f"memory errors {count}: not at least 1")
        self.memory_errors += count
        lost = self.scheduler.finish_requests([request.request_id for request in self.scheduler.running], ABORTED)
        if lost:
            outputs = [_refusal(request, "uncorrectable memory error") for request in lost]
            self._send(EngineCoreOutputs(0, outputs, self._stats(None), time.monotonic()))
        return self.memory_errors

    def set_policy(self, values: dict[str, int]) -> dict[str, int]:
        """Fault: change how batches are made, or how much KV cache there is."""
        known = {each.name for each in dataclasses.fields(Policy)}
        for name, value in values.items():
            if name not in known or value < 1:
                raise ValueError(f"policy {name}={value}: names are {', '.join(sorted(known))}, values from 1")
        blocks = values.pop("kv_blocks", None)
        for name, value in values.items():
            setattr(self.scheduler.policy, name, value)
        if blocks:
            self.scheduler.resize(blocks)
        return dataclasses.asdict(self.scheduler.policy)


def _refusal(request: Request, why: str) -> EngineCoreOutput:
    """The end of a request that the engine gives up."""
    return EngineCoreOutput(request.request_id, [], finish_reason=ABORTED, stop_reason=why)


def main() -> None:
    """Serve with the plugin's wrappers around scheduler and worker."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # As vLLM ends: in order, with its last records told.
    recorder = hooks.Recorder(simulated=True)
    hooks.wrap_scheduler(Scheduler, recorder)
    hooks.wrap_worker(Worker, recorder)
    Engine(*sys.argv[1:3]).run()


if __name__ == "__main__":
    main()
