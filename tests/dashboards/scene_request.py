"""The one request of the simulated scene: its exchanges, its way, its engine, its steps and what the joins found of it.

Nothing here was measured: every row that can say so is marked simulated.
"""

from __future__ import annotations

import numpy as np

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

_SKEW = -180 * MICRO
"""What the client's clock reads less than the server's."""


def one_request(start: int, lasted: int, steps: np.ndarray) -> list[Batch]:
    """Return all rows of the request that began at `start` and ran in `steps` (their start and end)."""
    end, first_token = start + lasted, int(steps[1, 0]) + 2 * MILLI
    tokens = steps.shape[1]
    phases = [start + lasted // 45, int(steps[0, 0]), first_token, end - lasted // 50]
    return [
        *_exchanges(start, lasted, first_token, tokens),
        _hops(start, lasted),
        _connections(start, end),
        _engine_request(phases, tokens),
        _events(phases),
        *_found(start),
        _flows(start, lasted),
        *_ledger(steps),
        _processes(start),
    ]


def _exchanges(start: int, lasted: int, first_token: int, tokens: int) -> list[Batch]:
    """Return the exchange as the client's node saw it and as the server's did."""
    end = start + lasted
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
        chunks=tokens,
        ordinal=0,
    )
    return [
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
            ("client", CLIENT_NODE, CLIENT, 71, 0, _SKEW, "10.0.9.4", 51_732, "10.0.1.7", 8000),
            ("server", NODE, SERVER, 1204, lasted // 60, 0, "10.0.1.7", 8000, "10.0.9.4", 51_732),
        )
    ]


def _hops(start: int, lasted: int) -> Batch:
    end = start + lasted
    return batch(
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


def _connections(start: int, end: int) -> Batch:
    return batch(
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


def _engine_request(phases: list[int], tokens: int) -> Batch:
    return batch(
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
        output_tokens=tokens,
        finish_reason="stop",
        role="whole",
        observed_by="simulated",
        simulated=True,
    )


def _events(phases: list[int]) -> Batch:
    return batch(
        "engine_event",
        time_ns=phases,
        node=NODE,
        process_uid=ENGINE,
        internal_id=INTERNAL_ID,
        simulated=True,
        kind=["queued", "scheduled", "first_token", "finished"],
    )


def _found(start: int) -> list[Batch]:
    """Return what the joins know of it: its names, its edges, and how its two nodes' clocks differ."""
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
    return [alias, edge, clock]


def _flows(start: int, lasted: int) -> Batch:
    return batch(
        "flow",
        time_ns=[start + lasted // 180, start + lasted // 3],
        node=CLIENT_NODE,
        verdict=["FORWARDED", "DROPPED"],
        drop_reason=[None, "POLICY_DENIED"],
        source_pod="client-7f",
        request_id=REQUEST_ID,
        counted=True,
    )


def _ledger(steps: np.ndarray) -> list[Batch]:
    """Every third decode step is another's: this request sat in the rest."""
    own = np.flatnonzero(np.arange(steps.shape[1]) % 3 != 2)
    ordinal = np.arange(9_000, 9_000 + steps.shape[1])
    return [_steps(steps, ordinal), *_members(steps, ordinal, own), *_shares(steps, ordinal, own)]


def _steps(steps: np.ndarray, ordinal: np.ndarray) -> Batch:
    count = len(ordinal)
    requests = (np.arange(count) * 7919 % 13 + 4).astype(np.int64)
    return batch(
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
        observed_by="simulated",
        simulated=True,
    )


def _members(steps: np.ndarray, ordinal: np.ndarray, own: np.ndarray) -> list[Batch]:
    count = len(ordinal)
    return [
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


def _shares(steps: np.ndarray, ordinal: np.ndarray, own: np.ndarray) -> list[Batch]:
    count = len(ordinal)
    return [
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
