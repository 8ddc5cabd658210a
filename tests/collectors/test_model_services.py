"""KServe's, Knative's and KEDA's custom objects, written as their API references have them; the API server is a double."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collectors import cluster_state
from tests.collectors.api_server_double import ApiServerDouble, Kind, api_server, pod
from tests.collectors.telemetry_doubles import Seen, context, running
from tests.collectors.test_cluster_state import rows
from tests.waiting import until


def custom(kind: str, version: str, told: dict[str, Any]) -> str:
    """The path of a custom object's kind, which the object names itself by."""
    told["metadata"] = {"uid": f"uid-{kind}", "namespace": "llm", "resourceVersion": "7", **told["metadata"]}
    group = {"revisions": "serving.knative.dev", "scaledobjects": "keda.sh"}.get(kind, "serving.kserve.io")
    return f"/apis/{group}/{version}/{kind}"


READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:09Z"}
INFERENCE_SERVICE = {
    "metadata": {"name": "chat", "annotations": {"mlflow.org/run": "models:/chat-lora/7"}},
    "spec": {"predictor": {"minReplicas": 0, "maxReplicas": 4, "model": {"storageUri": "s3://models/chat"}}},
    "status": {
        "conditions": [READY],
        "modelStatus": {"transitionStatus": "InProgress"},
        "components": {
            "predictor": {
                "latestReadyRevision": "chat-predictor-00003",
                "traffic": [
                    {"revisionName": "chat-predictor-00003", "percent": 90},
                    {"revisionName": "chat-predictor-00002", "percent": 10},
                ],
            }
        },
    },
}
LLM_SERVICE = {
    "metadata": {"name": "llama"},
    "spec": {"model": {"uri": "hf://m/llama", "name": "m/llama"}, "replicas": 3, "prefill": {"replicas": 2}},
}
REVISION = {
    "metadata": {
        "name": "chat-predictor-00003",
        "labels": {"serving.knative.dev/service": "chat-predictor", "serving.kserve.io/inferenceservice": "chat"},
        "annotations": {"autoscaling.knative.dev/min-scale": "1", "autoscaling.knative.dev/max-scale": "4"},
    },
    "status": {
        "actualReplicas": 0,
        "desiredReplicas": 1,
        "conditions": [
            {"type": "Active", "status": "False", "reason": "NoTraffic"},
            {"type": "Ready", "status": "False", "reason": "NoTraffic"},
        ],
    },
}
SCALED_OBJECT = {
    "metadata": {"name": "llama-scaler"},
    "spec": {
        "scaleTargetRef": {"name": "llama-decode"},
        "maxReplicaCount": 8,
        "triggers": [{"type": "prometheus", "metadata": {"query": "vllm"}}, {"type": "cron"}],
    },
    "status": {"conditions": [READY, {"type": "Active", "status": "True"}, {"type": "Fallback", "status": "False"}]},
}


def test_what_serves_and_scales_models_is_read_from_custom_objects() -> None:
    paths = {
        custom("inferenceservices", "v1beta1", INFERENCE_SERVICE): INFERENCE_SERVICE,
        custom("llminferenceservices", "v1alpha1", LLM_SERVICE): LLM_SERVICE,
        custom("revisions", "v1", REVISION): REVISION,
        custom("scaledobjects", "v1alpha1", SCALED_OBJECT): SCALED_OBJECT,
    }
    state = cluster_state.State()
    told = [row for path, each in paths.items() for row in rows(path, [each], state)["service_state"]]
    names = ("kind", "service", "revision", "role", "model", "model_version", "ready", "reason", "traffic_ratio")
    assert [tuple(row[name] for name in names) for row in told] == [
        ("InferenceService", "chat", "chat-predictor-00003", None, "chat-lora", "7", True, "InProgress", 0.9),
        ("InferenceService", "chat", "chat-predictor-00002", None, "chat-lora", "7", True, "InProgress", 0.1),
        ("LLMInferenceService", "llama", None, "decode", "m/llama", None, None, None, None),
        ("LLMInferenceService", "llama", None, "prefill", "m/llama", None, None, None, None),
        ("Revision", "chat", "chat-predictor-00003", None, None, None, False, "NoTraffic", None),
        ("ScaledObject", None, None, None, None, None, True, None, None),
    ]
    counts = ("replicas", "desired_replicas", "least_replicas", "most_replicas", "active")
    assert [tuple(row[name] for name in counts) for row in told] == [
        (None, None, 0, 4, None),
        (None, None, 0, 4, None),
        (None, 3, None, None, None),
        (None, 2, None, None, None),
        (0, 1, 1, 4, False),
        (None, None, 0, 8, True),
    ]
    assert (told[-1]["target"], told[-1]["triggers"]) == ("Deployment/llama-decode", "cron,prometheus")
    assert [row["time_ns"] for row in told][:2] == [1735689609_000000000] * 2, "since its condition changed"
    scaled = {**REVISION, "status": {**REVISION["status"], "actualReplicas": 1}}
    again = [rows(path, [each], state, "MODIFIED") for path, each in [*paths.items(), (list(paths)[2], scaled)]]
    assert [[row["replicas"] for row in each.get("service_state", [])] for each in again] == [[], [], [], [], [1]]
    gone = rows(next(iter(paths)), [INFERENCE_SERVICE], state, "DELETED")["service_state"]
    assert [(row["revision"], row["deleted"]) for row in gone] == [(each["revision"], True) for each in told[:2]]


def test_a_pod_is_told_again_once_its_service_says_what_the_model_is() -> None:
    labels = {"serving.kserve.io/inferenceservice": "chat", "serving.knative.dev/revision": "chat-predictor-00003"}
    mine, state = pod("a", 1), cluster_state.State()
    mine["metadata"]["labels"] = labels
    assert [row["model_version"] for row in rows("/api/v1/pods", [mine], state)["pod"]] == [None]
    path = custom("inferenceservices", "v1beta1", INFERENCE_SERVICE)
    told = rows(path, [INFERENCE_SERVICE], state)["pod"]
    assert [(row["pod"], row["revision"], row["model"], row["model_version"]) for row in told] == [
        ("a", "chat-predictor-00003", "chat-lora", "7")
    ]
    assert rows("/api/v1/pods", [mine], state, "MODIFIED") == {}


def test_custom_objects_are_watched_where_their_kinds_are_and_missed_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = custom("inferenceservices", "v1beta1", INFERENCE_SERVICE)
    double, seen = ApiServerDouble([[pod("a", 1)]], []), Seen()
    changed = {**INFERENCE_SERVICE, "metadata": {**INFERENCE_SERVICE["metadata"], "resourceVersion": "9"}}
    changed["status"] = {"components": {"predictor": {"latestReadyRevision": "chat-predictor-00004"}}}
    double.kinds[path] = Kind([[INFERENCE_SERVICE]], [[{"type": "MODIFIED", "object": changed}]])
    double.groups = {"/apis/serving.kserve.io": [{"version": "v1beta1"}, {"version": "v1alpha1"}]}
    with caplog.at_level("INFO"), api_server(double) as address:
        where = context(tmp_path, seen, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, seen):
            until(lambda: len(seen.rows("service_state")) == 3)
            until(lambda: caplog.text.count("this cluster has none") == 7)
    assert [row["revision"] for row in seen.rows("service_state")] == [
        "chat-predictor-00003",
        "chat-predictor-00002",
        "chat-predictor-00004",
    ]
    assert seen.lost() == {}
