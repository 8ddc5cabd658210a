"""Rules that fire on no sample incident, on rows of their kind: each on what it is about, and not on what comes close."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from correlator.alerting import alert_rule, backtest
from correlator.storage.store import Store
from tests import rule_table
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

SECOND, WEEK = 1_000_000_000, 7 * 86_400_000_000_000
NOW = 1_790_000_000 * SECOND
GB = 1_000_000_000
Rows = list[tuple[str, dict[str, Any]]]


def container(kind: str, ago_s: int) -> tuple[str, dict[str, Any]]:
    row = {"time_ns": NOW - ago_s * SECOND, "kind": kind, "node": "n1"}
    return "container_state", row | {"namespace": "ml", "pod": "p", "container": "engine"}


def gpu(metric: str, value: float, part: str | None = None) -> tuple[str, dict[str, Any]]:
    row = {"time_ns": NOW - SECOND, "node": "n1", "gpu_uuid": "GPU-1", "metric": metric, "value": value}
    return "gpu_sample", row | {"part": part}


def transfers(count: int, gb: float, seconds: float) -> Rows:
    start = NOW - 20 * SECOND
    row = {"start_ns": start, "end_ns": start + int(seconds * SECOND), "node": "n1", "transfer_bytes": int(gb * GB)}
    return [("kv_transfer", row)] * count


def decodes(ago_ns: int, share_ms: float) -> Rows:
    """Ten decode tokens of one step and the GPU time that they took."""
    at = {"time_ns": NOW - ago_ns, "node": "n1", "process_uid": "n1:1:2", "step_ordinal": 1, "phase": "decode"}
    share = {"gpu_uuid": "GPU-1", "kernel_class": "gemm", "owner": "r", "share_ns": int(share_ms * 1e6)}
    member = {"internal_id": "r", "scheduled_tokens": 10, "engine_index": 0, "level": "plugin"}
    known = {"evidence": "exact"}
    return [("share", at | share | known | {"busy_ns": 1}), ("step_member", at | member | known)]


def waiting(role: str, requests: float) -> Rows:
    pod = {"time_ns": NOW - 60 * SECOND, "pod_uid": role, "pod": role, "namespace": "ml", "role": role}
    sample = {"time_ns": NOW - SECOND, "target": role, "engine": "vllm", "model": "m", "pod_uid": role}
    return [
        ("pod", pod),
        ("engine_sample", sample | {"metric": "requests.waiting", "statistic": "value", "value": requests}),
    ]


def state(ago_s: int, up: bool, reason: str | None = None) -> tuple[str, dict[str, Any]]:
    row = {"time_ns": NOW - ago_s * SECOND, "node": "n1", "source": "dcgm", "up": up, "reason": reason, "detail": 2}
    return "source_state", row


def flow(verdict: str) -> tuple[str, dict[str, Any]]:
    row = {"time_ns": NOW - SECOND, "node": "n1", "verdict": verdict, "counted": True, "drop_reason": "POLICY_DENIED"}
    return "flow", row | {"destination_namespace": "ml", "destination_pod": "engine-0"}


MEMORY = [gpu("hw.gpu.memory.limit", 80 * GB)]
CASES: dict[str, tuple[Rows, Rows]] = {
    "cold_start_slow": (
        [container("created", 400), container("ready", 60)],
        [container("created", 300), container("ready", 60)],
    ),
    "gpu_memory_full": (
        [*MEMORY, gpu("hw.gpu.memory.usage", 79 * GB)],
        [*MEMORY, gpu("hw.gpu.memory.usage", 77 * GB)],
    ),
    "interconnect_saturated": (
        [gpu("warpline.gpu.pcie.throughput", 27 * GB, "transmit")],
        [
            gpu("warpline.gpu.pcie.throughput", 24 * GB, "transmit"),
            gpu("warpline.gpu.nvlink.throughput", 300 * GB, "receive"),
        ],
    ),
    "kernel_time_per_token_up": (
        decodes(SECOND, 13) + decodes(WEEK, 10),
        decodes(SECOND, 11) + decodes(WEEK, 10),
    ),
    "kv_transfer_slow": (transfers(7, 1, 2), transfers(4, 1, 2)),
    "path_drops": ([flow("DROPPED")], [flow("FORWARDED")]),
    "prefill_decode_imbalance": (
        waiting("prefill", 20) + waiting("decode", 1),
        waiting("prefill", 20) + waiting("decode", 9),
    ),
    "source_down": (
        [state(200, True), state(90, False, "the peer is away")],
        [state(200, True), state(90, False, "stopped")],
    ),
}
"""Rule → (rows on which it fires, rows that come close)."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=1))
    yield made
    made.close()


def fires(store: Store, name: str, rows: Rows) -> bool:
    for number, (table, row) in enumerate(rows):
        declared = schema.table(table)
        store.write([Batch(declared, declared.batch(row, rows=1), f"{name}/{number}")])
    (rule,) = backtest.chosen([name])
    return any(store.query(rule.sql, rule.parameters(NOW, {}))["firing"].to_pylist())


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_fires_on_what_it_is_about(store: Store, name: str) -> None:
    assert fires(store, name, CASES[name][0])


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_does_not_fire_on_what_comes_close(store: Store, name: str) -> None:
    assert not fires(store, name, CASES[name][1])


def test_every_rule_that_no_incident_has_fire_is_among_them() -> None:
    heard = {rule for case in rule_table.incidents() for rule in rule_table.fired(case)}
    assert {rule.name for rule in alert_rule.load()} - heard <= set(CASES)
