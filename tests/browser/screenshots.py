"""Pictures of every page: `python -m tests.browser.screenshots DIRECTORY [PART…]`.

Light and dark, 1,280 pixels and wide; `empty`: without data, `small`: with one small request, `big`: with a big one. They
are made to be looked at: what a test cannot say is whether a page is good to read. The data is simulated, and the pages say
so. `unread`: a recording of a real GPU without its readings, and an imported profile. `incident`: the slowest request of a
sample incident, which is recorded but for its GPU, the README's picture. Without a PART, all of it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Page

from collectors import kineto
from tests import rule_table
from tests.browser.conftest import chromium, sharp, shown
from tests.browser.test_pages import PAGES
from tests.collectors import reading
from tests.dashboards import scene
from warpline import own, sample
from warpline.batch import Batch
from warpline.settings import Settings

INCIDENT = "thermal_throttling"
PROFILE = rule_table.SAMPLES.parent / "tests/collectors/data/kineto_small.json"
STORES: dict[str, Callable[[], list[Batch]]] = {
    "empty": list,
    "small": lambda: scene.scene(4_000, 400).batches,
    "big": lambda: scene.scene(1_000_000, 3_000).batches,
    "unread": lambda: _unread(),
}
TALL = 1900
"""Height of a picture of a state: what it adds is often below what an ordinary screen shows."""
PANEL = 1400
"""Height at which what is known of a bar is seen under the timeline."""
LONG = 1320
"""Height at which a request's timeline is seen down to its launches."""
SIZES = {"1280": (1280, 1000), "wide": (1920, 1200)}
REQUEST = f"request?id={scene.REQUEST_ID}"
EVER = f"1-{2**62}"
STATES = {
    "compare_two": f"compare?a={scene.REQUEST_ID}&b=chatcmpl-00000001-0000-4000-8000-{2654435761:012x}",
    "compare_like": f"compare?a={scene.REQUEST_ID}",
    "share": f"{REQUEST}&tab=GPU+share+and+energy",
    "kernels": f"{REQUEST}&tab=Kernels",
    "delays": f"{REQUEST}&tab=Who+delayed+whom",
    "way": f"{REQUEST}&tab=Its+way",
    "facts": f"{REQUEST}&tab=All+facts",
    "backtest": "alerts?range=1h&rule=rows_lost",
    "gpus_seen": "gpus?range=1h&metric=Busy+time+of+seen+kernels",
    "gpus_memory": "gpus?range=1h&metric=Memory+used",
}
"""Picture → address of a page in a state that it does not open in."""
UNREAD = {
    "gpus": f"gpus?window={EVER}",
    "gpus_real": f"gpus?window=1790000000000000000-{2**62}",
    "gpus_profile": "gpus?window=1-1790000000000000000",
    "gpus_none": "gpus?range=15m",
    "requests": f"requests?window={EVER}",
    "requests_none": "requests?window=1767189312000000000-1767189912000000000&zone=UTC",
    "recordings": "recordings",
    "recordings_gpus": "recordings?tab=GPUs",
    "overview": f"?window={EVER}",
}
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
    const start = chunk.start + chunk.x[at] * chunk.unit, end = start + chunk.w[at] * chunk.unit;
    const ns = (Math.max(start, t.t0) + Math.min(end, t.t1)) / 2;
    if (end > middle && chunk.count[at] === 0) return t.select({ item, ns });
  } })()"""


def main(directory: Path, wanted: Sequence[str]) -> None:
    """Write the pictures of the parts wanted into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name in wanted:
            if name == "incident":
                _incident(browser, directory)
                continue
            batches = STORES[name]()
            with tempfile.TemporaryDirectory() as store, shown(Path(store), batches) as address:
                _all(browser, address, directory, name)


def _incident(browser: Browser, directory: Path) -> None:
    with own.opened(rule_table.SAMPLES / INCIDENT, Settings(), dashboard=True) as mine:
        mine.replay(0)
        mine.evaluate()
        asked = {"text": "*", "path": "*", "pod": "*", "outcome": "*", "least_ns": "0", "most_ns": str(1 << 62)}
        found = mine.client.view("request_search", **asked, method="POST", order="-duration_ns", limit=1)
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": 1440, "height": 1190}, color_scheme="dark" if scheme == "dark" else "light"
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


def _unread() -> list[Batch]:
    real = rule_table.SAMPLES / "real_gpu"
    kept = [each for each in sample.batches(real, sample.load(real)) if each.table.name != "gpu_sample"]
    with tempfile.TemporaryDirectory() as directory:
        profile = reading.read(kineto, PROFILE, Path(directory))
    return [*kept, *profile.batches]


def _all(browser: Browser, address: str, directory: Path, name: str) -> None:
    for scheme in ("light", "dark"):
        for size, (width, height) in SIZES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.set_default_timeout(120_000)
            paths = {path or "overview": f"{path}?range=24h" for path in PAGES}  # It takes longer than some look back.
            states = {"empty": {}, "unread": UNREAD}.get(name, STATES)
            for state, path in {**({} if name == "unread" else paths), **states}.items():
                page.set_viewport_size({"width": width, "height": TALL if state in states else height})
                page.goto(f"{address}/{path}")
                page.get_by_role("heading").first.wait_for()
                page.wait_for_function(SETTLED)
                page.wait_for_timeout(2_000)  # Points and tables are drawn on canvases, which do not say when.
                page.screenshot(path=directory / f"{name}_{state}_{scheme}_{size}.png")
            page.set_viewport_size({"width": width, "height": height})
            if name == "unread":
                context.close()
                continue
            if name == "empty":
                page.goto(f"{address}/request?id=unknown")
                page.get_by_text("No request is known by").wait_for()
                page.wait_for_function(SETTLED)
                page.screenshot(path=directory / f"{name}_unknown_{scheme}_{size}.png")
            else:
                page.set_viewport_size({"width": width, "height": LONG})
                _request(page, address, directory / f"{name}_request_{scheme}_{size}.png")
            context.close()


def _request(page: Page, address: str, file: Path) -> None:
    _opened(page, address)
    page.screenshot(path=file)
    assert page.viewport_size is not None
    page.set_viewport_size({"width": page.viewport_size["width"], "height": PANEL})
    _opened(page, address)
    page.evaluate(OWN)
    page.wait_for_timeout(200)
    sharp(page)
    page.evaluate(NEAR)
    page.wait_for_timeout(1_500)
    page.screenshot(path=file.with_name(file.name.replace("request", "kernel")))


def _opened(page: Page, address: str) -> None:
    page.goto(f"{address}/{REQUEST}")
    sharp(page)
    page.locator(".st-key-causes").wait_for()
    page.wait_for_timeout(1_000)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or [*STORES, "incident"])
