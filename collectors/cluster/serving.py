"""What a pod serves: engine, model, version, role, quantisation and arguments, from labels, annotations and commands.

Labels and annotations as KServe, llm-d, Knative, Dynamo and MLflow set them; options as vLLM, SGLang, TensorRT-LLM, Triton
and TGI take them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collectors.wire import secrets

_ENGINES = (
    ("sglang", re.compile(r"sglang")),
    ("tensorrt_llm", re.compile(r"trtllm|tensorrt[_-]?llm")),
    ("triton", re.compile(r"tritonserver")),
    ("tgi", re.compile(r"text-generation-(?:launcher|inference|server)")),
    ("vllm", re.compile(r"vllm|huggingfaceserver")),
)
_ROUTER = re.compile(r"inference-scheduler|sglang[_-]router|/epp\b|llm-d-router|vllm-router|production-stack/router")
_MODEL_OPTIONS = (
    "--served-model-name",
    "--model-name",
    "--model_name",
    "--model",
    "--model-path",
    "--model-id",
    "--model_id",
)
_QUANTISATION_OPTIONS = ("--quantization", "-q", "--quantize", "--quantization-config")
_SERVICE_LABELS = (
    "serving.kserve.io/inferenceservice",
    "serving.knative.dev/service",
    "llm-d.ai/model-service",
    "nvidia.com/dynamo-graph-deployment-name",
)
_REVISION_LABELS = ("serving.knative.dev/revision", "isvc.generation", "serving.kserve.io/generation")
_ROLE_LABELS = ("llm-d.ai/role", "nvidia.com/dynamo-sub-component-type", "serving.kserve.io/role")
_MODEL_LABELS = ("llm-d.ai/model", "serving.kserve.io/model-name", "modelName")
_VERSION_LABELS = ("serving.kserve.io/model-version", "modelVersion")
_MLFLOW_URI = re.compile(r"models:/(?P<name>[^/\s\"']+)/(?P<version>[^/\s\"']+)")
_KV_ROLE = re.compile(r"kv_role[\"']?\s*:\s*[\"']?kv_(?P<role>producer|consumer|both)")
_ROLES = {"producer": "prefill", "consumer": "decode", "both": "both", "prefill": "prefill", "decode": "decode"}


@dataclass(frozen=True, slots=True)
class Serving:
    """What a pod serves; None where nothing says."""

    service: str | None = None
    revision: str | None = None
    role: str | None = None
    engine: str | None = None
    model: str | None = None
    model_version: str | None = None
    quantisation: str | None = None
    engine_arguments: str | None = None


def of_pod(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Serving:
    """Return what a pod serves, from its metadata and specification."""
    labels = metadata.get("labels") or {}
    name, words = _engine(spec.get("containers") or [])
    if name is None and not _first(labels, _SERVICE_LABELS):
        return Serving()
    line = " ".join(words)
    model, version = model_of(metadata, line)
    return Serving(
        service=_first(labels, _SERVICE_LABELS) or _llm_service(labels),
        revision=_first(labels, _REVISION_LABELS),
        role=_role(labels, words, line),
        engine=None if name == "router" else name,
        model=model or _model(words),
        model_version=version,
        quantisation=_option(words, _QUANTISATION_OPTIONS),
        engine_arguments=secrets.command_line(words) if words else None,
    )


def model_of(metadata: Mapping[str, Any], address: str) -> tuple[str | None, str | None]:
    """Return model and version that labels, annotations or the model's address name; None where they do not."""
    notes = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    name, version = _mlflow(notes, address)
    return name or _first(notes, _MODEL_LABELS), version or _first(notes, _VERSION_LABELS)


def _engine(containers: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[str]]:
    """Return the engine's name (or "router") and its command line; the container's name and image count as hints."""
    for told in containers:
        words = list(_words(told))
        hints = " ".join([*words, str(told.get("image", ""))])
        if _ROUTER.search(hints):
            return "router", words
        for engine, pattern in _ENGINES:
            if pattern.search(hints):
                return engine, words
    for told in containers:
        if told.get("name") == "kserve-container":
            return None, list(_words(told))
    return None, []


def _words(container: Mapping[str, Any]) -> Iterator[str]:
    """Yield the words of a container's command, those inside a shell's -c too."""
    for word in [*(container.get("command") or []), *(container.get("args") or [])]:
        text = str(word)
        if " " not in text.strip() or text.lstrip().startswith(("{", "[")):
            yield text
            continue
        try:
            yield from shlex.split(text.replace("\\\n", " "), comments=False)
        except ValueError:
            yield from text.split()


def _option(words: Sequence[str], options: Sequence[str]) -> str | None:
    for option in options:
        for place, word in enumerate(words):
            if word.startswith(option + "="):
                return word.removeprefix(option + "=")
            if word == option and place + 1 < len(words) and not words[place + 1].startswith("-"):
                return words[place + 1]
    return None


def _model(words: Sequence[str]) -> str | None:
    named = _option(words, _MODEL_OPTIONS)
    if named is None and "serve" in words:  # `vllm serve MODEL` and `trtllm-serve MODEL`.
        place = words.index("serve") + 1
        named = words[place] if place < len(words) and not words[place].startswith("-") else None
    return named


def _role(labels: Mapping[str, str], words: Sequence[str], line: str) -> str | None:
    told = _first(labels, _ROLE_LABELS)
    if told in ("prefill", "decode", "both", "router"):
        return told
    if _ROUTER.search(line):
        return "router"
    mode = _option(words, ("--disaggregation-mode",))
    kv = _KV_ROLE.search(line)
    return _ROLES.get(mode or (kv["role"] if kv else ""))


def _llm_service(labels: Mapping[str, str]) -> str | None:
    part_of = labels.get("app.kubernetes.io/part-of", "").lower()
    return labels.get("app.kubernetes.io/name") if part_of in ("llminferenceservice", "llm-d") else None


def _mlflow(notes: Mapping[str, str], line: str) -> tuple[str | None, str | None]:
    """Return model and version that MLflow's labels, annotations or a models:/ address name."""
    told = {
        re.sub(r"[^a-z]", "", key.lower()): value for key, value in notes.items() if key.lower().startswith("mlflow")
    }
    name = next((value for key, value in told.items() if key.endswith(("modelname", "registeredmodel"))), None)
    version = next((value for key, value in told.items() if key.endswith("version")), None)
    address = _MLFLOW_URI.search(" ".join([*map(str, notes.values()), line]))
    if address is not None:
        return name or address["name"], version or address["version"]
    return name, version


def _first(told: Mapping[str, str], keys: Sequence[str]) -> str | None:
    return next((told[key] for key in keys if told.get(key)), None)
