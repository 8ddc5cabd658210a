"""Makes sglang_trace.otlp: spans by SGLang's own tracing (srt/observability), for a schedule that is written down here.

    pip download --no-deps sglang==0.5.23 && unzip sglang-*.whl 'sglang/srt/observability/*' -d FOLDER
    python tests/correlator/data/make_sglang_trace.py FOLDER OUT

Only `trace.py` and `req_time_stats.py` run; what they import besides (torch, by way of it) is stood in for by empty modules.
The scheduler has a thread of its own, as it has a process in SGLang. Nothing of this machine stays in the spans.
"""

from __future__ import annotations

import enum
import importlib.util
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

RIDS = ("6513270e269e0d37f2a74de452e6b438", "d23f0824128b2f330c5c7fd0a6a3a450", "9531985d5d9dc9f81818e811892f902b")
TOKENS = ((100, 0, 7), (60, 16, 6), (900, 0, 5))
"""(prompt, cached, put out) of each request."""


class Mode(enum.IntEnum):
    """SGLang's ForwardMode, as far as it is asked for."""

    EXTEND = 1
    DECODE = 2

    def is_decode(self) -> bool:
        return self is Mode.DECODE

    def is_prefill(self) -> bool:
        return self is Mode.EXTEND

    def is_prebuilt(self) -> bool:
        return False


class Disaggregation(enum.Enum):
    """SGLang's DisaggregationMode."""

    NULL = "null"
    PREFILL = "prefill"
    DECODE = "decode"


def stand_in() -> None:
    """Put the modules that the two import in place."""
    value = lambda v: types.SimpleNamespace(get=lambda: v)  # noqa: E731
    environment = types.SimpleNamespace(
        SGLANG_OTLP_EXPORTER_SCHEDULE_DELAY_MILLIS=value(500),
        SGLANG_OTLP_EXPORTER_MAX_EXPORT_BATCH_SIZE=value(64),
        SGLANG_TRACE_ASYNC=value(False),
    )
    resources = types.SimpleNamespace(trace_level=None)
    utils = {"get_int_env_var": lambda name, default=0: default, "get_bool_env_var": lambda name, default=None: False}
    modules: dict[str, dict[str, Any]] = {
        **{name: {} for name in ("", ".srt", ".srt.observability", ".srt.disaggregation", ".srt.model_executor")},
        ".srt.utils": utils,
        ".srt.environ": {"envs": environment},
        ".srt.runtime_context": {"get_resources": lambda: resources},
        ".srt.utils.poll_timer": {"PollTimer": object},
        ".srt.disaggregation.utils": {"DisaggregationMode": Disaggregation},
        ".srt.model_executor.forward_batch_info": {"ForwardMode": Mode},
        ".srt.observability.metrics_collector": dict.fromkeys(
            ("EncoderMetricsCollector", "SchedulerMetricsCollector", "TokenizerMetricsCollector"), object
        ),
        ".srt.observability.trace_async": {
            "TraceReqContextAsync": type("TraceReqContextAsync", (), {}),
            "is_async_tracing_available": lambda: False,
        },
    }
    for name, content in modules.items():
        module = types.ModuleType("sglang" + name)
        module.__dict__.update(content, __path__=[])
        sys.modules["sglang" + name] = module


def load(folder: Path, name: str) -> Any:
    """Return one of SGLang's own modules."""
    path = folder / "sglang" / "srt" / "observability" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"sglang.srt.observability.{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Run the schedule and write what was exported."""
    from opentelemetry import trace as api
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    kept: list[Any] = []

    class Keep(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            kept.extend(spans)
            return SpanExportResult.SUCCESS

    stand_in()
    trace, stats = load(folder, "trace"), load(folder, "req_time_stats")
    trace.get_otlp_span_exporter = lambda endpoint: Keep()
    trace._get_host_id = lambda: "0" * 32
    trace.process_tracing_init("", "sglang")
    trace.trace_set_thread_info("Tokenizer")
    served = [_received(stats, rid) for rid in RIDS]
    scheduler = threading.Thread(target=_schedule, args=(trace, stats, served))
    scheduler.start()
    scheduler.join()
    for rid, (prompt, cached, put_out), each in zip(RIDS, TOKENS, served, strict=True):
        tokens = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": put_out}
        each.set_first_token_time()
        each.set_finished_time(
            span_attrs={**{f"gen_ai.usage.{k}": v for k, v in tokens.items()}, "gen_ai.request.id": rid}
        )
    api.get_tracer_provider().force_flush()  # type: ignore[attr-defined]
    out.write_bytes(encode_spans(kept).SerializeToString())


def _received(stats: Any, rid: str) -> Any:
    each = stats.APIServerReqTimeStats()
    each.init_trace_ctx(rid, None)
    each.set_created_time()
    each.set_tokenize_finish_time()
    each.set_api_server_dispatch_time()
    each.set_api_server_dispatch_finish_time()
    return each


def _schedule(trace: Any, stats: Any, served: list[Any]) -> None:
    """One alone; two prompts of which one is computed in two chunks; a retraction, and what is computed again."""
    trace.trace_set_thread_info("Scheduler", 0)
    times: dict[int, Any] = {}

    def arrive(number: int) -> None:
        context = trace.TraceReqContext.__new__(trace.TraceReqContext)
        context.__setstate__(served[number].trace_ctx.__getstate__())  # As it goes from process to process.
        base = stats.ReqTimeStatsBase()
        base.trace_ctx = context
        times[number] = stats.SchedulerReqTimeStats.new_from_obj(base)
        times[number].set_scheduler_recv_time()
        times[number].set_wait_queue_entry_time()

    def batch(mode: Mode, *numbers: int) -> None:
        requests = [types.SimpleNamespace(time_stats=times[n]) for n in numbers]
        if mode is Mode.EXTEND:
            stats.set_time_batch(requests, "set_forward_entry_time")
        stats.set_schedule_time_batch(types.SimpleNamespace(reqs=requests, forward_mode=mode))
        time.sleep(0.002)

    def prefill(*numbers: int, unfinished: tuple[int, ...] = ()) -> None:
        batch(Mode.EXTEND, *numbers)
        for n in numbers:
            done = times[n].set_last_chunked_prefill_finish_time if n in unfinished else None
            (done or times[n].set_prefill_finished_time)()

    def decode(*numbers: int) -> None:
        batch(Mode.DECODE, *numbers)
        for n in numbers:
            times[n].set_last_decode_finish_time()

    arrive(0)
    prefill(0)
    decode(0)
    arrive(1)
    arrive(2)
    prefill(1, 2, unfinished=(2,))
    decode(0, 1)
    prefill(2)
    decode(0, 1, 2)
    decode(0, 1, 2)
    times[2].set_retract_time()
    decode(0, 1)
    prefill(2)
    decode(0, 1, 2)
    for each in times.values():
        each.set_completion_time()


if __name__ == "__main__":
    main()
