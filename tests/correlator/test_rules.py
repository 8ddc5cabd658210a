"""Rules on rows of their kind: each fires on what it is about, and not on what comes close."""

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


def decodes(ago_ns: int, token_ms: float, tokens: int = 64, model: str = "m", drafts: int = 0) -> Rows:
    """A step that puts out tokens, and the GPU time that each of them took; `drafts` more were not accepted."""
    engine = {"node": "n1", "process_uid": f"n1:{ago_ns}:{tokens}{model}"}
    at = engine | {"time_ns": NOW - ago_ns, "step_ordinal": 1, "phase": "decode", "evidence": "exact"}
    share = {"gpu_uuid": "GPU-1", "kernel_class": "gemm", "owner": "r", "share_ns": int(token_ms * 1e6 * tokens)}
    drafted = {"draft_tokens": drafts, "accepted_tokens": 0} if drafts else {}
    member = {"internal_id": "r", "scheduled_tokens": tokens + drafts, "engine_index": 0, "level": "plugin"}
    asked = engine | {"start_ns": NOW - ago_ns, "internal_id": "r", "model": model}
    return [
        ("share", at | share | {"busy_ns": 1}),
        ("step_member", at | member | drafted),
        ("engine_request", asked),
    ]


def counted(gb: float, seconds: float, count: int) -> Rows:
    """What an engine's own counters say of KV transfers, before them and after."""
    now = {"kv.transfer.bytes": ("sum", gb * GB), "kv.transfer": ("sum", seconds)}
    found: Rows = []
    for ago_s, share in ((30, 0.0), (1, 1.0)):
        row = {"time_ns": NOW - ago_s * SECOND, "target": "10.0.0.9:8000", "engine": "vllm", "monotonic": True}
        for metric, (statistic, value) in now.items():
            told = {"metric": metric, "statistic": statistic, "value": 7 + share * value}
            found.append(("engine_sample", row | told))
        told = {"metric": "kv.transfer", "statistic": "count", "value": 7 + share * count}
        found.append(("engine_sample", row | told))
    return found


def pool(role: str, requests: float) -> Rows:
    """A pod's queue as a scrape tells it: by the pod's address."""
    address = {"prefill": "10.0.0.1", "decode": "fd00::2"}[role]
    pod = {
        "time_ns": NOW - 60 * SECOND,
        "pod_uid": role,
        "pod": role,
        "namespace": "ml",
        "role": role,
        "pod_ip": address,
    }
    target = f"[{address}]:8000" if ":" in address else f"{address}:8000"
    sample = {"time_ns": NOW - SECOND, "target": target, "engine": "vllm", "model": "m"}
    told = {"metric": "requests.waiting", "statistic": "value", "value": requests}
    return [("pod", pod), ("engine_sample", sample | told)]


def pod_of(created_ago_s: int, *states: tuple[str, dict[str, Any]]) -> Rows:
    """A pod that the cluster tells of, and its container's states."""
    pod = {"time_ns": NOW - created_ago_s * SECOND, "pod_uid": "u", "pod": "p", "namespace": "ml"}
    return [
        ("pod", pod | {"created_ns": NOW - created_ago_s * SECOND}),
        *((table, row | {"pod_uid": "u"}) for table, row in states),
    ]


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


def answers(count: int, ms: float, node: str = "edge-1") -> Rows:
    """Answers in one piece of a server on a node."""
    made: Rows = []
    for number in range(count):
        start = NOW - 50 * SECOND + number * SECOND // 10
        row = {"start_ns": start, "end_ns": start + int(ms * 1e6), "node": node, "process_uid": f"{node}:1:2"}
        row |= {"side": "server", "method": "POST", "path": "/v1/embeddings", "status": 200, "chunks": 1}
        made.append(("http_exchange", row | {"connection_id": number, "ordinal": 0}))
    return made


MEMORY = [gpu("hw.gpu.memory.limit", 80 * GB)]
CASES: dict[str, tuple[Rows, Rows]] = {
    "cold_start_slow": (
        [container("created", 400), container("ready", 60)],
        [container("created", 300), container("ready", 60)],
    ),
    "edge_latency": (answers(23, 60), answers(23, 40)),
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
        decodes(SECOND, 1.3) + decodes(WEEK, 1),
        decodes(SECOND, 1.1) + decodes(WEEK, 1),
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


MORE: dict[str, tuple[str, Rows, Rows]] = {
    "SMs full of warps": (
        "gpu_saturated",
        [gpu("warpline.gpu.pipe.active", 0.95, "sm"), gpu("warpline.gpu.sm.occupancy", 0.6), *pool("prefill", 2)],
        [gpu("warpline.gpu.pipe.active", 0.95, "sm"), gpu("warpline.gpu.sm.occupancy", 0.3), *pool("prefill", 2)],
    ),
    "kernels of another model": (
        "kernel_time_per_token_up",
        decodes(SECOND, 1.3) + decodes(WEEK, 1) + decodes(WEEK, 9, model="other"),
        decodes(SECOND, 1.3) + decodes(WEEK, 1, model="other"),
    ),
    "steps of another size": (
        "kernel_time_per_token_up",
        decodes(SECOND, 4, tokens=32) + decodes(SECOND, 1.3) + decodes(WEEK, 1),
        decodes(SECOND, 4, tokens=32) + decodes(SECOND, 1.1) + decodes(WEEK, 1),
    ),
    "few tokens": (
        "kernel_time_per_token_up",
        decodes(SECOND, 1.3, tokens=50) + decodes(WEEK, 1, tokens=50),
        decodes(SECOND, 1.3, tokens=49) + decodes(WEEK, 1, tokens=49),
    ),
    "drafts that are not accepted": (
        "kernel_time_per_token_up",
        decodes(SECOND, 1.3, drafts=60) + decodes(WEEK, 1, drafts=60),
        decodes(SECOND, 1.1, drafts=60) + decodes(WEEK, 1, drafts=60),
    ),
    "the pod's creation": (
        "cold_start_slow",
        pod_of(400, container("started", 70), container("ready", 60)),
        pod_of(300, container("started", 70), container("ready", 60)),
    ),
    "a pod that is not ready yet": (
        "cold_start_slow",
        pod_of(400, container("waiting", 390)),
        pod_of(400, container("started", 390), container("exited", 380)),
    ),
    "a restart in an old pod": (
        "cold_start_slow",
        pod_of(3000, container("ready", 60)),
        pod_of(7200, container("started", 70), container("ready", 60)),
    ),
    "transfers that an engine counts": ("kv_transfer_slow", counted(1, 2, 7), counted(1, 2, 4)),
    "transfers that an engine counts, fast": ("kv_transfer_slow", counted(1, 2, 5), counted(4, 2, 50)),
    "pools by their addresses": (
        "prefill_decode_imbalance",
        pool("prefill", 1) + pool("decode", 20),
        pool("prefill", 9) + pool("decode", 20),
    ),
}
"""What else a rule is about → the rule, rows on which it fires, rows that come close."""


def test_an_objective_of_the_edge_is_about_the_nodes_that_the_settings_name(store: Store) -> None:
    for number, (table, row) in enumerate(answers(23, 60) + answers(23, 60, "core-1")):
        declared = schema.table(table)
        store.write([Batch(declared, declared.batch(row, rows=1), f"edge/{number}")])
    (rule,) = backtest.chosen(["edge_latency"], Settings(alerts_edge_nodes="edge-*"))
    assert store.query(rule.sql, rule.parameters(NOW, {}))["node"].to_pylist() == ["edge-1"]


@pytest.mark.parametrize("what", sorted(MORE))
def test_it_fires_on_what_else_it_is_about_and_not_on_what_comes_close(tmp_path: Path, what: str) -> None:
    name, about, close = MORE[what]
    for number, (rows, wanted) in enumerate(((about, True), (close, False))):
        made = Store(Settings(state_dir=str(tmp_path / str(number)), correlator_disk_reserve_mb=1))
        assert fires(made, name, rows) is wanted
        made.close()


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_fires_on_what_it_is_about(store: Store, name: str) -> None:
    assert fires(store, name, CASES[name][0])


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_does_not_fire_on_what_comes_close(store: Store, name: str) -> None:
    assert not fires(store, name, CASES[name][1])


def test_every_rule_that_no_incident_has_fire_is_among_them() -> None:
    heard = {rule for case in rule_table.incidents() for rule in rule_table.fired(case)}
    assert {rule.name for rule in alert_rule.load()} - heard <= set(CASES)
