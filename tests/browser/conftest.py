"""The real dashboard over a simulated scene, and Debian's real Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.dashboards import double, scene
from warpline.batch import Batch

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def dashboard(url: str, port: int = 0, **settings: str) -> Iterator[str]:
    """Run `warpline dashboard` over a correlator on a free port, or the one given; yield its address."""
    port = port or free_port()
    chosen = {"query_url": url, "dashboard_address": f"127.0.0.1:{port}", **settings}
    environment = {**os.environ, **{f"WARPLINE_{name.upper()}": value for name, value in chosen.items()}}
    child = subprocess.Popen(
        [sys.executable, "-m", "warpline.cli", "dashboard"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/_stcore/health", child)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


def wait_for(url: str, child: subprocess.Popen[bytes]) -> None:
    """Wait until a process that was started answers at an address."""
    until = time.monotonic() + 40
    while time.monotonic() < until:
        if child.poll() is not None:
            raise RuntimeError(f"{child.args!r} ended with {child.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer")


@contextmanager
def shown(directory: Path, batches: list[Batch], **settings: str) -> Iterator[str]:
    """Run a correlator that holds the batches and a dashboard over it; yield the dashboard's address."""
    store = double.store(directory, batches)
    with double.serving(store) as url, dashboard(url, **settings) as address:
        yield address
    store.close()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard's address over a scene."""
    _needs_chromium()
    with shown(tmp_path_factory.mktemp("scene"), scene.scene(60_000, 600).batches) as found:
        yield found


@pytest.fixture(scope="session")
def empty_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard's address over a store that holds nothing."""
    _needs_chromium()
    with shown(tmp_path_factory.mktemp("empty"), []) as found:
        yield found


def _needs_chromium() -> None:
    if not shutil.which(CHROMIUM):
        pytest.skip(f"no {CHROMIUM}: install Debian's chromium")


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Run Chromium, each time as if for the first time."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*FLAGS, *flags])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one module: a test elsewhere may run a Playwright of its own."""
    _needs_chromium()
    with chromium() as found:
        yield found


@dataclass
class Watched:
    """A page, with what went wrong on it and whom it asked for anything."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def on_console(self, message: ConsoleMessage) -> None:
        """Keep an error, but not Streamlit's own probe for the path that it is served under, which ends in a 404."""
        probe = "/_stcore/" in (message.location or {}).get("url", "")
        if message.type == "error" and not probe:
            self.errors.append(message.text)

    def on_request(self, request: Request) -> None:
        """Keep the host that was asked."""
        if request.url.startswith(("http", "ws")):
            self.hosts.add(request.url.split("/")[2])


def watch(page: Page) -> Watched:
    """Watch a page from now on."""
    watched = Watched(page)
    page.on("console", watched.on_console)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", watched.on_request)
    page.set_default_timeout(60_000)
    return watched


@pytest.fixture(scope="module")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile for one module: what is fetched once stays, for half of a page's time goes into its scripts."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def watched(profile: BrowserContext) -> Iterator[Watched]:
    """A page, as one who was never here sees it: nothing that a test chose is kept for the next."""
    page = profile.new_page()
    yield watch(page)
    page.evaluate("localStorage.clear()")
    page.close()
    profile.clear_cookies()


def sharp(page: Page) -> None:
    """Wait until the timeline shows the level of detail that the screen can."""
    page.wait_for_function("window.warplineTimeline && warplineTimeline.stats && warplineTimeline.stats.sharp")
