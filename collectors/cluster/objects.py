"""Rows of Kubernetes' Events and nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from collectors.cluster.times import time_of
from collectors.wire import secrets

Row = dict[str, Any]
Object = Mapping[str, Any]

_FIELD_PATH = re.compile(r"\{(?P<container>[^}]+)\}$")


def event(told: Object, now_ns: int) -> Row:
    """Return the `cluster_event` row of an Event, of either API: core/v1 or events.k8s.io/v1."""
    about = told.get("involvedObject") or told.get("regarding") or {}
    series = told.get("series") or {}
    source = told.get("source") or told.get("deprecatedSource") or {}
    created = time_of(told.get("metadata", {}).get("creationTimestamp"))
    first = time_of(told.get("firstTimestamp") or told.get("deprecatedFirstTimestamp")) or time_of(
        told.get("eventTime")
    )
    last = time_of(series.get("lastObservedTime")) or time_of(
        told.get("lastTimestamp") or told.get("deprecatedLastTimestamp")
    )
    container = _FIELD_PATH.search(about.get("fieldPath") or "")
    return {
        "time_ns": last or first or created or now_ns,
        "start_ns_of_series": first or created,
        "node": source.get("host") or (about.get("name") if about.get("kind") == "Node" else None),
        "kind": about.get("kind") or "Unknown",
        "namespace": about.get("namespace") or told.get("metadata", {}).get("namespace"),
        "object": about.get("name"),
        "object_uid": about.get("uid"),
        "container": container["container"] if container else None,
        "reason": told.get("reason") or "Unknown",
        "severity": told.get("type"),
        "message": secrets.masked(told.get("message") or told.get("note") or ""),
        "occurrences": series.get("count") or told.get("count") or told.get("deprecatedCount") or 1,
        "reporter": source.get("component") or told.get("reportingComponent") or told.get("reportingController"),
    }


@dataclass
class Nodes:
    """Rows of nodes; remembers each node's last row, so that its heartbeats are not told."""

    _told: dict[str, Row] = field(default_factory=dict)

    def rows(self, told: Object, now_ns: int) -> Iterator[Row]:
        """Yield the `cluster_node` row of a node, if it says something new."""
        row = _node(told)
        if self._told.get(told["metadata"]["uid"]) != row:
            self._told[told["metadata"]["uid"]] = row
            yield {**row, "time_ns": now_ns}

    def gone(self, uid: str, now_ns: int) -> Iterator[Row]:
        """Yield the last row of a node that is deleted."""
        if uid in self._told:
            yield {**self._told.pop(uid), "deleted": True, "time_ns": now_ns}

    def remember(self, uid: str) -> Any:
        """Return what is to be kept of a node over a restart, as JSON has it; None for one that is not known."""
        return self._told.get(uid)

    def recall(self, uid: str, kept: Any) -> None:
        """Take up what `remember` returned."""
        self._told[uid] = kept


def _node(told: Object) -> Row:
    labels = told["metadata"].get("labels") or {}
    status = told.get("status") or {}
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or []}
    info = status.get("nodeInfo") or {}
    offered = {name: count for name, count in (status.get("allocatable") or {}).items() if _is_gpu(name)}
    return {
        "node": told["metadata"]["name"],
        "ready": conditions["Ready"] == "True" if "Ready" in conditions else None,
        "deleted": False,
        "zone": labels.get("topology.kubernetes.io/zone"),
        "instance_type": labels.get("node.kubernetes.io/instance-type"),
        "boot_id": info.get("bootID"),
        "kernel_release": info.get("kernelVersion"),
        "runtime": info.get("containerRuntimeVersion"),
        "gpu_product": labels.get("nvidia.com/gpu.product") or labels.get("amd.com/gpu.product-name"),
        "gpus": sum(int(count) for count in offered.values() if str(count).isdigit()) if offered else None,
        "gpu_sharing": labels.get("nvidia.com/gpu.sharing-strategy"),
        "mig_strategy": labels.get("nvidia.com/mig.strategy"),
    }


def _is_gpu(resource: str) -> bool:
    return resource in ("nvidia.com/gpu", "nvidia.com/gpu.shared", "amd.com/gpu") or resource.startswith(
        "nvidia.com/mig-"
    )
