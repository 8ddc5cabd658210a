"""What serves models, as custom objects say: KServe's services, Knative's revisions, KEDA's scaled objects.

KServe's `InferenceService` (v1beta1) and `LLMInferenceService` (v1alpha1, v1alpha2), Knative Serving's `Revision` (v1) and
KEDA's `ScaledObject` (v1alpha1). Their pods carry the names of service and revision as labels; what those do not say of the
model is filled in from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from collectors.cluster import serving
from collectors.cluster.times import time_of

Row = dict[str, Any]
Object = Mapping[str, Any]
Facts = tuple[str | None, str | None]
"""Model and its version."""

_NOTHING: Object = {}
_READ_BY = {
    "inferenceservices": "InferenceService",
    "llminferenceservices": "LLMInferenceService",
    "revisions": "Revision",
    "scaledobjects": "ScaledObject",
}
KINDS = frozenset(_READ_BY)
"""Kinds of objects that are understood, in the plural that the API has in paths."""


@dataclass
class Services:
    """Rows of `service_state`; remembers each object's last rows, so that only changes are told."""

    _told: dict[str, list[Row]] = field(default_factory=dict)
    _facts: dict[tuple[str | None, str, str | None], Facts] = field(default_factory=dict)

    def rows(self, plural: str, told: Object, now_ns: int) -> Iterator[Row]:
        """Yield the rows of an object, of those that say something new."""
        metadata, status = told["metadata"], told.get("status") or {}
        common = {
            "kind": _READ_BY[plural],
            "namespace": metadata.get("namespace"),
            "object": metadata["name"],
            "object_uid": metadata["uid"],
            "deleted": False,
            **_conditions(status),
        }
        found = [{**common, **each} for each in _PARTS[plural](told, told.get("spec") or {}, status)]
        before = self._told.get(metadata["uid"])
        self._told[metadata["uid"]] = found
        self._learn(found)
        changed = found if before is None else [row for row in found if row not in before]
        # An object seen for the first time has been what it is since its conditions changed, not since we looked.
        since = _since(metadata, status) if before is None else None
        yield from ({**row, "time_ns": min(since, now_ns) if since else now_ns} for row in changed)

    def gone(self, uid: str, now_ns: int) -> Iterator[Row]:
        """Yield the last rows of an object that is deleted."""
        for row in self._told.pop(uid, []):
            yield {**row, "deleted": True, "active": False, "ready": False, "time_ns": now_ns}

    def fill(self, row: Row) -> Row:
        """Return a pod's row with model and version of its revision or service, where it does not say them itself."""
        namespace = row.get("namespace")
        filled = dict(row)
        for kind in ("revision", "service"):
            model, version = self._facts.get((namespace, kind, row.get(kind)), (None, None))
            filled["model"] = filled.get("model") or model
            filled["model_version"] = filled.get("model_version") or version
        return filled

    def remember(self, uid: str) -> Any:
        """Return what is to be kept of an object over a restart, as JSON has it; None for one that is not known."""
        return self._told.get(uid)

    def recall(self, uid: str, kept: Any) -> None:
        """Take up what `remember` returned."""
        self._told[uid] = kept
        self._learn(kept)

    def _learn(self, rows: list[Row]) -> None:
        for row in rows:
            kind = "revision" if row["kind"] == "Revision" else "service"
            if row.get(kind) and row["kind"] != "ScaledObject":
                self._facts[row["namespace"], kind, row[kind]] = row.get("model"), row.get("model_version")


def _conditions(status: Object) -> Row:
    told = {each.get("type"): each for each in status.get("conditions") or []}
    ready, active = (_truth(told.get(kind)) for kind in ("Ready", "Active"))
    failing = told.get("Ready", _NOTHING) if ready is False else _NOTHING
    return {"ready": ready, "active": active, "reason": failing.get("reason") or None}


def _truth(condition: Object | None) -> bool | None:
    return {"True": True, "False": False}.get((condition or _NOTHING).get("status", ""))


def _since(metadata: Object, status: Object) -> int | None:
    times = [time_of(each.get("lastTransitionTime")) for each in status.get("conditions") or []]
    return max((each for each in times if each), default=time_of(metadata.get("creationTimestamp")))


def _inference_service(told: Object, spec: Object, status: Object) -> Iterator[Row]:
    """Yield one row for each revision that has traffic, else one."""
    predictor = spec.get("predictor") or _NOTHING
    name = told["metadata"]["name"]
    address = " ".join(_addresses(predictor))
    model, version = serving.model_of(told["metadata"], address)
    loading = (status.get("modelStatus") or _NOTHING).get("transitionStatus")
    reason = {"reason": loading} if loading not in (None, "", "UpToDate") else {}
    row = {
        "service": name,
        "model": model or name,
        "model_version": version,
        "least_replicas": predictor.get("minReplicas"),
        "most_replicas": predictor.get("maxReplicas") or None,
        **reason,
    }
    ran = (status.get("components") or _NOTHING).get("predictor") or _NOTHING
    traffic = [each for each in ran.get("traffic") or [] if each.get("revisionName")]
    for each in traffic:
        yield {**row, "revision": each["revisionName"], "traffic_ratio": (each.get("percent") or 0) / 100}
    if not traffic:
        yield {**row, "revision": ran.get("latestReadyRevision") or ran.get("latestCreatedRevision")}


def _addresses(predictor: Object) -> Iterator[str]:
    """Yield where the predictor's model comes from, in the newer form and in that of a framework's own key."""
    for each in predictor.values():
        if isinstance(each, Mapping) and isinstance(each.get("storageUri"), str):
            yield each["storageUri"]


def _llm_service(told: Object, spec: Object, status: Object) -> Iterator[Row]:
    """Yield one row, or one for each role where prefill and decode are apart."""
    wanted = spec.get("model") or _NOTHING
    model, version = serving.model_of(told["metadata"], str(wanted.get("uri") or ""))
    row = {
        "service": told["metadata"]["name"],
        "model": model or wanted.get("name") or told["metadata"]["name"],
        "model_version": version,
    }
    prefill = spec.get("prefill")
    yield {**row, "role": "decode" if prefill else None, "desired_replicas": spec.get("replicas")}
    if prefill:
        yield {**row, "role": "prefill", "desired_replicas": prefill.get("replicas")}


def _revision(told: Object, spec: Object, status: Object) -> Iterator[Row]:
    labels, notes = (told["metadata"].get(each) or _NOTHING for each in ("labels", "annotations"))
    model, version = serving.model_of(told["metadata"], "")
    scale = {edge: notes.get(f"autoscaling.knative.dev/{edge}-scale") for edge in ("min", "max")}
    yield {
        "service": labels.get("serving.kserve.io/inferenceservice") or labels.get("serving.knative.dev/service"),
        "revision": told["metadata"]["name"],
        "model": model,
        "model_version": version,
        "replicas": status.get("actualReplicas"),
        "desired_replicas": status.get("desiredReplicas"),
        "least_replicas": _whole(scale["min"]),
        "most_replicas": _whole(scale["max"]) or None,
    }


def _scaled_object(told: Object, spec: Object, status: Object) -> Iterator[Row]:
    target = spec.get("scaleTargetRef") or _NOTHING
    triggers = [str(each.get("type")) for each in spec.get("triggers") or []]
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or []}
    reasons = [kind for kind in ("Paused", "Fallback") if conditions.get(kind) == "True"]
    yield {
        "target": f"{target.get('kind') or 'Deployment'}/{target['name']}" if target.get("name") else None,
        "triggers": ",".join(sorted({*triggers})) or None,
        "least_replicas": spec.get("minReplicaCount", 0),
        "most_replicas": spec.get("maxReplicaCount", 100),
        **({"reason": reasons[0]} if reasons else {}),
    }


def _whole(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isdigit() else None


_PARTS = {
    "inferenceservices": _inference_service,
    "llminferenceservices": _llm_service,
    "revisions": _revision,
    "scaledobjects": _scaled_object,
}
