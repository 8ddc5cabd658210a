"""Rows of pods and their containers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from collectors.cluster import serving
from collectors.cluster.services import Services
from collectors.cluster.times import time_of

Row = dict[str, Any]
Object = Mapping[str, Any]

_RUNTIME = re.compile(r"^[a-z0-9.+-]+://")


@dataclass
class Pods:
    """Rows of pods; remembers each pod's last row and its containers' states, so that only changes are told."""

    services: Services = field(default_factory=Services)
    _own: dict[str, Row] = field(default_factory=dict)
    """What pods say of themselves."""
    _told: dict[str, Row] = field(default_factory=dict)
    """The same, filled in from their services."""
    _states: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)

    def pod(self, told: Object, now_ns: int) -> Iterator[Row]:
        """Yield the `pod` row, if it says something new."""
        uid, status = told["metadata"]["uid"], told.get("status") or {}
        self._own[uid] = _own(told)
        # A pod seen for the first time has been what it is since its kubelet took it, not since we looked.
        first = uid not in self._told
        since = time_of(status.get("startTime") or told["metadata"].get("creationTimestamp")) if first else None
        yield from self._filled(uid, min(since, now_ns) if since else now_ns)

    def refill(self, namespace: str | None, now_ns: int) -> Iterator[Row]:
        """Yield the rows of a namespace's pods of which their services now say more."""
        for uid, own in self._own.items():
            if own["namespace"] == namespace and (own["service"] or own["revision"]):
                yield from self._filled(uid, now_ns)

    def _filled(self, uid: str, time_ns: int) -> Iterator[Row]:
        row = self.services.fill(self._own[uid])
        if self._told.get(uid) != row:
            self._told[uid] = row
            yield {**row, "time_ns": time_ns}

    def gone(self, uid: str, now_ns: int) -> Iterator[Row]:
        """Yield the last row of a pod that is deleted, and forget it."""
        self._own.pop(uid, None)
        self._states.pop(uid, None)
        if uid in self._told:
            yield {**self._told.pop(uid), "phase": "Deleted", "time_ns": now_ns}

    def containers(self, told: Object, now_ns: int) -> Iterator[Row]:
        """Yield the `container_state` rows of what has changed in the pod's containers."""
        metadata, status = told["metadata"], told.get("status") or {}
        known = self._states.setdefault(metadata["uid"], set())
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

    def remember(self, uid: str) -> Any:
        """Return what is to be kept of a pod over a restart, as JSON has it; None for one that is not known."""
        if uid not in self._told:
            return None
        return {"own": self._own[uid], "told": self._told[uid], "states": [*self._states.get(uid, ())]}

    def recall(self, uid: str, kept: Any) -> None:
        """Take up what `remember` returned."""
        self._own[uid], self._told[uid] = kept["own"], kept["told"]
        self._states[uid] = {tuple(each) for each in kept["states"]}


def _own(told: Object) -> Row:
    """Return what a pod says of itself."""
    metadata, spec, status = told["metadata"], told.get("spec") or {}, told.get("status") or {}
    owner: Object = next((each for each in metadata.get("ownerReferences") or [] if each.get("controller")), {})
    found = serving.of_pod(metadata, spec)
    return {
        "node": spec.get("nodeName"),
        "pod_uid": metadata["uid"],
        "pod": metadata["name"],
        "namespace": metadata.get("namespace"),
        "created_ns": time_of(metadata.get("creationTimestamp")),
        "pod_ip": status.get("podIP"),
        "phase": status.get("phase"),
        "owner_kind": owner.get("kind"),
        "owner_name": owner.get("name"),
        "labels": json.dumps(metadata.get("labels") or {}, sort_keys=True),
        **{name: getattr(found, name) for name in serving.Serving.__slots__},
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
