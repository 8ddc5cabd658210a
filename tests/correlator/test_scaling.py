"""Steps of scaling, out of custom objects as they change and of Events as KEDA and Kubernetes word them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from correlator.storage.store import Store
from tests.correlator.storing import NOON, small
from warpline import schema
from warpline.batch import Batch

S = 1_000_000_000


def state(second: int, kind: str, **columns: Any) -> Batch:
    table = schema.table("service_state")
    row = {"time_ns": NOON + second * S, "kind": kind, "namespace": "llm", "object_uid": kind, **columns}
    return Batch(table, table.batch(row, 1), f"n/1/{second}/{kind}")


def event(second: int, reason: str, message: str) -> Batch:
    table = schema.table("cluster_event")
    row = {"time_ns": NOON + second * S, "kind": "Deployment", "namespace": "llm", "object": "llama", "reason": reason}
    return Batch(table, table.batch({**row, "message": message}, 1), f"n/1/{second}/{reason}")


def test_each_step_is_told_with_its_sizes(tmp_path: Path) -> None:
    store = Store(small(tmp_path))
    store.write(
        [
            state(1, "Revision", revision="chat-1", desired_replicas=0, active=False),
            state(2, "Revision", revision="chat-2", desired_replicas=1, active=True),
            state(3, "Revision", revision="chat-1", desired_replicas=2, active=True),
            state(4, "Revision", revision="chat-1", desired_replicas=5, active=True),
            state(5, "Revision", revision="chat-1", desired_replicas=5, active=True, ready=True),
            state(6, "Revision", revision="chat-1", desired_replicas=3, active=True),
            state(7, "ScaledObject", target="Deployment/llama", active=True),
            state(8, "ScaledObject", target="Deployment/llama", active=False, reason="Paused"),
            event(
                9,
                "KEDAScaleTargetActivated",
                "Scaled apps/v1.Deployment llm/llama from 0 to 1, triggered by prometheus",
            ),
            event(10, "SuccessfulRescale", "New size: 4; reason: external metric above target"),
            event(11, "ScalingReplicaSet", "Scaled down replica set llama-5d8 from 4 to 2"),
            event(12, "Pulled", "Scaled"),
        ]
    )
    found = store.view("scaling", {"since_ns": NOON, "until_ns": NOON + 60 * S}).read_all().to_pylist()
    store.close()
    told = [((row["time_ns"] - NOON) // S, row["step"], row["from_replicas"], row["to_replicas"]) for row in found]
    assert told == [
        (3, "woken", 0, 2),
        (4, "scaled up", 2, 5),
        (6, "scaled down", 5, 3),
        (8, "put to sleep", None, None),
        (9, "woken", 0, 1),
        (10, "scaled up", None, 4),
        (11, "scaled down", 4, 2),
    ]
    assert [row["reason"] for row in found if row["step"] == "put to sleep"] == ["Paused"]
