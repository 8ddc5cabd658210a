"""A simulated scene for the dashboard: a model server's last half hour and one request down to its kernels.

Nothing here was measured: every row that can say so is marked simulated. Tests, screenshots and `bench/ui.py` share it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from warpline import schema
from warpline.batch import Batch

SECOND, MILLI, MICRO = 1_000_000_000, 1_000_000, 1_000
NODE, CLIENT_NODE = "gpu-node-1", "client-node"
SERVER, ENGINE, CLIENT = f"{NODE}:500:4100", f"{NODE}:510:4200", f"{CLIENT_NODE}:900:777"
REQUEST_ID = "7b3f2a10-44aa-4c1e-9f00-0000000000aa"
RESPONSE_ID = f"chatcmpl-{REQUEST_ID}"
INTERNAL_ID = f"{RESPONSE_ID}-deadbeef"
MODEL = "llama-3.1-70b"
CLASSES = ("gemm", "attention", "normalisation", "elementwise", "sampling", "memory")
KERNELS = (
    ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute", 0, 14.0),
    ("flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>>", 1, 11.0),
    ("void vllm::rms_norm_kernel<c10::BFloat16, 8>", 2, 2.4),
    ("void vllm::act_and_mul_kernel<c10::BFloat16, silu>", 3, 2.0),
    ("void vllm::rotary_embedding_kernel<c10::BFloat16, true>", 3, 1.7),
    ("void at::native::softmax_warp_forward<float, float, float, 10>", 4, 3.1),
    ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>", 5, 1.5),
)


@dataclass(frozen=True)
class Scene:
    """Batches, and where in time the one request lies."""

    batches: list[Batch]
    start_ns: int
    end_ns: int


def _batch(table: str, **columns: object) -> Batch:
    declared = schema.table(table)
    return Batch(declared, declared.batch(columns))


def scene(kernels: int = 100_000, requests: int = 2_000, gpus: int = 8, now_ns: int | None = None) -> Scene:
    """Return one request with `kernels` executions on `gpus` GPUs × 2 CUDA streams among `requests` others."""
    now = (time.time_ns() if now_ns is None else now_ns) // SECOND * SECOND
    lasted = int(np.clip(kernels * 10 * MICRO, 800 * MILLI, 60 * SECOND))
    start = now - 120 * SECOND - lasted
    steps = _steps(start, lasted, max(kernels // (gpus * 400), 24))
    batches = [
        *_traffic(now, requests),
        *_one_request(start, lasted, steps),
        *_gpu_work(steps, kernels, gpus),
        *_threads(start, lasted, max(kernels // 20, 300)),
        *_samples(start - 60 * SECOND, lasted + 120 * SECOND, gpus),
        *_health(now),
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


def _one_request(start: int, lasted: int, steps: np.ndarray) -> list[Batch]:
    count, end = steps.shape[1], start + lasted
    skew = -180 * MICRO
    first_token = int(steps[1, 0]) + 2 * MILLI
    exchange = dict(
        protocol="http/1.1", method="POST", path="/v1/chat/completions", status=200, host="llm.prod:8000",
        request_id=REQUEST_ID, response_id=RESPONSE_ID, ended_by="complete", parse="full", request_bytes=48_211,
        response_bytes=96_400, chunks=count, ordinal=0,
    )  # fmt: skip
    exchanges = [
        _batch(
            "http_exchange", start_ns=[start + begin + shift], end_ns=[end - begin + shift], node=node, process_uid=process,
            pid=int(process.rsplit(":", 1)[1]), thread_id=int(process.rsplit(":", 1)[1]), side=side, connection_id=connection,
            request_end_ns=[start + begin + shift + lasted // 150], response_start_ns=[first_token - begin // 2 + shift],
            first_body_ns=[first_token - begin // 2 + shift], last_chunk_ns=[end - begin + shift - lasted // 200],
            local_address=address, local_port=port, peer_address=peer, peer_port=peer_port,
            longest_gap_ns=int(lasted * 0.08), retransmits=2 if side == "client" else 0, **exchange,
        )
        for side, node, process, connection, begin, shift, address, port, peer, peer_port in (
            ("client", CLIENT_NODE, CLIENT, 71, 0, skew, "10.0.9.4", 51_732, "10.0.1.7", 8000),
            ("server", NODE, SERVER, 1204, lasted // 60, 0, "10.0.1.7", 8000, "10.0.9.4", 51_732),
        )
    ]  # fmt: skip
    hop = _batch(
        "hop", start_ns=[start + lasted // 200, start + lasted // 110], end_ns=[end - lasted // 200, end - lasted // 110],
        node=[CLIENT_NODE, NODE], proxy=["istio-egress-6d9", "istio-ingress-7fc"], method="POST", path="/v1/chat/completions",
        status=200, request_id=REQUEST_ID, attempts=1, clock_error_ns=500_000,
    )  # fmt: skip
    connection = _batch(
        "connection", start_ns=[start - 40 * SECOND, start - 40 * SECOND], end_ns=[end + SECOND, end + SECOND],
        node=[CLIENT_NODE, NODE], connection_id=[71, 1204], process_uid=[CLIENT, SERVER], transport="tcp",
        role=["client", "server"], peer_address=["10.0.1.7", "10.0.9.4"], peer_port=[8000, 51_732], retransmits=[2, 0],
        state="CLOSE", sent_bytes=[48_211, 96_400], smoothed_rtt_ns=410_000,
    )  # fmt: skip
    phases = [start + lasted // 45, int(steps[0, 0]), first_token, end - lasted // 50]
    engine = _batch(
        "engine_request", start_ns=[phases[0]], end_ns=[phases[3]], node=NODE, process_uid=ENGINE, engine_index=0,
        internal_id=INTERNAL_ID, external_id=RESPONSE_ID, model=MODEL, prompt_tokens=5_213, cached_tokens=1_024,
        computed_tokens=4_189, output_tokens=count, finish_reason="stop", role="whole", observed_by="simulated", simulated=True,
    )  # fmt: skip
    events = _batch(
        "engine_event", time_ns=phases, node=NODE, process_uid=ENGINE, internal_id=INTERNAL_ID, simulated=True,
        kind=["queued", "scheduled", "first_token", "finished"],
    )  # fmt: skip
    alias = _batch(
        "alias", time_ns=[start] * 4, kind=["request_id", "response_id", "internal_id", "external_id"], scope=["", "", ENGINE, ENGINE],
        value=[REQUEST_ID, RESPONSE_ID, INTERNAL_ID, RESPONSE_ID], attempt_uid=RESPONSE_ID, request_uid=RESPONSE_ID, evidence="exact",
    )  # fmt: skip
    edge = _batch(
        "edge", time_ns=[start, start], from_kind="http_exchange", to_kind=["http_exchange", "engine_request"],
        from_id=[f"{CLIENT_NODE}/71/0/client", f"{NODE}/1204/0/server"], to_id=[f"{NODE}/1204/0/server", f"{ENGINE}/{INTERNAL_ID}"],
        relation=["carried_by", "served_by"], evidence=["derived", "exact"], rule=["addresses_and_offset", "response_id"],
        confidence=[0.98, 1.0], error_low_ns=[-240_000, 0], error_high_ns=[310_000, 0], alternatives=[0, 0],
    )  # fmt: skip
    clock = _batch(
        "clock_edge", time_ns=[start], node=CLIENT_NODE, other_node=NODE, low_ns=-240_000, high_ns=310_000, status="ok",
        method="linear_program", forward=212, reverse=208,
    )  # fmt: skip
    flow = _batch(
        "flow", time_ns=[start + lasted // 180, start + lasted // 3], node=CLIENT_NODE, verdict=["FORWARDED", "DROPPED"],
        drop_reason=[None, "POLICY_DENIED"], source_pod="client-7f", request_id=REQUEST_ID, counted=True,
    )  # fmt: skip
    return [*exchanges, hop, connection, engine, events, alias, edge, clock, flow, *_ledger(steps), _processes(start)]


def _ledger(steps: np.ndarray) -> list[Batch]:
    """Every third decode step is another's: this request sat in the rest."""
    count = steps.shape[1]
    ordinal = np.arange(9_000, 9_000 + count)
    requests = (np.arange(count) * 7919 % 13 + 4).astype(np.int64)
    step = _batch(
        "engine_step", start_ns=steps[0], end_ns=steps[1], node=NODE, process_uid=ENGINE, engine_index=0, ordinal=ordinal,
        requests=requests, context_tokens=np.where(np.arange(count) == 0, 4_189, 0), generation_tokens=requests,
        scheduled_tokens=requests, graph_mode="full", observed_by="simulated", simulated=True,
    )  # fmt: skip
    own = np.flatnonzero(np.arange(count) % 3 != 2)
    members = [
        _batch(
            "step_member", time_ns=steps[0, at], node=NODE, process_uid=ENGINE, engine_index=0, step_ordinal=ordinal[at],
            internal_id=name, scheduled_tokens=np.where(at == 0, 4_189, 1), phase=np.where(at == 0, "prefill", "decode").tolist(),
            sampled=True, level="plugin", evidence="exact", confidence=1.0, simulated=True,
        )
        for name, at in (
            (INTERNAL_ID, own),
            ("chatcmpl-other-1-00000001", np.arange(count)),
            ("chatcmpl-other-2-00000002", np.arange(1, count, 2)),
        )
    ]  # fmt: skip
    share = [
        _batch(
            "share", time_ns=steps[0, at], node=NODE, process_uid=ENGINE, step_ordinal=ordinal[at], gpu_uuid=_uuid(0), kernel_class=kind,
            owner=name, share_ns=((steps[1, at] - steps[0, at]) * part).astype(np.int64),
            busy_ns=((steps[1, at] - steps[0, at]) * part).astype(np.int64), share_j=(steps[1, at] - steps[0, at]) / 1e9 * part * 500,
            phase=np.where(at == 0, "prefill", "decode").tolist(), weights="class", evidence="exact",
        )
        for kind, weight in (("gemm", 0.5), ("attention", 0.3))
        for name, at, part in (
            (INTERNAL_ID, own, 0.3 * weight),
            ("chatcmpl-other-1-00000001", np.arange(count), 0.5 * weight),
            ("__padding__", np.arange(count), 0.07 * weight),
        )
    ]  # fmt: skip
    return [step, *members, *share]


def _processes(start: int) -> Batch:
    workers = [f"{NODE}:52{g}:43{g:02d}" for g in range(8)]
    uids = [SERVER, ENGINE, *workers, CLIENT]
    return _batch(
        "process", start_ns=[start - 3600 * SECOND] * len(uids), node=[NODE] * (2 + len(workers)) + [CLIENT_NODE], process_uid=uids,
        pid=[int(uid.rsplit(":", 1)[1]) for uid in uids], parent_uid=[None, SERVER, *[ENGINE] * len(workers), None],
        executable=["/usr/bin/uvicorn", "/usr/bin/VLLM::EngineCore", *["/usr/bin/VLLM::Worker"] * len(workers), "/usr/bin/python3"],
        pod=[*["vllm-0"] * (2 + len(workers)), "client-7f"], role=["api_server", "engine", *["worker"] * len(workers), "client"],
        observed_by="simulated",
    )  # fmt: skip


def _uuid(gpu: int) -> str:
    return f"GPU-5e1f0000-aaaa-bbbb-cccc-{gpu:012d}"


def _gpu_work(steps: np.ndarray, kernels: int, gpus: int) -> list[Batch]:
    """Each GPU runs each step's kernels back to back on stream 7 and its collectives on stream 13."""
    batches = []
    per_gpu, count = kernels // gpus, steps.shape[1]
    compute = max(int(per_gpu * 0.88), 2)
    for gpu in range(gpus):
        random = np.random.default_rng(gpu)
        worker = f"{NODE}:52{gpu % 8}:43{gpu % 8:02d}"
        batches += _stream(random, steps, compute, gpu, worker, 7)
        batches += _stream(random, steps, max(per_gpu - compute, 1), gpu, worker, 13)
    batches.append(
        _batch(
            "gpu", time_ns=[int(steps[0, 0])] * gpus, node=NODE, gpu_uuid=[_uuid(g) for g in range(gpus)], index=list(range(gpus)),
            model="NVIDIA H100 80GB HBM3", vendor="nvidia", sharing="exclusive", pod="vllm-0", observed_by="simulated", simulated=True,
        )  # fmt: skip
    )
    assert count > 0
    return batches


def _stream(random: np.random.Generator, steps: np.ndarray, kernels: int, gpu: int, worker: str, stream: int) -> list[Batch]:
    count = steps.shape[1]
    step = np.sort(random.integers(0, count, kernels))
    first = np.searchsorted(step, step)
    place = np.arange(kernels) - first
    of_step = np.bincount(step, minlength=count)[step]
    span = (steps[1, step] - steps[0, step]) * 0.94
    slot = span / of_step
    kind = random.integers(0, len(KERNELS), kernels)
    weight = np.array([each[2] for each in KERNELS])[kind]
    start = (steps[0, step] + span * 0.02 + place * slot).astype(np.int64) + gpu * 900
    fill = np.clip(random.normal(0.8, 0.12, kernels), 0.2, 0.98) * np.clip(weight / 9, 0.35, 1)
    end = start + np.maximum((slot * fill).astype(np.int64), 700)
    names = [each[0] for each in KERNELS] if stream == 7 else ["ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevComm*, unsigned long)"]
    index = kind if stream == 7 else np.zeros(kernels, np.int64)
    classes = np.array([CLASSES[each[1]] for each in KERNELS]) if stream == 7 else np.array(["communication"])
    correlation = np.arange(kernels) + stream * 100_000_000
    shared = dict(node=NODE, process_uid=worker, session=0, correlation_id=correlation, step_ordinal=9_000 + step, simulated=True)
    kernel = _batch(
        "gpu_kernel", start_ns=start, end_ns=end, gpu_uuid=_uuid(gpu), cuda_context=1, cuda_stream=stream,
        name=np.array(names, object)[index].tolist(), kind="kernel", kernel_class=classes[index].tolist(), **shared,
    )  # fmt: skip
    launched = start - random.integers(4 * MICRO, 60 * MICRO, kernels)
    launch = _batch(
        "launch", start_ns=launched, end_ns=launched + random.integers(1_200, 3_800, kernels), thread_id=int(worker.rsplit(":", 1)[1]),
        api="cudaLaunchKernel", cuda_stream=stream, observed_by="simulated", **shared,
    )  # fmt: skip
    return [kernel, launch]


def _threads(start: int, lasted: int, calls: int) -> list[Batch]:
    random = np.random.default_rng(41)
    at = np.sort(start + random.integers(0, lasted, calls))
    thread = 4200 + random.integers(0, 4, calls)
    names = np.array(["epoll_wait", "recvfrom", "sendto", "futex", "read", "write"], object)[random.integers(0, 6, calls)]
    syscall = _batch(
        "syscall", start_ns=at, end_ns=at + random.exponential(9_000, calls).astype(np.int64) + 300, node=NODE, process_uid=ENGINE,
        thread_id=thread, name=names.tolist(), result=np.where(random.random(calls) < 0.01, -11, 0),
    )  # fmt: skip
    waits = max(calls // 12, 20)
    began = np.sort(start + random.integers(0, lasted, waits))
    reasons = np.array(["runqueue", "futex", "poll", "network"], object)[random.integers(0, 4, waits)]
    off = _batch(
        "off_cpu", start_ns=began, end_ns=began + random.exponential(lasted / waits / 3, waits).astype(np.int64) + 900, node=NODE,
        process_uid=ENGINE, thread_id=4200, reason=reasons.tolist(),
    )  # fmt: skip
    return [syscall, off]


METRICS = (
    ("warpline.gpu.sm.active", None, 0.78, 0.08), ("warpline.gpu.memory.bandwidth", None, 0.55, 0.1),
    ("hw.gpu.utilization", "general", 0.97, 0.03), ("hw.power", None, 560.0, 40.0), ("hw.temperature", "gpu", 61.0, 2.0),
    ("warpline.gpu.clock", "sm", 1.755e9, 2e7), ("hw.gpu.memory.usage", None, 7.1e10, 1e8),
)  # fmt: skip


def _samples(start: int, lasted: int, gpus: int) -> list[Batch]:
    period = max(100 * MILLI, lasted // 600)
    at = np.arange(start, start + lasted, period)
    random = np.random.default_rng(5)
    batches = []
    for gpu in range(gpus):
        for metric, part, mean, spread in METRICS:
            swing = np.sin(np.arange(len(at)) / 9 + gpu) * spread
            value = np.maximum(mean + swing + random.normal(0, spread / 3, len(at)), 0)
            batches.append(
                _batch(
                    "gpu_sample", time_ns=at, node=NODE, gpu_uuid=_uuid(gpu), index=gpu, metric=metric, part=part, value=value,
                    pod="vllm-0", period_ns=period, simulated=True,
                )  # fmt: skip
            )
    return batches


def _traffic(now: int, requests: int) -> list[Batch]:
    """Return other requests of the last half hour; one pod in four has a slow spell for five minutes."""
    if not requests:
        return []
    random = np.random.default_rng(3)
    start = np.sort(now - random.integers(60 * SECOND, 1800 * SECOND, requests))
    pod = random.integers(0, 4, requests)
    slow = (pod == 2) & (now - start < 900 * SECOND) & (now - start > 600 * SECOND)
    first = (random.lognormal(-1.9, 0.45, requests) * SECOND * np.where(slow, 6, 1)).astype(np.int64)
    lasted = first + (random.lognormal(0.4, 0.5, requests) * SECOND).astype(np.int64)
    status = np.where(random.random(requests) < 0.012, 503, 200)
    ids = [f"{i:08x}-0000-4000-8000-{i * 2654435761 % 2**48:012x}" for i in range(requests)]
    exchange = _batch(
        "http_exchange", start_ns=start, end_ns=start + lasted, node=NODE, process_uid=[f"{NODE}:5{p}0:41{p:02d}" for p in pod],
        pid=4100 + pod, thread_id=4100 + pod, side="server", connection_id=np.arange(requests) + 2_000, ordinal=0, protocol="http/1.1",
        method="POST", path=np.array(["/v1/chat/completions", "/v1/completions", "/v1/embeddings"], object)[random.choice(3, requests, p=[0.8, 0.15, 0.05])].tolist(),
        status=status, host="llm.prod:8000", request_id=ids, response_id=[f"chatcmpl-{each}" for each in ids],
        request_end_ns=start + MILLI, response_start_ns=start + first, first_body_ns=start + first, last_chunk_ns=start + lasted,
        request_bytes=random.integers(800, 60_000, requests), response_bytes=random.integers(2_000, 90_000, requests),
        chunks=random.integers(8, 600, requests), longest_gap_ns=lasted // 9, retransmits=0, ended_by="complete", parse="full",
        pod_uid=[f"pod-{p}" for p in pod],
    )  # fmt: skip
    pods = _batch(
        "pod", time_ns=[now - 1800 * SECOND] * 4, node=NODE, pod_uid=[f"pod-{p}" for p in range(4)], pod=[f"vllm-{p}" for p in range(4)],
        namespace="llm", phase="Running", service="llama", engine="vllm", model=MODEL,
    )  # fmt: skip
    return [exchange, pods]


def _health(now: int) -> list[Batch]:
    sources = ["http_exchange", "tcp", "sched", "cuda_kernel", "dcgm", "engine_step"]
    state = _batch(
        "source_state", time_ns=[now - 5 * SECOND] * 6, node=NODE, source=sources, up=[True, True, True, True, True, False],
        reason=[None] * 5 + ["no engine with the vLLM plugin on this node; install warpline-vllm in the engine's environment"],
        detail=[2, 2, 1, 2, 2, 0], rows=[2_003, 1_204, 88_100, 100_000, 54_000, 0], cost_ratio=[0.011, 0.004, 0.02, 0.013, 0.002, 0.0],
        budget_ratio=0.05,
    )  # fmt: skip
    loss = _batch(
        "loss", start_ns=[now - 300 * SECOND] * 2, end_ns=[now - 290 * SECOND] * 2, node=NODE, source=["sched", "receive"],
        reason=["ring full", "malformed record"], lost=[1_420, 3], lower_bound=[True, False],
    )  # fmt: skip
    return [state, loss]
