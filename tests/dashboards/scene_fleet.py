"""What stands around the scene's one request: other requests, GPU readings, the state of sources. All of it simulated."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.dashboards.scene_parts import MILLI, MODEL, NODE, SECOND, batch, uuid
from warpline.batch import Batch

METRICS = (
    ("warpline.gpu.pipe.active", "sm", 0.78, 0.08),
    ("warpline.gpu.pipe.active", "memory", 0.55, 0.1),
    ("hw.gpu.utilization", "general", 0.97, 0.03),
    ("hw.power", None, 560.0, 40.0),
    ("hw.temperature", "gpu", 61.0, 2.0),
    ("warpline.gpu.clock", "sm", 1.755e9, 2e7),
    ("hw.gpu.memory.usage", None, 7.1e10, 1e8),
)


def samples(start: int, lasted: int, gpus: int) -> list[Batch]:
    period = max(100 * MILLI, lasted // 600)
    at = np.arange(start, start + lasted, period)
    random = np.random.default_rng(5)
    batches = []
    for gpu in range(gpus):
        for metric, part, mean, spread in METRICS:
            swing = np.sin(np.arange(len(at)) / 9 + gpu) * spread
            value = np.maximum(mean + swing + random.normal(0, spread / 3, len(at)), 0)
            batches.append(_reading(at, gpu, metric=metric, part=part, value=value))
    return [*batches, *_trouble(at, period)]


def _reading(at: np.ndarray, gpu: int, **columns: Any) -> Batch:
    place = {"node": NODE, "gpu_uuid": uuid(gpu), "index": gpu, "pod": "vllm-0"}
    return batch("gpu_sample", time_ns=at, simulated=True, **place, **columns)


def _trouble(at: np.ndarray, period: int) -> list[Batch]:
    """GPU 0 is held back by its power cap for a while; GPU 1 tells an XID once."""
    place, middle = np.arange(len(at)), len(at) // 2
    held = np.clip(place - middle, 0, 3) * 0.4 * period / SECOND
    xid = np.where(place > middle + 1, 94.0, 0.0)
    told = (("warpline.gpu.throttled", "power", 0, held, True), ("warpline.gpu.xid.last", None, 1, xid, False))
    return [
        _reading(at, gpu, metric=metric, part=part, value=value, monotonic=monotonic)
        for metric, part, gpu, value, monotonic in told
    ]


def traffic(now: int, requests: int) -> list[Batch]:
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
    exchange = batch(
        "http_exchange",
        start_ns=start,
        end_ns=start + lasted,
        node=NODE,
        process_uid=[f"{NODE}:5{p}0:41{p:02d}" for p in pod],
        pid=4100 + pod,
        thread_id=4100 + pod,
        side="server",
        connection_id=np.arange(requests) + 2_000,
        ordinal=0,
        protocol="http/1.1",
        method="POST",
        path=np.array(["/v1/chat/completions", "/v1/completions", "/v1/embeddings"], object)[
            random.choice(3, requests, p=[0.8, 0.15, 0.05])
        ].tolist(),
        status=status,
        host="llm.prod:8000",
        request_id=ids,
        response_id=[f"chatcmpl-{each}" for each in ids],
        request_end_ns=start + MILLI,
        response_start_ns=start + first,
        first_body_ns=start + first,
        last_chunk_ns=start + lasted,
        request_bytes=random.integers(800, 60_000, requests),
        response_bytes=random.integers(2_000, 90_000, requests),
        chunks=random.integers(8, 600, requests),
        longest_gap_ns=lasted // 9,
        retransmits=0,
        ended_by="complete",
        parse="full",
        pod_uid=[f"pod-{p}" for p in pod],
    )
    pods = batch(
        "pod",
        time_ns=[now - 1800 * SECOND] * 4,
        node=NODE,
        pod_uid=[f"pod-{p}" for p in range(4)],
        pod=[f"vllm-{p}" for p in range(4)],
        namespace="llm",
        phase="Running",
        service="llama",
        engine="vllm",
        model=MODEL,
    )
    processes = batch(
        "process",
        start_ns=[now - 7200 * SECOND] * 4,
        node=NODE,
        process_uid=[f"{NODE}:5{p}0:41{p:02d}" for p in range(4)],
        pid=[4100 + p for p in range(4)],
        executable="/usr/bin/uvicorn",
        pod=[f"vllm-{p}" for p in range(4)],
        pod_uid=[f"pod-{p}" for p in range(4)],
        namespace="llm",
        role="api_server",
        observed_by="simulated",
    )
    return [exchange, pods, processes]


def health(now: int) -> list[Batch]:
    sources = ["http_exchange", "tcp", "sched", "cuda_kernel", "dcgm", "engine_step"]
    state = batch(
        "source_state",
        time_ns=[now - 5 * SECOND] * 6,
        node=NODE,
        source=sources,
        up=[True, True, True, True, True, False],
        reason=[None] * 5
        + ["no engine with the vLLM plugin on this node; install warpline-vllm in the engine's environment"],
        detail=[2, 2, 1, 2, 2, 0],
        rows=[2_003, 1_204, 88_100, 100_000, 54_000, 0],
        cost_ratio=[0.011, 0.004, 0.02, 0.013, 0.002, 0.0],
        budget_ratio=0.05,
    )
    loss = batch(
        "loss",
        start_ns=[now - 300 * SECOND] * 2,
        end_ns=[now - 290 * SECOND] * 2,
        node=NODE,
        source=["sched", "receive"],
        reason=["ring full", "malformed record"],
        lost=[1_420, 3],
        lower_bound=[True, False],
    )
    return [state, loss]


def alerts(now: int) -> list[Batch]:
    """Return alerts of the last half hour: one resolved, two that fire, each about a GPU of its own, one without data."""
    gpus = ['{"gpu_uuid": "' + uuid(gpu) + '", "node": "' + NODE + '"}' for gpu in (0, 1)]
    return [
        batch(
            "alert",
            time_ns=[now - ago * SECOND for ago in (1100, 800, 118, 115, 1200)],
            rule=["queue_growing", "queue_growing", "gpu_throttled", "gpu_xid", "source_down"],
            state=["firing", "resolved", "firing", "firing", "no_data"],
            severity=["warning", "warning", "warning", "critical", "warning"],
            labels=['{"target": "10.0.1.7:8000"}'] * 2 + gpus + ["{}"],
            summary=[
                f"31 requests wait at 10.0.1.7:8000 ({MODEL}), and their number grows.",
                f"31 requests wait at 10.0.1.7:8000 ({MODEL}), and their number grows.",
                f"GPU {uuid(0)} on {NODE} was throttled (power) 14% of the last minute.",
                f"GPU {uuid(1)} on {NODE} reported XID 94.",
                "the data that this rule needs is not there",
            ],
            value=[31.0, 0.0, 0.14, 94.0, None],
            notified=[True] * 4 + [None],
        )
    ]


def scaling(now: int) -> list[Batch]:
    """Return a model that Knative woke from zero and scaled, by a KEDA trigger, and the way of its first pod."""
    at = now - np.array([1500, 1440, 1300, 900, 400]) * SECOND
    revision = batch(
        "service_state",
        time_ns=at,
        kind="Revision",
        namespace="llm",
        object="llama-00001",
        object_uid="rev-1",
        service="llama",
        revision="llama-00001",
        model=MODEL,
        ready=[True, False, True, True, True],
        active=[False, True, True, True, True],
        replicas=[0, 0, 1, 2, 4],
        desired_replicas=[0, 1, 2, 4, 3],
        least_replicas=0,
        most_replicas=8,
        traffic_ratio=1.0,
    )
    target = batch(
        "service_state",
        time_ns=at[1:2],
        kind="ScaledObject",
        namespace="llm",
        object="llama",
        object_uid="so-1",
        target="Deployment/llama",
        triggers="metrics-api",
        ready=True,
        active=True,
        least_replicas=1,
        most_replicas=8,
    )
    made = now - 1440 * SECOND
    pod = {"kind": "Pod", "object_uid": "pod-cold", "object": "llama-00001-7f", "namespace": "llm"}
    stages = batch(
        "cluster_event",
        time_ns=made + np.array([2, 3, 31, 31, 32]) * SECOND,
        reason=["Scheduled", "Pulling", "Pulled", "Created", "Started"],
        message=[None, None, 'pulled image "llama" in 21.4s (28.1s including waiting). Image size: 9123456789 bytes.']
        + [None] * 2,
        container=[None] + ["engine"] * 4,
        **pod,
    )
    ready = batch(
        "container_state",
        time_ns=[made + 78 * SECOND],
        kind="ready",
        pod_uid="pod-cold",
        container="engine",
        observed_by="simulated",
    )
    cold = batch(
        "pod",
        time_ns=[made],
        node=NODE,
        pod_uid="pod-cold",
        pod="llama-00001-7f",
        namespace="llm",
        created_ns=made,
        model=MODEL,
    )
    return [revision, target, stages, ready, cold]
