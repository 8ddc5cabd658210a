"""docs/metrics.md lists every metric that a process says of itself, as /metrics spells it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import generate_latest

from warpline.telemetry import Reading, registry

PACKAGES = ("warpline", "correlator", "collectors")


def made_in(file: Path) -> Iterator[Reading]:
    """Yield each metric that a file makes readings of: its name, and whether it is a counter."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reading":
            name, given = node.args[0], {each.arg: each.value for each in node.keywords}
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                counter = given.get("counter", node.args[3] if len(node.args) > 3 else None)
                yield Reading(name.value, 1.0, counter=isinstance(counter, ast.Constant) and counter.value is True)


def spelled(reading: Reading) -> tuple[str, str]:
    """Return the name and the type under which /metrics serves a reading."""
    lines = generate_latest(registry(lambda: [reading])).decode().splitlines()
    kind = next(line.split()[3] for line in lines if line.startswith("# TYPE"))
    return next(line.split()[0] for line in lines if not line.startswith("#")), kind


def test_the_page_of_metrics_lists_them_all_and_no_other(root: Path) -> None:
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    made = {spelled(reading) for file in files for reading in made_in(file)}
    page = (root / "docs" / "metrics.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (counter|gauge) \|", page, re.MULTILINE)
    assert len(listed) == len(set(listed)) > 30
    assert set(listed) == made
    assert set(re.findall(r"warpline_\w+", page)) == {name for name, _ in made}, "queries ask for metrics that exist"
