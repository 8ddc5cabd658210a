"""A C part is used where it is what its source says."""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from correlator.storage import spans
from correlator.timeline import timeline_draw
from warpline import built
from warpline.otlp import scanner


def test_what_was_built_from_an_older_source_is_told_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert built.library("a._part", tmp_path) is None and not caplog.records
    source, part = tmp_path / "scan" / "part.c", tmp_path / f"_part{EXTENSION_SUFFIXES[0]}"
    source.parent.mkdir()
    source.touch()
    part.touch()
    os.utime(source, (100, 100))
    os.utime(part, (100, 100))
    assert built.library("a._part", tmp_path) == str(part) and not caplog.records
    os.utime(source, (200, 200))
    assert built.library("a._part", tmp_path) is None
    assert "built from older sources" in caplog.text and "setup.sh" in caplog.text


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("warpline.otlp._scan", scanner),
        ("correlator.storage._seen", spans),
        ("correlator.timeline._draw", timeline_draw),
    ],
)
def test_the_parts_are_looked_for_where_they_are_built(name: str, module: object) -> None:
    directory = Path(str(vars(module)["__file__"])).parent
    used = vars(module)[{"scanner": "_library", "spans": "_seen", "timeline_draw": "library"}[name_of(module)]]
    assert (built.library(name, directory) is not None) == (used is not None)


def name_of(module: object) -> str:
    return str(vars(module)["__name__"]).rpartition(".")[2]
