"""An export opens in speedscope, the trace viewer from npm, in a real Chromium."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from collectors import kineto
from correlator.timeline import perfetto, timeline_scope
from tests.correlator.recordings import put, store_in

SPEEDSCOPE = "speedscope@1.25.0"


@pytest.fixture(scope="session")
def speedscope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The viewer's own files; the test skips, with npm's words, where they cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    where = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--no-save", "--ignore-scripts", "--silent", "--prefix", str(where), SPEEDSCOPE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot fetch {SPEEDSCOPE}: {done.stderr.strip()[-200:]}")
    return where / "node_modules/speedscope/dist/release"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(speedscope: Path, tmp_path: Path, root: Path) -> Iterator[str]:
    """Address of the viewer, with an export of the small recording beside it."""
    folder = tmp_path / "site"
    shutil.copytree(speedscope, folder)
    with store_in(tmp_path) as store:
        uid = put(store, kineto, root / "tests/collectors/data/kineto_small.json", tmp_path).recording["recording_uid"]
        scope = timeline_scope.find(store, {"recording": uid})
        packed = b"".join(perfetto.compressed(perfetto.trace(store, scope)))
        (folder / "export.json.gz").write_bytes(packed)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.browser
def test_speedscope_opens_an_export_and_finds_its_threads_and_streams(site: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.goto(f"{site}/#profileURL={site}/export.json.gz")
        title = page.get_by_text("GPU 0", exact=False).or_(page.get_by_text("900", exact=False)).first
        title.wait_for(timeout=30_000)
        title.click()  # The title opens the list of all profiles in the file: one for each thread and stream.
        page.get_by_text("stream 7", exact=False).first.wait_for(timeout=10_000)
        text = page.inner_text("body")
        browser.close()
    assert not said
    for each in ("stream 7", "stream 20", "thread 901", "step"):
        assert each in text
