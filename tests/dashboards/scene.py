"""A simulated scene for the dashboard: a model server's last half hour and one request down to its kernels.

Nothing here was measured: every row that can say so is marked simulated. Tests, screenshots and `bench/ui.py` share it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tests.dashboards import scene_fleet, scene_gpu
from tests.dashboards.scene_parts import (
    CLIENT,
    CLIENT_NODE,
    ENGINE,
    INTERNAL_ID,
    MICRO,
    MILLI,
    MODEL,
    NODE,
    REQUEST_ID,
    RESPONSE_ID,
    SECOND,
    SERVER,
    batch,
    uuid,
)
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
        *_one_request(start, lasted, steps),
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


def _one_request(start: int, lasted: int, steps: np.ndarray) -> list[Batch]:
    count, end = steps.shape[1], start + lasted
    skew = -180 * MICRO
    first_token = int(steps[1, 0]) + 2 * MILLI
    exchange = dict(
        protocol="http/1.1",
        method="POST",
        path="/v1/chat/completions",
        status=200,
        host="llm.prod:8000",
        request_id=REQUEST_ID,
        response_id=RESPONSE_ID,
        ended_by="complete",
        parse="full",
        request_bytes=48_211,
        response_bytes=96_400,
        chunks=count,
        ordinal=0,
    )
    exchanges = [
        batch(
            "http_exchange",
            start_ns=[start + begin + shift],
            end_ns=[end - begin + shift],
            node=node,
            process_uid=process,
            pid=int(process.rsplit(":", 1)[1]),
            thread_id=int(process.rsplit(":", 1)[1]),
            side=side,
            connection_id=connection,
            request_end_ns=[start + begin + shift + lasted // 150],
            response_start_ns=[first_token - begin // 2 + shift],
            first_body_ns=[first_token - begin // 2 + shift],
            last_chunk_ns=[end - begin + shift - lasted // 200],
            local_address=address,
            local_port=port,
            peer_address=peer,
            peer_port=peer_port,
            longest_gap_ns=int(lasted * 0.08),
            retransmits=2 if side == "client" else 0,
            **exchange,
        )
        for side, node, process, connection, begin, shift, address, port, peer, peer_port in (
            ("client", CLIENT_NODE, CLIENT, 71, 0, skew, "10.0.9.4", 51_732, "10.0.1.7", 8000),
            ("server", NODE, SERVER, 1204, lasted // 60, 0, "10.0.1.7", 8000, "10.0.9.4", 51_732),
        )
    ]
    hop = batch(
        "hop",
        start_ns=[start + lasted // 200, start + lasted // 110],
        end_ns=[end - lasted // 200, end - lasted // 110],
        node=[CLIENT_NODE, NODE],
        proxy=["istio-egress-6d9", "istio-ingress-7fc"],
        method="POST",
        path="/v1/chat/completions",
        status=200,
        request_id=REQUEST_ID,
        attempts=1,
        clock_error_ns=500_000,
    )
    connection = batch(
        "connection",
        start_ns=[start - 40 * SECOND, start - 40 * SECOND],
        end_ns=[end + SECOND, end + SECOND],
        node=[CLIENT_NODE, NODE],
        connection_id=[71, 1204],
        process_uid=[CLIENT, SERVER],
        transport="tcp",
        role=["client", "server"],
        peer_address=["10.0.1.7", "10.0.9.4"],
        peer_port=[8000, 51_732],
        retransmits=[15, 69],  # Other requests of its connections before it.
        state="CLOSE",
        sent_bytes=[48_211, 96_400],
        smoothed_rtt_ns=410_000,
    )
    phases = [start + lasted // 45, int(steps[0, 0]), first_token, end - lasted // 50]
    engine = batch(
        "engine_request",
        start_ns=[phases[0]],
        end_ns=[phases[3]],
        node=NODE,
        process_uid=ENGINE,
        engine_index=0,
        internal_id=INTERNAL_ID,
        external_id=RESPONSE_ID,
        model=MODEL,
        prompt_tokens=5_213,
        cached_tokens=1_024,
        computed_tokens=4_189,
        output_tokens=count,
        finish_reason="stop",
        role="whole",
        observed_by="simulated",
        simulated=True,
    )
    events = batch(
        "engine_event",
        time_ns=phases,
        node=NODE,
        process_uid=ENGINE,
        internal_id=INTERNAL_ID,
        simulated=True,
        kind=["queued", "scheduled", "first_token", "finished"],
    )
    alias = batch(
        "alias",
        time_ns=[start] * 6,
        kind=["request_id", "response_id", "internal_id", "external_id", "exchange", "exchange"],
        scope=["", "", ENGINE, ENGINE, "", ""],
        value=[
            REQUEST_ID,
            RESPONSE_ID,
            INTERNAL_ID,
            RESPONSE_ID,
            f"{CLIENT_NODE}/71/0/client",
            f"{NODE}/1204/0/server",
        ],
        attempt_uid=RESPONSE_ID,
        request_uid=RESPONSE_ID,
        evidence="exact",
    )
    edge = batch(
        "edge",
        time_ns=[start, start],
        from_kind="http_exchange",
        to_kind=["http_exchange", "engine_request"],
        from_id=[f"{CLIENT_NODE}/71/0/client", f"{NODE}/1204/0/server"],
        to_id=[f"{NODE}/1204/0/server", f"{ENGINE}/{INTERNAL_ID}"],
        relation=["carried_by", "served_by"],
        evidence=["derived", "exact"],
        rule=["addresses_and_offset", "response_id"],
        confidence=[0.98, 1.0],
        error_low_ns=[-240_000, 0],
        error_high_ns=[310_000, 0],
        alternatives=[0, 0],
    )
    clock = batch(
        "clock_edge",
        time_ns=[start],
        node=CLIENT_NODE,
        other_node=NODE,
        low_ns=-240_000,
        high_ns=310_000,
        status="ok",
        method="linear_program",
        forward=212,
        reverse=208,
    )
    flow = batch(
        "flow",
        time_ns=[start + lasted // 180, start + lasted // 3],
        node=CLIENT_NODE,
        verdict=["FORWARDED", "DROPPED"],
        drop_reason=[None, "POLICY_DENIED"],
        source_pod="client-7f",
        request_id=REQUEST_ID,
        counted=True,
    )
    return [*exchanges, hop, connection, engine, events, alias, edge, clock, flow, *_ledger(steps), _processes(start)]


def _ledger(steps: np.ndarray) -> list[Batch]:
    """Every third decode step is another's: this request sat in the rest."""
    count = steps.shape[1]
    ordinal = np.arange(9_000, 9_000 + count)
    requests = (np.arange(count) * 7919 % 13 + 4).astype(np.int64)
    step = batch(
        "engine_step",
        start_ns=steps[0],
        end_ns=steps[1],
        node=NODE,
        process_uid=ENGINE,
        engine_index=0,
        ordinal=ordinal,
        requests=requests,
        context_tokens=np.where(np.arange(count) == 0, 4_189, 0),
        generation_tokens=requests,
        scheduled_tokens=requests,
        graph_mode="full",
        observed_by="simulated",
        simulated=True,
    )
    own = np.flatnonzero(np.arange(count) % 3 != 2)
    members = [
        batch(
            "step_member",
            time_ns=steps[0, at],
            node=NODE,
            process_uid=ENGINE,
            engine_index=0,
            step_ordinal=ordinal[at],
            internal_id=name,
            scheduled_tokens=np.where(at == 0, 4_189, 1),
            phase=np.where(at == 0, "prefill", "decode").tolist(),
            sampled=True,
            level="plugin",
            evidence="exact",
            confidence=1.0,
            simulated=True,
        )
        for name, at in (
            (INTERNAL_ID, own),
            ("chatcmpl-other-1-00000001", np.arange(count)),
            ("chatcmpl-other-2-00000002", np.arange(1, count, 2)),
        )
    ]
    share = [
        batch(
            "share",
            time_ns=steps[0, at],
            node=NODE,
            process_uid=f"{NODE}:520:4300",  # The worker whose kernels they are.
            step_ordinal=ordinal[at],
            gpu_uuid=uuid(0),
            kernel_class=kind,
            owner=name,
            share_ns=((steps[1, at] - steps[0, at]) * part).astype(np.int64),
            busy_ns=((steps[1, at] - steps[0, at]) * part).astype(np.int64),
            share_j=(steps[1, at] - steps[0, at]) / 1e9 * part * 500,
            phase=np.where(at == 0, "prefill", "decode").tolist(),
            weights="class",
            evidence="exact",
        )
        for kind, weight in (("dense", 0.5), ("attention", 0.3), ("sampling", 0.05))
        for name, at, part in (
            (INTERNAL_ID, own, 0.3 * weight),
            ("chatcmpl-other-1-00000001", np.arange(count), 0.5 * weight),
            ("__padding__", np.arange(count), 0.07 * weight),
        )
    ]
    return [step, *members, *share]


def _processes(start: int) -> Batch:
    workers = [f"{NODE}:52{g}:43{g:02d}" for g in range(8)]
    uids = [SERVER, ENGINE, *workers, CLIENT]
    return batch(
        "process",
        start_ns=[start - 3600 * SECOND] * len(uids),
        node=[NODE] * (2 + len(workers)) + [CLIENT_NODE],
        process_uid=uids,
        pid=[int(uid.rsplit(":", 1)[1]) for uid in uids],
        parent_uid=[None, SERVER, *[ENGINE] * len(workers), None],
        executable=[
            "/usr/bin/uvicorn",
            "/usr/bin/VLLM::EngineCore",
            *["/usr/bin/VLLM::Worker"] * len(workers),
            "/usr/bin/python3",
        ],
        pod=[*["vllm-0"] * (2 + len(workers)), "client-7f"],
        role=["api_server", "engine", *["worker"] * len(workers), "client"],
        observed_by="simulated",
    )
