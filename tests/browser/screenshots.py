"""Pictures of every page: `python -m tests.browser.screenshots DIRECTORY [KERNELS]`.

Light and dark, 1,280 pixels and wide; without data, with one small request, and with a big one. They are made to be looked
at: what a test cannot say is whether a page is good to read. The data is simulated, and the pages say so. `incident_*` shows
the slowest request of a sample incident, which is recorded but for its GPU: the README's picture.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page

from tests import rule_table
from tests.browser.conftest import chromium, sharp, shown
from tests.browser.test_pages import PAGES
from tests.dashboards import scene
from warpline import own
from warpline.settings import Settings

INCIDENT = "thermal_throttling"
SIZES = {"1280": (1280, 1000), "wide": (1920, 1200)}
REQUEST = f"request?id={scene.REQUEST_ID}"
SETTLED = """(() => {
  const IDLE = "[data-test-script-state=notRunning]", now = performance.now();
  const charts = [...document.querySelectorAll("[data-testid=stPlotlyChart]")];
  const undrawn = charts.some((each) => !each.querySelector(".main-svg"));
  const read = document.querySelector(IDLE) && !document.querySelector("[data-testid=stSkeleton]");
  if (undrawn || !read) window.warplineSettled = now;
  window.warplineSettled ||= now;
  return now - window.warplineSettled > 1500; })()"""
OWN = """(() => {
  const t = warplineTimeline, item = t.layout.items.find((each) => each.kind === "row" && each.track.lane === "member");
  const chunk = t.shown[t.shown.length - 1], part = chunk.rows.get(item.row.id);
  for (let at = part.from; at < part.to; at++) {
    const ns = chunk.start + (chunk.x[at] + chunk.w[at] / 2) * chunk.unit;
    if (ns > t.total * 0.4) return t.show(ns, ns + 6e5);
  } })()"""
"""Shows the middle of one of the request's own steps: kernels of another's are faded."""
NEAR = """(() => {
  const t = warplineTimeline, item = t.layout.items.find((each) => each.kind === "row" && each.track.lane === "kernel");
  t.parts.scroller.scrollTop = item.y - 260;
  const chunk = t.shown[t.shown.length - 1], part = chunk.rows.get(item.row.id), middle = (t.t0 + t.t1) / 2;
  for (let at = part.from; at < part.to; at++) {
    const ns = chunk.start + (chunk.x[at] + chunk.w[at] / 2) * chunk.unit;
    if (ns > middle && chunk.count[at] === 0) return t.select({ item, ns });
  } })()"""


def main(directory: Path, kernels: int) -> None:
    """Write the pictures into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name, batches in (
            ("empty", []),
            ("small", scene.scene(4_000, 400).batches),
            ("big", scene.scene(kernels, 3_000).batches),
        ):
            with tempfile.TemporaryDirectory() as store, shown(Path(store), batches) as address:
                _all(browser, address, directory, name)
        _incident(browser, directory)


def _incident(browser: Browser, directory: Path) -> None:
    with own.opened(rule_table.SAMPLES / INCIDENT, Settings(), dashboard=True) as mine:
        mine.replay(0)
        mine.evaluate()
        asked = {"text": "*", "path": "*", "pod": "*", "outcome": "*", "least_ns": "0", "most_ns": str(1 << 62)}
        found = mine.client.view("request_search", **asked, method="POST", order="-duration_ns", limit=1)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1440, "height": 1088}, color_scheme="dark" if scheme == "dark" else "light"
            )
            page = context.new_page()
            page.set_default_timeout(120_000)
            uid = quote(found["request_uid"][0].as_py(), safe="")
            page.goto(f"http://{mine.settings.dashboard_address}/request?id={uid}&zone=UTC")
            sharp(page)
            page.locator(".st-key-causes").wait_for()
            page.wait_for_timeout(1_000)
            page.screenshot(path=directory / f"incident_request_{scheme}.png")
            context.close()


def _all(browser: Browser, address: str, directory: Path, name: str) -> None:
    for scheme in ("light", "dark"):
        for size, (width, height) in SIZES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.set_default_timeout(120_000)
            for path in PAGES:
                page.goto(f"{address}/{path}?range=24h")  # All of them take longer than some pages look back.
                page.get_by_role("heading", name=PAGES[path], exact=True).wait_for()
                page.wait_for_function(SETTLED)
                page.wait_for_timeout(2_000)  # Points and tables are drawn on canvases, which do not say when.
                page.screenshot(path=directory / f"{name}_{path or 'overview'}_{scheme}_{size}.png")
            if name == "empty":
                page.goto(f"{address}/request?id=unknown")
                page.get_by_text("No request is known by").wait_for()
                page.screenshot(path=directory / f"{name}_unknown_{scheme}_{size}.png")
            else:
                _request(page, address, directory / f"{name}_request_{scheme}_{size}.png")
            context.close()


def _request(page: Page, address: str, file: Path) -> None:
    page.goto(f"{address}/{REQUEST}")
    sharp(page)
    page.locator(".st-key-causes").wait_for()
    page.wait_for_timeout(1_000)
    page.screenshot(path=file)
    page.evaluate(OWN)
    page.wait_for_timeout(200)
    sharp(page)
    page.evaluate(NEAR)
    page.wait_for_timeout(1_500)
    page.screenshot(path=file.with_name(file.name.replace("request", "kernel")), full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
