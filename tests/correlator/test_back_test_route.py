"""A back-test by HTTP tells how far it is, and ends when nobody reads on."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from correlator.alerting import backtest
from tests import waiting
from tests.dashboards import double, scene
from warpline.client import Client
from warpline.errors import StoreError
from warpline.settings import Settings


@pytest.fixture(scope="module")
def window() -> tuple[int, int]:
    """An hour that ends with the scene."""
    end = time.time_ns()
    return end - 3_600_000_000_000, end


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, window: tuple[int, int]) -> Iterator[Client]:
    """A client of the query API over a small scene."""
    store = double.store(tmp_path_factory.mktemp("scene"), scene.scene(4_000, 50, now_ns=window[1]).batches)
    with double.serving(store) as url:
        yield Client(dataclasses.replace(Settings(), query_url=url))
    store.close()


def going() -> bool:
    return any(each.name == "back-test" for each in threading.enumerate())


def test_progress_grows_to_the_whole_and_the_firings_come_last(client: Client, window: tuple[int, int]) -> None:
    told: list[float] = []
    found = client.test_rule("rows_lost", *window, told.append)
    assert len(found["firings"]) == 2
    assert told == sorted(set(told))
    assert len(told) > 20
    assert told[-1] == 1.0
    waiting.until(lambda: not going())


def test_an_evaluation_of_all_rules_tells_its_progress_too_and_stores_what_changed(
    client: Client, window: tuple[int, int]
) -> None:
    told: list[float] = []
    since = window[1] - 60_000_000_000
    assert client.evaluate_rules(since, window[1], told.append) >= 1
    assert told == sorted(set(told))
    assert len(told) > 20
    assert told[-1] == 1.0
    assert "firing" in client.table("alert", since_ns=since)["state"].to_pylist()


def test_it_ends_in_the_correlator_when_nobody_reads_on(
    client: Client, window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    went, real = list[float](), backtest.run

    def slowly(*asked: Any, **more: Any) -> Any:
        *others, progress = asked

        def told(share: float) -> None:
            went.append(share)
            time.sleep(0.1)  # 900 evaluations then take a minute and a half.
            progress(share)

        return real(*others, told, **more)

    monkeypatch.setattr(backtest, "run", slowly)

    def enough(share: float) -> None:
        if share > 0.02:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.test_rule("rows_lost", *window, enough)
    waiting.until(lambda: not going(), 30)
    assert max(went) < 0.5


def test_a_rule_that_cannot_be_evaluated_says_why_in_the_answer(
    client: Client, window: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*asked: Any, **more: Any) -> Any:
        raise StoreError("store: the disk is gone; mount it again")

    monkeypatch.setattr(backtest, "run", broken)
    with pytest.raises(StoreError, match="the disk is gone"):
        client.test_rule("rows_lost", *window)
