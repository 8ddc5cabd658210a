"""A correlator with a simulated scene, and the dashboard's pages without a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit import config
from streamlit.testing.v1 import AppTest

import dashboards
from dashboards import read
from tests.dashboards import double, scene

# As `warpline dashboard` sets it: a text that stands alone is a comment here and no output.
config.set_option("runner.magicEnabled", False)

MAIN = str(Path(dashboards.__file__).parent / "main.py")


@pytest.fixture(scope="module")
def correlator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over a small scene."""
    store = double.store(tmp_path_factory.mktemp("scene"), scene.scene(4_000, 300).batches)
    with double.serving(store) as url:
        yield url
    store.close()


@pytest.fixture(scope="module")
def empty_correlator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The query API's address over a store that holds nothing."""
    store = double.store(tmp_path_factory.mktemp("empty"))
    with double.serving(store) as url:
        yield url
    store.close()


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the dashboard read a correlator, with settings."""

    def begin(url: str, **settings: str) -> None:
        monkeypatch.setenv("WARPLINE_QUERY_URL", url)
        for name, value in settings.items():
            monkeypatch.setenv(f"WARPLINE_{name.upper()}", value)
        read.settings.cache_clear()
        read.client.cache_clear()
        st.cache_data.clear()

    yield begin  # type: ignore[misc]
    read.settings.cache_clear()
    read.client.cache_clear()
    st.cache_data.clear()


def page(name: str = "", **query: str) -> AppTest:
    """Return a page as it is when one comes to its address; empty is the front page."""
    app = AppTest.from_file(MAIN, default_timeout=60)
    if name:
        app.switch_page(f"screens/{name}.py")
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    return app
