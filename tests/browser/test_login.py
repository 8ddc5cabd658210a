"""Signing in through Streamlit's own login at a real OpenID provider (PyPI's mock of one), in a real browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import dashboard, free_port, sharp, wait_for, watch
from tests.dashboards import double, scene

pytestmark = pytest.mark.browser

USER = "ada@example.com"


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The issuer's address of an OpenID provider."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/.well-known/openid-configuration", child)
        yield f"http://localhost:{port}"
    finally:
        child.terminate()
        child.wait(10)


@pytest.fixture(scope="module")
def guarded(provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard that asks who looks."""
    directory, port = tmp_path_factory.mktemp("login"), free_port()
    secrets = directory / "secrets.toml"
    secrets.write_text(
        f'[auth]\nredirect_uri = "http://localhost:{port}/oauth2callback"\ncookie_secret = "of-this-test-alone"\n'
        f'client_id = "warpline"\nclient_secret = "any"\n'
        f'server_metadata_url = "{provider}/.well-known/openid-configuration"\n'
    )
    store = double.store(directory / "store", scene.scene(4_000, 50).batches)
    settings = {"dashboard_auth": "oidc", "dashboard_secrets_file": str(secrets)}
    with double.serving(store) as url, dashboard(url, port, **settings):
        yield f"http://localhost:{port}"
    store.close()


def signed_in(page: Page, address: str) -> None:
    # The provider's page asks for a style sheet elsewhere: nothing leaves this machine.
    page.route("**/*", lambda route: route.continue_() if "//localhost:" in route.request.url else route.abort())
    page.goto(address)
    page.get_by_role("button", name="Sign in").click()
    page.locator("input[name=sub]").fill(USER)
    page.get_by_role("button", name="Authorize").click()
    page.get_by_role("heading", name="Overview", exact=True).wait_for()


def test_one_signs_in_sees_the_data_and_signs_out(browser: Browser, guarded: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = watch(context.new_page()).page
    signed_in(page, guarded)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/wl/" in request.url else None)
    page.goto(f"{guarded}/request?id={scene.REQUEST_ID}")
    sharp(page)
    chunk = next(each for each in asked if "/wl/chunk" in each)
    assert "user=ada%40example.com" in chunk
    assert page.request.get(chunk).ok
    assert page.request.get(chunk.replace("ada%40", "eve%40")).status == 403
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/end_session*")  # The provider asks whether to end its own session too.
    page.goto(guarded)
    page.get_by_role("button", name="Sign in").wait_for()
    context.close()


def test_who_has_not_signed_in_sees_no_page_and_no_data(browser: Browser, guarded: str, root: Path) -> None:
    context = browser.new_context()
    page = watch(context.new_page()).page
    for file in sorted((root / "dashboards/screens").glob("[a-z]*.py")):
        page.goto(f"{guarded}/{'' if file.stem == 'overview' else file.stem}?id={scene.REQUEST_ID}")
        page.get_by_role("button", name="Sign in").wait_for()
        assert page.locator("[data-testid=stDataFrame], [data-testid=stMetric], .js-plotly-plot, .wl").count() == 0
    for part in ("chunk", "lines", "path", "at", "find", "profile", "trace"):
        assert page.request.get(f"{guarded}/wl/{part}?request={scene.REQUEST_ID}").status == 403
    context.close()
