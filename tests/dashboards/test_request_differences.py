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


def test_what_only_may_have_slowed_a_request_stands_under_a_heading_that_says_so(
    correlator: str, reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(correlator)
    known = {"evidence": "estimated"}
    told = {
        "causes": [known | {"sentence": "XID 79", "ns": 0}, known | {"sentence": "the host was late", "ns": 5}],
        "differs": [],
        "around": [known | {"sentence": "packets of others were lost", "ns": 0}],
        "missing": [],
    }
    monkeypatch.setattr(read, "explained", lambda request: told)
    app = page("request", id=scene.REQUEST_ID)
    shown = [str(each.value) for each in app.main if each.type in ("markdown", "caption")]
    headings = ("What it met with; ", "What took its time", "Near it in time; ", "How it differs")
    met, took, near = (next(at for at, text in enumerate(shown) if text.startswith(each)) for each in headings[:3])
    assert shown[met + 1].startswith(":material/bolt: XID 79")
    assert shown[took + 1].startswith(":material/lightbulb: The host was late")
    assert shown[near + 1].startswith(":material/radar: Packets of others were lost")
    assert took < met < near
    assert not any(text.startswith(headings[3]) for text in shown), "nothing differs, so nothing is headed so"
