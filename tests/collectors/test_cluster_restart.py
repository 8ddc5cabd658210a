"""A collector of the cluster that stops or is killed goes on where it stood; the API server is a double."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from collectors import cluster_state
from tests.collectors.api_server_double import ApiServerDouble, Kind, api_server, pod
from tests.collectors.stored import stored
from tests.collectors.telemetry_doubles import Seen, context, running
from tests.waiting import until

EVENTS = "/api/v1/events"
GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}


def event(name: str, version: int) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "a", "namespace": "llm", "uid": "uid-a"}
    metadata = {"name": name, "uid": f"uid-{name}", "namespace": "llm", "resourceVersion": str(version)}
    return {"metadata": metadata, "involvedObject": about, "reason": name, "firstTimestamp": "2025-01-01T00:00:00Z"}


def started(name: str, version: int, restarts: int) -> dict[str, Any]:
    """A pod whose container has started that often again."""
    states = [{"running": {"startedAt": f"2025-01-01T00:00:0{restarts}Z"}}]
    found = pod(name, version)
    found["status"]["containerStatuses"] = [
        {"name": "engine", "containerID": f"containerd://{restarts}", "state": each} for each in states
    ]
    found["spec"]["containers"] = [{"name": "engine", "command": ["vllm", "serve", "m", "--api-key", "geheim"]}]
    return found


def watched(kind: Kind) -> list[str]:
    return [each["resourceVersion"] for each in kind.asked if each.get("watch")]


def test_a_restart_goes_on_at_its_resource_version_and_tells_nothing_twice(tmp_path: Path) -> None:
    double = ApiServerDouble([[started("a", 1, 0), pod("b", 2)]], [])
    double.kinds[EVENTS] = Kind([[event("Pulling", 3)]])
    pods, events = double.kinds["/api/v1/pods"], double.kinds[EVENTS]
    first, second = Seen(), Seen()
    with api_server(double) as address:
        where = context(tmp_path, first, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, first):
            until(
                lambda: len(first.rows("pod")) == 2 and bool(first.rows("cluster_event")) and watched(pods) == ["100"]
            )
            until(lambda: watched(events) == ["100"])
        pods.watches = [
            [
                {"type": "MODIFIED", "object": started("a", 101, 1)},
                {"type": "DELETED", "object": pod("b", 102)},
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "150"}}},
            ]
        ]
        events.watches = [[{"type": "ADDED", "object": event("Pulled", 103)}]]
        where = context(tmp_path, second, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, second):
            until(lambda: watched(pods)[1:3] == ["100", "150"] and watched(events)[1:3] == ["100", "103"])
            until(lambda: bool(second.rows("pod")) and bool(second.rows("cluster_event")))
    assert [row["reason"] for row in first.rows("cluster_event") + second.rows("cluster_event")] == [
        "Pulling",
        "Pulled",
    ]
    assert [(row["pod"], row["phase"]) for row in second.rows("pod")] == [("b", "Deleted")], "a says nothing new"
    assert [row["container_id"] for row in first.rows("container_state")] == ["0"]
    assert [row["container_id"] for row in second.rows("container_state")] == ["1"]
    assert first.lost() == second.lost() == {}
    kept = b"".join(each.read_bytes() for each in tmp_path.glob("cluster-*"))
    assert b"vllm" in kept and b"geheim" not in kept


def test_a_restart_after_too_long_lists_and_tells_only_what_is_new(tmp_path: Path) -> None:
    double = ApiServerDouble([[pod("a", 1), pod("b", 2)], [pod("a", 1), pod("c", 180)]], [])
    double.kinds[EVENTS] = Kind([[event("Pulling", 3)], [event("Pulling", 3), event("Pulled", 190)]])
    pods, events = double.kinds["/api/v1/pods"], double.kinds[EVENTS]
    first, second = Seen(), Seen()
    with api_server(double) as address:
        where = context(tmp_path, first, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, first):
            until(lambda: len(first.rows("pod")) == 2 and bool(first.rows("cluster_event")))
            until(lambda: bool(watched(pods)) and bool(watched(events)))
        pods.watches, events.watches = [[410]], [[GONE]]
        where = context(tmp_path, second, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, second):
            until(lambda: len(second.rows("pod")) == 2 and bool(second.rows("cluster_event")))
    assert {(row["pod"], row["phase"]) for row in second.rows("pod")} == {("b", "Deleted"), ("c", "Running")}
    assert [row["reason"] for row in second.rows("cluster_event")] == ["Pulled"]
    assert second.lost() == {"changes between two lists": 2}
    assert all(row["lower_bound"] for row in second.rows("loss"))


@pytest.mark.parametrize("handed_on", [True, False])
def test_changes_at_which_the_collector_was_killed_are_stored_once(tmp_path: Path, handed_on: bool) -> None:
    double, seen = ApiServerDouble([[started("a", 1, 0)]], []), Seen()
    double.kinds[EVENTS] = Kind([[event("Pulling", 3), event("Pulled", 4)]])
    with api_server(double) as address:
        where = context(tmp_path, seen, "cluster_state", kubernetes_api=address)
        # A killed collector never comes back to its source: its generator is left where it stands.
        source = cluster_state.run(where)
        told = next(batch for batch in source if batch.rows.num_rows)
        seen.batches += [told] if handed_on else []
        where.stop.set()
        source.close()
        where = context(tmp_path, seen, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, seen):
            until(lambda: len({row["reason"] for row in seen.rows("cluster_event")}) == 2 and bool(seen.rows("pod")))
            until(lambda: bool(watched(double.kinds[EVENTS])) and bool(watched(double.kinds["/api/v1/pods"])))
    assert sum(batch.batch_id == told.batch_id and batch.table == told.table for batch in seen.batches) == 1 + handed_on
    for table, column, wanted in (
        ("cluster_event", "reason", ["Pulled", "Pulling"]),
        ("container_state", "kind", ["started"]),
        ("pod", "pod", ["a"]),
    ):
        assert sorted(stored(seen.batches, table, column, tmp_path / "store")) == wanted


def test_a_memory_that_cannot_be_read_is_begun_anew_and_counted(tmp_path: Path) -> None:
    double = ApiServerDouble([[pod("a", 1)]], [])
    with api_server(double) as address:
        for number, text in enumerate((None, b"no database", b"no database")):
            seen = Seen()
            where = context(tmp_path, seen, "cluster_state", kubernetes_api=address)
            file = cluster_state._file(where, address)
            if text is not None:
                for each in tmp_path.glob(f"{file.name}*"):
                    each.unlink()
                file.write_bytes(text * 1000)
            with running(cluster_state, where, seen):
                until(lambda seen=seen: bool(seen.rows("pod")))
            assert seen.lost() == ({"memory of the cluster unreadable": 1} if number else {})


def test_another_cluster_has_a_memory_of_its_own(tmp_path: Path) -> None:
    where = context(tmp_path, Seen(), "cluster_state")
    files = [cluster_state._file(where, host) for host in ("https://10.0.0.1", "https://10.0.0.2")]
    assert all(one != other for one, other in itertools.combinations(files, 2))
