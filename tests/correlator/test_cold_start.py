"""The way of a pod from creation to its first token, out of real Events and of a whole made-up life."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collectors import cluster_state
from collectors.cluster.watch import Change
from correlator.storage.store import Store
from tests.correlator import one_view
from tests.correlator.storing import NOON, small
from warpline import schema
from warpline.batch import Batch

S = 1_000_000_000


def store_with(tmp_path: Path, *batches: Batch) -> Store:
    store = Store(small(tmp_path))
    store.write([Batch(batch.table, batch.rows, f"n/1/{each}") for each, batch in enumerate(batches)])
    return store


def batch(table: str, **columns: Any) -> Batch:
    found = schema.table(table)
    return Batch(found, found.batch(columns))


def life(pulled: str) -> list[Batch]:
    stages = ["FailedScheduling", "Scheduled", "Pulling", "Pulled", "Created", "Started"]
    at = [NOON + S, NOON + 5 * S, NOON + 6 * S, NOON + 16 * S, NOON + 16 * S, NOON + 17 * S]
    messages = ["0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "", "", pulled, "", ""]
    events = batch(
        "cluster_event",
        time_ns=at,
        kind="Pod",
        object_uid="u",
        object="vllm-0",
        namespace="llm",
        container=[None, None, "main", "main", "main", "main"],
        reason=stages,
        message=messages,
        occurrences=[7, 1, 1, 1, 1, 1],
    )
    pod = batch(
        "pod",
        time_ns=[NOON, NOON + 6 * S],
        node="n1",
        pod_uid="u",
        pod="vllm-0",
        namespace="llm",
        pod_ip=[None, "10.0.0.9"],
        created_ns=NOON,
        engine="vllm",
    )
    state = batch(
        "container_state",
        time_ns=[NOON + 17 * S, NOON + 17 * S + 250_000_000, NOON + 80 * S],
        pod_uid="u",
        container="main",
        kind=["started", "started", "ready"],
        observed_by=["cluster_state", "container_events", "cluster_state"],
    )
    samples = batch(
        "engine_sample",
        time_ns=[NOON + 79 * S, NOON + 90 * S],
        target="10.0.0.9:8000",
        engine="vllm",
        metric="ttft",
        statistic="count",
        value=[0.0, 1.0],
    )
    return [events, pod, state, samples]


def test_each_stage_of_a_cold_start_has_its_time(tmp_path: Path) -> None:
    pulled = 'Successfully pulled image "v" in 2.5s (9.75s including waiting). Image size: 12345 bytes.'
    row = store_with(tmp_path, *life(pulled)).view("cold_start").read_all().to_pylist()[0]
    assert (row["pod"], row["container"], row["engine"], row["node"]) == ("vllm-0", "main", "vllm", "n1")
    assert (row["failed_schedulings"], row["schedule_wait_ns"]) == (7, 5 * S)
    assert "Insufficient nvidia.com/gpu" in row["why_not_scheduled"]
    assert (row["pull_ns"], row["pull_queue_ns"], row["image_bytes"]) == (2_500_000_000, 7_250_000_000, 12345)
    assert row["started_ns"] == NOON + 17 * S + 250_000_000, "the runtime's exact time is preferred"
    assert row["load_ns"] == 79 * S - 17 * S - 250_000_000
    assert (row["first_token_ns"], row["total_ns"]) == (NOON + 90 * S, 90 * S)
    assert row["image_present"] is False


@pytest.mark.parametrize(
    ("message", "pull_ns", "queue_ns"),
    [
        ('Successfully pulled image "v" in 272.563572ms', 272_563_572, None),
        ('Successfully pulled image "v" in 1m2.5s (1h0m2.5s including waiting)', 62_500_000_000, 3540 * S),
        ('Container image "v" already present on machine', None, None),
    ],
)
def test_every_wording_of_a_pull_is_read(message: str, pull_ns: int | None, queue_ns: int | None) -> None:
    row = one_view.read("cold_start", life(message), "pod_uid")[0]
    assert (row["pull_ns"], row["pull_queue_ns"]) == (pull_ns, queue_ns)
    assert row["image_present"] is ("already" in message)


def test_real_events_give_the_pull_as_read_by_hand(shared_data: Path) -> None:
    file = shared_data / "k8s/troubleshoot/message-container-creating-failed-mount.json"
    changes = [Change("/api/v1/events", "ADDED", each) for each in json.loads(file.read_text())["items"]]
    rows = one_view.read("cold_start", cluster_state.State().batches(changes, NOON), "pod_uid")
    crashpod = next(row for row in rows if row["pod_uid"] == "8ffb51a6-6a35-456a-a566-cafb05f7d36a")
    assert crashpod["pull_ns"] == 4_783_086_211
    assert crashpod["scheduled_ns"] == 1688967099_694297000
    assert crashpod["pulled_ns"] == 1688967105_000000000
    assert len({row["pod_uid"] for row in rows}) == len(rows)
