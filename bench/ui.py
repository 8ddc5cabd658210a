"""The timeline in a real Chromium without a GPU: first picture, zoom, payload and memory, by number of kernels.

The request is simulated and says so: 8 GPUs × 2 CUDA streams, each kernel with its launch, host ranges nested four deep.
`UI_KERNELS=10000000 python -m bench ui` measures that size alone. Other work on the machine moves wall clock figures;
`cpu_ms`, of the dashboard and the correlator for one chunk, it does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, Response

from bench import _ui_users as ui_users
from tests.browser.conftest import chromium, sharp, shown
from tests.dashboards import scene

SIZES = (1_000, 100_000, 1_000_000)
COLD, WARM, ZOOMS = 3, 5, 60
LIMITS = {
    "ui.first_warm_ms": 1500,
    "ui.first_cold_ms": 3000,
    "ui.zoom_p95_ms": 250,
    "ui.payload_kb": 150,
    "ui.heap_mb": 60,
    "ui.users10_p95_ms": 500,
}

ZOOM = """async ([from, to]) => {
  const t = warplineTimeline, began = performance.now();
  t.show(from * t.total, to * t.total);
  await new Promise((done) => {
    const look = () => (t.stats.sharp && t.stats.at > began ? done() : requestAnimationFrame(look));
    look(); });
  return performance.now() - began; }"""
SIGNED = """(() => { const { data, total, width } = warplineTimeline;
  return JSON.stringify({ query: data.query, total, width }); })()"""


def run() -> None:
    """Measure each size and print its figures."""
    asked = os.environ.get("UI_KERNELS", "")
    with chromium() as browser:
        for kernels in (int(asked),) if asked else SIZES:
            with tempfile.TemporaryDirectory() as directory:
                batches = scene.scene(kernels, 500).batches
                with shown(Path(directory), batches) as address:
                    _measure(browser, address, kernels)


def _measure(browser: Browser, address: str, kernels: int) -> None:
    url = f"{address}/request?id={scene.REQUEST_ID}"
    # The first to look, once a restart and once a request: what takes long to read is seen as it comes.
    ever, seen = _first(browser, url)
    _say("ui.first_ever_ms", ever, "ms", kernels, seen=seen)
    cold = [_first(browser, url)[0] for _ in range(COLD)]
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    sent: list[Response] = []
    page.on("response", lambda answer: sent.append(answer) if "/wl/chunk" in answer.url else None)
    warm = [_open(page, url) for _ in range(WARM + 1)][1:]
    before = _heap(page)
    zooms = _zoom(page)
    _say("ui.first_warm_ms", float(np.median(warm)), "ms", kernels, worst=max(warm))
    _say("ui.first_cold_ms", float(np.median(cold)), "ms", kernels, worst=max(cold))
    _say("ui.zoom_p95_ms", float(np.percentile(zooms, 95)), "ms", kernels, p50=float(np.percentile(zooms, 50)))
    sizes = [int(answer.request.sizes()["responseBodySize"]) / 1000 for answer in sent]
    _say("ui.payload_kb", max(sizes), "kB", kernels, p50=float(np.median(sizes)))
    heap = _heap(page)
    _say("ui.heap_mb", heap, "MB", kernels, grown=heap - before)
    signed = page.evaluate(SIGNED)
    context.close()
    _users(address, signed, kernels)


def _users(address: str, signed: str, kernels: int) -> None:
    """Ten people zoom at once, from a process of their own."""
    began = ui_users.server_seconds()
    asked = json.dumps({"address": address, **json.loads(signed)})
    done = subprocess.run([sys.executable, "-m", "bench._ui_users", asked], check=True, capture_output=True, text=True)
    took = np.array(json.loads(done.stdout))
    cpu = (ui_users.server_seconds() - began) * 1000 / len(took)
    p50, p95 = np.percentile(took, (50, 95)).tolist()
    _say("ui.users10_p95_ms", p95, "ms", kernels, p50=p50, cpu_ms=cpu, chunks=len(took))


def _first(browser: Browser, url: str) -> tuple[float, float]:
    """Return how long a browser that was never here takes until its timeline is sharp, and until it has any, in ms."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    took, seen = _open(page, url), float(page.evaluate("warplineTimeline.firstSeen"))
    context.close()
    return took, seen


def _open(page: Page, url: str) -> float:
    """Return the time from navigation to a sharp timeline, in ms."""
    page.goto(url)
    sharp(page)
    return float(page.evaluate("warplineTimeline.firstSharp"))


def _heap(page: Page) -> float:
    """Return the size of the page's live JavaScript objects, in MB."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6
    session.detach()
    return used


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
