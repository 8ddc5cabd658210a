"""Rows of Kubernetes' objects: pods, their containers, Events, nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from collectors.cluster import serving
from collectors.wire import secrets

Row = dict[str, Any]
Object = Mapping[str, Any]

_RUNTIME = re.compile(r"^[a-z0-9.+-]+://")
_FIELD_PATH = re.compile(r"\{(?P<container>[^}]+)\}$")


def time_of(text: str | None) -> int | None:
    """Return ns since 1970 of a Kubernetes time (1 s or, as eventTime, 1 µs), or None."""
    if not text:
        return None
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(told.timestamp() * 1e6) * 1000


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


def node(told: Object, deleted: bool, now_ns: int) -> Row:
    """Return the `cluster_node` row of a node."""
    labels = told["metadata"].get("labels") or {}
    status = told.get("status") or {}
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or []}
    info = status.get("nodeInfo") or {}
    offered = {name: count for name, count in (status.get("allocatable") or {}).items() if _is_gpu(name)}
    return {
        "time_ns": now_ns,
        "node": told["metadata"]["name"],
        "ready": conditions["Ready"] == "True" if "Ready" in conditions else None,
        "deleted": deleted,
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


@dataclass
class Pods:
    """Rows of pods; remembers each pod's last row and its containers' states, so that only changes are told."""

    _told: dict[str, Row] = field(default_factory=dict)
    _states: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)

    def pod(self, told: Object, deleted: bool, now_ns: int) -> Iterator[Row]:
        """Yield the `pod` row, if it says something new."""
        metadata, spec, status = told["metadata"], told.get("spec") or {}, told.get("status") or {}
        owner: Object = next((each for each in metadata.get("ownerReferences") or [] if each.get("controller")), {})
        found = serving.of_pod(metadata, spec)
        row = {
            "node": spec.get("nodeName"),
            "pod_uid": metadata["uid"],
            "pod": metadata["name"],
            "namespace": metadata.get("namespace"),
            "created_ns": time_of(metadata.get("creationTimestamp")),
            "pod_ip": status.get("podIP"),
            "phase": "Deleted" if deleted else status.get("phase"),
            "owner_kind": owner.get("kind"),
            "owner_name": owner.get("name"),
            "labels": json.dumps(metadata.get("labels") or {}, sort_keys=True),
            **{name: getattr(found, name) for name in serving.Serving.__slots__},
        }
        if self._told.get(metadata["uid"]) == row:
            return
        first = metadata["uid"] not in self._told
        self._told[metadata["uid"]] = row
        if deleted:
            self._told.pop(metadata["uid"])
        # A pod seen for the first time has been what it is since its kubelet took it, not since we looked.
        since = time_of(status.get("startTime") or metadata.get("creationTimestamp")) if first else None
        yield {**row, "time_ns": min(since, now_ns) if since else now_ns}

    def containers(self, told: Object, deleted: bool, now_ns: int) -> Iterator[Row]:
        """Yield the `container_state` rows of what has changed in the pod's containers."""
        metadata, status = told["metadata"], told.get("status") or {}
        known = self._states.setdefault(metadata["uid"], set())
        if deleted:
            self._states.pop(metadata["uid"])
            return
        ready = _transitions(status)
        for each in _statuses(status):
            for time_ns, kind, exit_code, reason, container_id in _states(each, ready):
                key = (each["name"], container_id, kind, exit_code, reason)
                if key in known:
                    continue
                known.add(key)
                yield {
                    "time_ns": time_ns or now_ns,
                    "node": (told.get("spec") or {}).get("nodeName"),
                    "container_id": _RUNTIME.sub("", container_id) or None,
                    "pod_uid": metadata["uid"],
                    "pod": metadata["name"],
                    "namespace": metadata.get("namespace"),
                    "container": each["name"],
                    "kind": kind,
                    "image": each.get("image") or None,
                    "exit_code": exit_code,
                    "reason": reason,
                    "observed_by": "cluster_state",
                }


def _statuses(status: Object) -> Iterator[Mapping[str, Any]]:
    for kind in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        yield from status.get(kind) or []


def _transitions(status: Object) -> int | None:
    """Return when the pod became ready, the only time that Kubernetes keeps of readiness."""
    for each in status.get("conditions") or []:
        if each.get("type") == "Ready" and each.get("status") == "True":
            return time_of(each.get("lastTransitionTime"))
    return None


def _states(
    each: Mapping[str, Any], ready_ns: int | None
) -> Iterator[tuple[int | None, str, int | None, str | None, str]]:
    """Yield time, kind, exit code, reason and container id of what a container's status tells."""
    for told in (each.get("lastState") or {}, each.get("state") or {}):
        if "terminated" in told:
            ended = told["terminated"]
            container_id = ended.get("containerID") or each.get("containerID") or ""
            kind = "oom" if ended.get("reason") == "OOMKilled" else "exited"
            yield time_of(ended.get("startedAt")), "started", None, None, container_id
            yield time_of(ended.get("finishedAt")), kind, ended.get("exitCode"), ended.get("reason"), container_id
        if "running" in told:
            yield time_of(told["running"].get("startedAt")), "started", None, None, each.get("containerID") or ""
        if "waiting" in told:
            yield None, "waiting", None, told["waiting"].get("reason"), each.get("containerID") or ""
    if each.get("ready") and "running" in (each.get("state") or {}):
        yield ready_ns, "ready", None, None, each.get("containerID") or ""
