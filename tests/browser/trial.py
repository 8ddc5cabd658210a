"""A blind trial: `python -m tests.browser.trial DIRECTORY [SEED]` opens each sample incident, shuffled and
under a number.

In each, it does what one who was told only "find the slowest request" can do from the address that `warpline replay` prints,
with mouse and screen alone, and keeps a picture of every step. Why the request was slow is for a reader of the pictures to
say, who looks into `key.json` only afterwards: it has each number's incident, the clicks, the seconds from the first address
to the answer on the screen, and whether the request that was opened is the slowest inference request that the store holds.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Page, ViewportSize

from tests import rule_table
from tests.browser.conftest import chromium, sharp
from warpline import own, sample
from warpline.own import Own
from warpline.settings import Settings

SIZE: ViewportSize = {"width": 1280, "height": 1000}
CLICKS = 2
"""Durations in place of first bytes, and the first row's link."""
_INFERENCE = {
    "method": "POST",
    "text": "*",
    "path": "*",
    "pod": "*",
    "outcome": "*",
    "least_ns": "0",
    "most_ns": str(1 << 62),
}


def main(directory: Path, seed: int) -> None:
    """Try all incidents; pictures and the key go into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    cases = [case for case in rule_table.incidents() if case.name != "healthy"]
    random.Random(seed).shuffle(cases)
    key: dict[str, dict[str, Any]] = {}
    with chromium() as browser, tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(cases, 1):
            neutral = _renamed(case, Path(place) / f"case_{number}")
            with own.opened(neutral, Settings(), dashboard=True) as mine:
                mine.replay(0)
                mine.evaluate()  # As `warpline replay` does: what fired is on the screen.
                key[neutral.name] = {"incident": case.name, **_tried(browser, mine, directory / neutral.name)}
            (directory / "key.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")


def _renamed(case: Path, to: Path) -> Path:
    """Copy an incident without all that says what it is about."""
    shutil.copytree(case, to, ignore=shutil.ignore_patterns("README.md", "incident.json", "expected"))
    told = dataclasses.replace(sample.load(case), name=to.name, about="", expected={})
    (to / "manifest.json").write_text(told.as_json(), encoding="utf-8")
    return to


def _tried(browser: Browser, mine: Own, pictures: Path) -> dict[str, Any]:
    found = mine.report.manifest
    context = browser.new_context(viewport=SIZE)
    page = context.new_page()
    page.set_default_timeout(60_000)
    began = time.monotonic()
    page.goto(f"http://{mine.settings.dashboard_address}/?window={found.start_ns}-{found.end_ns}")
    opened = _slowest(page, pictures)
    seconds = time.monotonic() - began
    sharp(opened)
    opened.screenshot(path=pictures.with_suffix(".request.png"))
    chosen = parse_qs(urlsplit(opened.url).query)["id"][0]
    context.close()
    longest = mine.client.view("request_search", **_INFERENCE, order="-duration_ns", limit=1)["request_uid"][0].as_py()
    return {"clicks": CLICKS, "seconds": round(seconds, 1), "slowest_found": chosen == longest}


def _slowest(page: Page, pictures: Path) -> Page:
    """Have durations shown, and open the first of the slowest; return its tab once the answer stands there."""
    page.get_by_role("heading", name="Slowest requests by first byte").wait_for()
    page.get_by_role("radio", name="duration").click()
    page.get_by_role("heading", name="Slowest requests by duration").wait_for()
    page.locator("[data-test-script-state=notRunning]").wait_for()
    page.wait_for_timeout(500)  # The table draws its rows on a canvas, and does not say when.
    page.screenshot(path=pictures.with_suffix(".overview.png"))
    table = page.locator("[data-testid=stDataFrame]").first
    table.scroll_into_view_if_needed()  # The wheel of a mouse: on a low screen the list lies below its edge.
    box = table.bounding_box()
    assert box is not None
    with page.context.expect_page() as waiting:
        page.mouse.move(box["x"] + 30, box["y"] + 50)
        page.wait_for_timeout(200)
        page.mouse.click(box["x"] + 30, box["y"] + 52)
    waiting.value.locator(".wl-strip").wait_for()
    waiting.value.locator("canvas.wl-body").wait_for()
    waiting.value.locator(".st-key-causes").wait_for()
    return waiting.value


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()))
