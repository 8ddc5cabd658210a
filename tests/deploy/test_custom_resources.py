"""The facts of the CRDs refuse what the CRDs refuse: a field that does not exist, on every level, and a wrong type."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy import custom_resources

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = [ROOT / "deploy/manifests/kubernetes-full.yaml", ROOT / "deploy/engines/kserve.yaml"]
CUSTOM = [
    each
    for path in FILES
    for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if each and custom_resources.is_custom(each)
]
REFUSED = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
OPEN = "limits"
"""A map of quantities, which takes any name."""


def levels(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object within `value` whose fields have to be known."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name != OPEN:
                yield from levels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from levels(inner)


def test_every_kind_that_the_facts_know_is_rendered_or_shipped() -> None:
    known = {name for name in custom_resources.FACTS if " " in name}
    assert known == {f"{each['apiVersion']} {each['kind']}" for each in CUSTOM}


@pytest.mark.parametrize("made", CUSTOM, ids=lambda made: made["kind"])
def test_an_unknown_field_is_refused_on_every_level(made: dict[str, Any]) -> None:
    custom_resources.validate(made, "1.33")
    count = sum(1 for _ in levels(made["spec"]))
    assert count > 1
    for number in range(count):
        broken = copy.deepcopy(made)
        list(levels(broken["spec"]))[number]["unheardOf"] = 1
        with pytest.raises(REFUSED, match=r"unheardOf|is not of type"):
            custom_resources.validate(broken, "1.33")
    with pytest.raises(REFUSED, match="unheardOf"):
        custom_resources.validate({**made, "metadata": {**made["metadata"], "unheardOf": 1}}, "1.33")


@pytest.mark.parametrize("made", CUSTOM, ids=lambda made: made["kind"])
def test_a_value_of_another_type_is_refused(made: dict[str, Any]) -> None:
    for name in made["spec"]:
        broken = {**made, "spec": {**made["spec"], name: 0.5}}
        with pytest.raises(REFUSED):
            custom_resources.validate(broken, "1.33")
