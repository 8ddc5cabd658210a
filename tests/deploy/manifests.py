"""The rendered manifests, read: their objects, pods and containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFESTS = sorted((ROOT / "deploy/manifests").glob("*-*.yaml"))
EACH_MANIFEST = pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
Object = dict[str, Any]


def objects(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def pods(path: Path) -> list[tuple[str, Object]]:
    return [
        (o["metadata"]["name"], o["spec"]["template"]["spec"]) for o in objects(path) if "template" in o.get("spec", {})
    ]


def containers(path: Path) -> list[Object]:
    return [c for _, spec in pods(path) for c in spec["containers"]]
