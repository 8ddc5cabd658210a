"""Writes messages of the engine wire with vLLM's own classes and encoder: `python vllm_recorder.py FILE`, by vLLM's Python.

FILE becomes a msgpack list of [kind, version, body], kind "add" or "outputs": what tests read where vLLM is not installed.
Prompts and answers are the token ids 424242 and 434343, so that a search finds them wherever they should not be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import vllm
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import (
    EngineCoreEvent,
    EngineCoreEventType,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    UtilityOutput,
)
from vllm.v1.metrics.stats import PrefillStats, PrefixCacheStats, SchedulerIterationDetails, SchedulerStats
from vllm.v1.serial_utils import MsgpackEncoder

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


def request(number: int, prompt: int, **transfer: object) -> EngineCoreRequest:
    sampling = SamplingParams(
        max_tokens=5, stop=["secret stop"], extra_args={"kv_transfer_params": transfer} if transfer else None
    )
    return EngineCoreRequest(
        f"cmpl-{number}-0-89abcdef", [424242] * prompt, None, sampling, None, 1.7e9, None, None, None,
        trace_headers=TRACE, external_req_id=f"cmpl-{number}-0",
    )  # fmt: skip


def outputs(step: int) -> EngineCoreOutputs:
    queued = [
        EngineCoreEvent.new_event(kind, 100.0 + 0.25 * kind)
        for kind in (EngineCoreEventType(1), EngineCoreEventType(2))
    ]
    given = [
        EngineCoreOutput(
            f"cmpl-{number}-0-89abcdef",
            [434343],
            finish_reason=FinishReason(number % 3) if step == 3 else None,
            stop_reason="secret stop" if step == 3 else None,
            events=queued if step == 1 else None,
            trace_headers=TRACE,
            prefill_stats=PrefillStats(11, 7, 4, 4, 0, 7) if step == 1 else None,
        )
        for number in range(7)
    ]
    cache = PrefixCacheStats(preempted_requests=step, preempted_queries=10 * step, preempted_hits=step)
    details = SchedulerIterationDetails(step, 7 if step == 1 else 0, 49 if step == 1 else 0, 0, 7, 3.5)
    stats = SchedulerStats(7, 2, kv_cache_usage=0.25, iteration_details=details, prefix_cache_stats=cache)
    return EngineCoreOutputs(
        0, given, stats, 101.0 + step, finished_requests={"cmpl-0-0-89abcdef"} if step == 3 else None
    )


def main(file: str) -> None:
    encode = MsgpackEncoder().encode
    said: list[tuple[str, object]] = [("add", request(number, 11)) for number in range(6)]
    said += [("add", request(6, 11, do_remote_prefill=True, remote_request_id="far-1"))]
    said += [("outputs", outputs(step)) for step in (1, 2, 3)]
    said += [("outputs", EngineCoreOutputs(timestamp=5.0, utility_output=UtilityOutput(1)))]
    rows = [(kind, vllm.__version__, bytes(encode(each)[0])) for kind, each in said]
    Path(file).write_bytes(msgspec.msgpack.encode(rows))


if __name__ == "__main__":
    main(sys.argv[1])
