"""Every page in a real browser: no error on the console, no other host, light and dark, with data and without."""

from __future__ import annotations

import csv
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser

from correlator.alerting import backtest
from tests import waiting
from tests.browser.conftest import Watched, dashboard, sharp, watch
from tests.dashboards import scene

pytestmark = pytest.mark.browser

PAGES = {
    "": "Overview",
    "requests": "Requests",
    "request": "Request",
    "compare": "Compare",
    "gpus": "GPUs",
    "alerts": "Alerts",
    "recordings": "Recordings",
    "incidents": "Incidents",
    "cold_starts": "Cold starts",
    "health": "Pipeline health",
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_errors_and_asks_no_other_host(page: str, watched: Watched, address: str) -> None:
    watched.page.goto(f"{address}/{page}")
    watched.page.get_by_role("heading", name=PAGES[page], exact=True).wait_for()
    watched.page.wait_for_timeout(400)
    assert watched.page.locator("[data-testid=stException]").count() == 0
    assert watched.errors == []
    assert watched.hosts == {address.removeprefix("http://")}


def test_an_empty_store_is_explained_on_the_front_page(watched: Watched, empty_address: str) -> None:
    watched.page.goto(empty_address)
    watched.page.get_by_text("Nothing has arrived yet").wait_for()
    watched.page.get_by_text("make demo").first.wait_for()
    assert watched.errors == []


def test_a_row_of_the_table_opens_its_timeline(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/requests?q={scene.RESPONSE_ID}")
    page.get_by_text(", all of them").wait_for()
    box = page.locator("[data-testid=stDataFrame]").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 18, box["y"] + 55)
    page.get_by_role("link", name="Open its timeline").click()
    sharp(page)
    assert "/request?id=" in page.url
    assert watched.errors == []


def test_a_window_is_kept_on_the_way_to_another_page_until_it_is_dismissed(watched: Watched, address: str) -> None:
    page, window = watched.page, f"{10**18}-{2 * 10**18}"
    page.goto(f"{address}/?window={window}")
    page.get_by_role("button", name=" to ").wait_for()
    page.get_by_role("link", name="Requests", exact=True).first.click()
    page.get_by_role("heading", name="Requests", exact=True).wait_for()
    page.get_by_role("button", name=" to ").wait_for()
    assert parse_qs(urlsplit(page.url).query)["window"] == [window]
    page.get_by_role("button", name=" to ").click()
    page.get_by_role("radio", name="6h").wait_for()
    page.get_by_role("link", name="GPUs", exact=True).first.click()
    page.get_by_role("heading", name="GPUs", exact=True).wait_for()
    page.get_by_role("radio", name="6h").wait_for()
    assert "window" not in page.url
    assert watched.errors == []


def test_two_rows_of_the_table_are_compared_down_to_kernels(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/requests?q=chatcmpl")
    page.get_by_text("requests, all of them").wait_for()
    box = page.locator("[data-testid=stDataFrame]").bounding_box()
    assert box is not None
    for row in (1, 2):
        page.mouse.click(box["x"] + 18, box["y"] + 20 + 35 * row)
    page.get_by_role("link", name="Compare the two").click()
    page.get_by_role("heading", name="Compare", exact=True).wait_for()
    page.get_by_role("heading", name="Each one's share of kernels").wait_for()
    sides = parse_qs(urlsplit(page.url).query)
    assert sides["a"] != sides["b"]
    assert page.get_by_label("Request A").input_value() == sides["a"][0]
    page.locator(".js-plotly-plot").first.wait_for()
    assert watched.errors == []


def test_what_the_table_shows_is_downloaded_as_csv(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(f"{address}/requests?outcome=failed")
    page.get_by_text("requests, all of them").wait_for()
    with page.expect_download() as download:
        page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    assert download.value.suggested_filename == "warpline-requests.csv"
    rows = list(csv.DictReader(download.value.path().read_text("utf-8").splitlines()))
    assert f"{len(rows)} requests, all of them" in page.inner_text("body")
    assert {row["status"] for row in rows} == {"503"}
    assert {"request_uid", "duration_ns", "ttft_ns"} <= set(rows[0])
    assert watched.errors == []


def test_long_work_tells_how_far_it_is_and_ends_where_it_goes_on_when_cancelled(
    watched: Watched, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    went, real = list[float](), backtest.run

    def slowly(*asked: Any, **more: Any) -> Any:
        rules, store, window, thresholds, progress = asked

        def told(share: float) -> None:
            went.append(share)
            time.sleep(0.1)  # 900 evaluations then take a minute and a half.
            progress(share)

        return real(rules, store, window, thresholds, told, **more)

    monkeypatch.setattr(backtest, "run", slowly)
    page = watched.page
    page.goto(f"{address}/alerts?range=24h&rule=rows_lost")
    page.get_by_text("Going through the recorded time").wait_for()
    waiting.until(lambda: len(went) > 20)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled: nothing goes on in the correlator").wait_for()
    waiting.until(lambda: not any(each.name == "back-test" for each in threading.enumerate()))
    assert max(went) < 1
    assert "rule=" not in page.url or "rule=none" in page.url
    assert page.get_by_text("would have fired").count() == 0
    assert watched.errors == []


def test_a_box_over_slow_requests_lists_them_and_says_what_differs(watched: Watched, address: str) -> None:
    page = watched.page
    page.goto(address)
    drag = page.locator(".js-plotly-plot .nsewdrag").first
    drag.wait_for()
    page.wait_for_timeout(600)
    box = drag.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] * 0.55, steps=6)
    page.mouse.up()
    page.get_by_text("picked requests").wait_for()
    page.get_by_role("heading", name="What differs").wait_for()
    assert watched.errors == []


def test_dark_is_dark_on_page_and_canvas(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    watched = watch(context.new_page())
    watched.page.goto(f"{address}/request?id={scene.REQUEST_ID}")
    sharp(watched.page)
    assert watched.page.evaluate("warplineTimeline.theme.dark") is True
    pixel = "Array.from(warplineTimeline.parts.body.getContext('2d').getImageData(2, 2, 1, 1).data).slice(0, 3)"
    assert max(watched.page.evaluate(pixel)) < 80
    assert watched.errors == []
    context.close()


def test_a_trace_can_be_downloaded(watched: Watched, address: str, tmp_path: Path) -> None:
    page = watched.page
    page.goto(f"{address}/request?id={scene.REQUEST_ID}")
    link = page.get_by_role("link", name="Chrome / Perfetto trace")
    link.wait_for()
    answer = page.request.get(f"{address}{link.get_attribute('href')}")
    assert answer.ok
    assert answer.body()[:2] == b"\x1f\x8b"


def test_nobody_reads_anything_when_a_proxy_must_name_the_user_and_does_not(browser: Browser, address: str) -> None:
    with dashboard("http://127.0.0.1:1", dashboard_auth="header") as guarded:
        context = browser.new_context()
        watched = watch(context.new_page())
        for path in PAGES:
            watched.page.goto(f"{guarded}/{path}")
            watched.page.get_by_text("No user came with this page").wait_for()
        for part in ("chunk", "tracks", "at", "lines", "find", "profile", "trace"):
            assert watched.page.request.get(f"{guarded}/wl/{part}?request=x").status in (403, 404)
        context.close()
