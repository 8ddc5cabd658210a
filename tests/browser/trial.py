"""A blind trial: `python -m tests.browser.trial DIRECTORY [SEED] [--by-hand PORT]` opens each sample incident, shuffled
and under a number.

By hand, one who has the browser alone finds the slowest request and says why it was slow. Chromium listens on PORT for
Chrome's DevTools protocol, so that the hand may be a person's, who opens `chrome://inspect`, or a program's. The address of
the request's page and the reason are asked for on the terminal.

Else, it does what one who was told only "find the slowest request" can do from the address that `warpline replay` prints,
with mouse and screen alone, and keeps a picture of every step. Why the request was slow is for a reader of the pictures to
say.

`key.json` is looked at only afterwards: it has each number's incident, the clicks, the seconds from the first address to the
answer on the screen (by hand: to the reason that was given), and whether the request that was opened is the slowest
inference request that the store holds, at its server or at its client.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
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
_COUNT_CLICKS = (
    "addEventListener('pointerdown', () => localStorage.clicks = 1 + Number(localStorage.clicks || 0), true)"
)
"""Tabs of one address share the count."""
_INFERENCE = {
    "method": "POST",
    "text": "*",
    "path": "*",
    "pod": "*",
    "outcome": "*",
    "least_ns": "0",
    "most_ns": str(1 << 62),
}


def main(directory: Path, seed: int, port: int | None) -> None:
    """Try all incidents; pictures and the key go into a directory. With a port, the browser is another's to use."""
    directory.mkdir(parents=True, exist_ok=True)
    cases = [case for case in rule_table.incidents() if case.name != "healthy"]
    random.Random(seed).shuffle(cases)
    key: dict[str, dict[str, Any]] = {}
    flags = [] if port is None else [f"--remote-debugging-port={port}"]
    with chromium(*flags) as browser, tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(cases, 1):
            neutral = _renamed(case, Path(place) / f"case_{number}")
            with own.opened(neutral, Settings(), dashboard=True) as mine:
                mine.replay(0)
                mine.evaluate()  # As `warpline replay` does: what fired is on the screen.
                key[neutral.name] = {
                    "incident": case.name,
                    **(_tried(browser, mine, directory / neutral.name) if port is None else _by_hand(browser, mine)),
                }
            (directory / "key.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")


def _renamed(case: Path, to: Path) -> Path:
    """Copy an incident without all that says what it is about."""
    shutil.copytree(case, to, ignore=shutil.ignore_patterns("README.md", "incident.json", "expected"))
    told = dataclasses.replace(sample.load(case), name=to.name, about="", expected={})
    (to / "manifest.json").write_text(told.as_json(), encoding="utf-8")
    return to


def _address(mine: Own) -> str:
    found = mine.report.manifest
    return f"http://{mine.settings.dashboard_address}/?window={found.start_ns}-{found.end_ns}"


def _is_slowest(mine: Own, address: str) -> bool:
    most: dict[int, str] = {}
    for end in ("duration_ns", "client_duration_ns"):
        found = mine.client.view("request_search", **_INFERENCE, order=f"-{end}", limit=1).to_pylist()[0]
        most[found[end] or 0] = found["request_uid"]
    return parse_qs(urlsplit(address).query).get("id") == [most[max(most)]]


def _by_hand(browser: Browser, mine: Own) -> dict[str, Any]:
    context = browser.new_context(viewport=SIZE)
    context.add_init_script(_COUNT_CLICKS)
    page = context.new_page()
    began = time.monotonic()
    page.goto(_address(mine))
    print(f"{mine.directory.name} is open at {_address(mine)}", flush=True)
    address = input("Address of the page of its slowest request: ")
    why = input("Why was it slow: ")
    seconds = time.monotonic() - began
    clicks = int(page.evaluate("localStorage.clicks || 0"))
    context.close()
    return {"clicks": clicks, "seconds": round(seconds, 1), "slowest_found": _is_slowest(mine, address), "why": why}


def _tried(browser: Browser, mine: Own, pictures: Path) -> dict[str, Any]:
    context = browser.new_context(viewport=SIZE)
    page = context.new_page()
    page.set_default_timeout(60_000)
    began = time.monotonic()
    page.goto(_address(mine))
    opened = _slowest(page, pictures)
    seconds = time.monotonic() - began
    sharp(opened)
    opened.screenshot(path=pictures.with_suffix(".request.png"))
    address = opened.url
    context.close()
    return {"clicks": CLICKS, "seconds": round(seconds, 1), "slowest_found": _is_slowest(mine, address)}


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
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("seed", type=int, nargs="?", default=int(time.time()))
    arguments.add_argument("--by-hand", type=int, metavar="PORT")
    given = arguments.parse_args()
    main(given.directory, given.seed, given.by_hand)
