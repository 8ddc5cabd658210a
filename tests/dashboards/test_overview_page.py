"""What fired stands first, on the front page and on a request's; the front page lists the slowest at either end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboards import fired as fired_rules
from dashboards import parts, read, state
from tests.dashboards import scene
from tests.dashboards.conftest import page


def test_the_slowest_by_duration_are_so_at_either_end(
    correlator: str, reading: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(correlator)
    stored = read.frame

    def late_at_its_client(view: str, **asked: Any) -> pd.DataFrame:
        found = stored(view, **asked)
        if view == "request_search":
            longest = found["duration_ns"].max()
            found["client_duration_ns"] = [longest + 1 if uid == last else 1 for uid in found["request_uid"]]
        return found

    last = stored("request_search", **read.EVERY, order="duration_ns", limit=1)["request_uid"].iloc[0]
    monkeypatch.setattr(read, "frame", late_at_its_client)
    first = page(range="all", time="duration").dataframe[0].value.iloc[0]
    assert parts.request_link(last) == first.iloc[0]


def fired(app: AppTest) -> str:
    return next((str(each.value) for each in app.markdown if "Fired" in str(each.value)), "")


def test_the_front_page_says_first_which_rules_fired_the_most_severe_first(
    correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    lines = fired(page(range="1h")).splitlines()
    assert [line.split("[")[1].split("]")[0] for line in lines[1:]] == ["gpu xid", "queue growing", "gpu throttled"]
    assert "GPU-5e1f…0001 on gpu-node-1 reported XID 94." in lines[1]
    times = read.table("alert").set_index(["rule", "state"])["time_ns"]
    fires, began, ended = (
        state.short(int(times[each]))
        for each in (("gpu_xid", "firing"), ("queue_growing", "firing"), ("queue_growing", "resolved"))
    )
    assert f":gray[· since {fires}]" in lines[1], "It still does"
    assert f":gray[· {began} to {ended[-8:]}]" in lines[2] or f":gray[· {began} to {ended}]" in lines[2]
    own = pd.DataFrame({"rule": ["rows_lost", "queue_growing"], "severity": ["critical", "info"]})
    assert fired_rules._rank(own).tolist() == [3, 2], "What a rule says of Warpline itself comes last"
    now = int(times.max())
    assert "queue growing" not in fired(page(window=f"{now - 60 * 10**9}-{now}"))  # It was resolved before.
    assert not fired(page(window=f"{now - 3600 * 10**9}-{now - 1800 * 10**9}"))


def test_a_request_says_which_rules_fired_around_it(correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    said_of_it = fired(page("request", id=scene.REQUEST_ID))
    assert "gpu xid" in said_of_it
    assert "/alerts?window=" in said_of_it
    assert "queue growing" not in said_of_it
