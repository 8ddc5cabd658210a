"""The timeline in a real Chromium without a GPU: first picture, zoom, payload and memory, by number of kernels.

The scene is simulated and says so. `UI_KERNELS=10000000 python -m bench ui` measures that size alone.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, Response

from tests.browser.conftest import chromium, sharp, shown
from tests.dashboards import scene

SIZES = (1_000, 10_000, 100_000, 1_000_000)
COLD, WARM, ZOOMS = 3, 5, 60
LIMITS = {"ui.first_warm_ms": 1500, "ui.first_cold_ms": 3000, "ui.zoom_p95_ms": 250, "ui.payload_kb": 150}

ZOOM = """async ([from, to]) => {
  const t = warplineTimeline, began = performance.now();
  t.show(from * t.total, to * t.total);
  await new Promise((done) => {
    const look = () => (t.stats.sharp && t.stats.at > began ? done() : requestAnimationFrame(look));
    look(); });
  return performance.now() - began; }"""
HEAP = "performance.memory.usedJSHeapSize / 1048576"


def run() -> None:
    """Measure each size and print its figures."""
    asked = os.environ.get("UI_KERNELS", "")
    with chromium() as browser:
        for kernels in (int(asked),) if asked else SIZES:
            with tempfile.TemporaryDirectory() as directory:
                batches = scene.scene(kernels, 500).batches
                with shown(Path(directory), batches) as address:
                    _measure(browser, f"{address}/request?id={scene.REQUEST_ID}", kernels)


def _measure(browser: Browser, url: str, kernels: int) -> None:
    _first(browser, url)  # The server's own first answer compiles and caches; a person meets it once a restart.
    cold = [_first(browser, url) for _ in range(COLD)]
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    sent: list[Response] = []
    page.on("response", lambda answer: sent.append(answer) if "/wl/chunk" in answer.url else None)
    warm = [_open(page, url) for _ in range(WARM + 1)][1:]
    before = page.evaluate(HEAP)
    zooms = _zoom(page)
    _say("ui.first_warm_ms", float(np.median(warm)), "ms", kernels, worst=max(warm))
    _say("ui.first_cold_ms", float(np.median(cold)), "ms", kernels, worst=max(cold))
    _say("ui.zoom_p95_ms", float(np.percentile(zooms, 95)), "ms", kernels, p50=float(np.percentile(zooms, 50)))
    sizes = [int(answer.request.sizes()["responseBodySize"]) / 1000 for answer in sent]
    _say("ui.payload_kb", max(sizes), "kB", kernels, p50=float(np.median(sizes)))
    _say("ui.heap_mb", page.evaluate(HEAP), "MB", kernels, grown=page.evaluate(HEAP) - before)
    context.close()


def _first(browser: Browser, url: str) -> float:
    """Return how long a browser that was never here takes, in ms."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    took = _open(page, url)
    context.close()
    return took


def _open(page: Page, url: str) -> float:
    """Return the time from navigation to a sharp timeline, in ms."""
    page.goto(url)
    sharp(page)
    return float(page.evaluate("warplineTimeline.firstSharp"))


def _zoom(page: Page) -> list[float]:
    """Return how long each of many random windows took to be sharp, in ms, none of them seen before."""
    random = np.random.default_rng(17)
    found = []
    for _ in range(ZOOMS):
        width = 10 ** random.uniform(-3.5, 0)
        start = random.uniform(0, 1 - width)
        found.append(float(page.evaluate(ZOOM, [start, start + width])))
    return found


def _say(name: str, value: float, unit: str, kernels: int, **more: float) -> None:
    limit = f" limit={LIMITS[name]}" if name in LIMITS else ""
    keys = "".join(f" {key}={each:.1f}" for key, each in more.items())
    print(f"FIGURE {name} {value:.1f} {unit} kernels={kernels}{limit}{keys}", flush=True)
