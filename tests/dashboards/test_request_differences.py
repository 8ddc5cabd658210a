"""What the page of a request says of what differs from its peers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dashboards import parts, read
from tests.dashboards import scene
from tests.dashboards.conftest import page


def test_a_request_says_what_differs_from_its_peers_and_how_sure_that_is(
    correlator: str, reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(correlator)
    told = {
        "sentence": "requests served by pod a took 3 times as long",
        "evidence": "estimated",
        "ns": 1,
        "confidence": 0.99996,
    }
    differs = [
        told | {"method": "Mann-Whitney test, z = 8.1"},
        {"sentence": "its prompt is long", "evidence": "exact", "ns": 0},
    ]
    monkeypatch.setattr(
        read, "explained", lambda request: {"causes": [], "differs": differs, "around": [], "missing": []}
    )
    shown = [
        str(each.value) for each in page("request", id=scene.REQUEST_ID).markdown if "compare_arrows" in str(each.value)
    ]
    assert [each.split(": ", 1)[1] for each in shown] == [
        f"Requests served by pod a took 3 times as long {parts.evidence('estimated')} 99.99 %",
        f"Its prompt is long {parts.evidence('exact')}",
    ]
