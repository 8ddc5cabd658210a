"""The cluster's double as the cluster_state source sees it: over HTTP, by its own client."""

from __future__ import annotations

import asyncio
from pathlib import Path

from collectors import cluster_state
from demo.cluster_double import ApiServerDouble, ClusterDouble
from tests.collectors.telemetry_doubles import Seen, context, running
from tests.waiting import until

ARGUMENTS = ["serve", "m", "--kv-transfer-config", '{"kv_role": "kv_producer"}']


def test_a_pod_that_starts_is_told_stage_by_stage(tmp_path: Path) -> None:
    api, seen = ApiServerDouble(), Seen()
    cluster = ClusterDouble(api, "node-a", pull_bytes_per_s=1e9)
    with api.served() as url:
        where = context(tmp_path, seen, kubernetes_api=url)
        assert cluster_state.check(where.settings) is None
        before = cluster.serving("engine-0", "127.0.0.1", ARGUMENTS)
        with running(cluster_state, where, seen):
            until(lambda: len(seen.rows("pod")) == 1)
            pod = cluster.create("engine-1", "127.0.0.2", ARGUMENTS)
            cluster.refuse(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
            cluster.schedule(pod)
            asyncio.run(cluster.pull(pod, 20_000_000))
            cluster.run(pod)
            cluster.ready(pod)
            until(lambda: [row["kind"] for row in seen.rows("container_state")].count("ready") == 2)
            until(lambda: len(seen.rows("cluster_event")) == 9)
    mine = [row for row in seen.rows("cluster_event") if row["object"] == "engine-1"]
    stages = ["FailedScheduling", "Scheduled", "Pulling", "Pulled", "Created", "Started"]
    assert [row["reason"] for row in mine] == stages
    assert [row["container"] for row in mine] == [None, None, *["engine"] * 4]
    last = [row for row in seen.rows("pod") if row["pod"] == "engine-1"][-1]
    told = (last["role"], last["engine"], last["model"], last["node"], last["pod_ip"], last["phase"])
    assert told == ("prefill", "vllm", "m", "node-a", "127.0.0.2", "Running")
    assert before.told["metadata"]["uid"] != last["pod_uid"] and seen.lost() == {}
