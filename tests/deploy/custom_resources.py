"""Holds custom resources against the facts of their CRDs' schemas, to the letter: an unknown field is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

Object = dict[str, Any]

FACTS: Object = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def is_custom(made: Object) -> bool:
    """Say whether an object is of a kind that Kubernetes itself does not have."""
    group = made["apiVersion"].partition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def validate(made: Object, version: str) -> None:
    """Raise jsonschema's or kubernetes_validate's ValidationError where an object is not what its CRD says."""
    assert set(made) == {"apiVersion", "kind", "metadata", "spec"}, set(made)
    schema = FACTS[f"{made['apiVersion']} {made['kind']}"]
    whole = {**FACTS, "type": "object", **schema, "additionalProperties": False}
    Draft202012Validator(whole).validate(made["spec"])
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": made["metadata"]}
    kubernetes_validate.validate(metadata, version, strict=True)
    if made["kind"] == "InferenceService":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": predictor_pod(made)}
        kubernetes_validate.validate(pod, version, strict=True)


def predictor_pod(service: Object) -> Object:
    """Return the pod of an InferenceService's predictor: what is KServe's own is taken out."""
    facts = FACTS["serving.kserve.io/v1beta1 InferenceService"]["properties"]["predictor"]["properties"]
    predictor, own = service["spec"]["predictor"], set(facts)
    model_own = set(facts["model"]["properties"])
    model = {"name": "model", **{k: v for k, v in predictor["model"].items() if k not in model_own}}
    return {k: v for k, v in predictor.items() if k not in own} | {"containers": [model]}
