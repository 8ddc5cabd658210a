"""What every test may use."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from collectors.bpf import loader

# Streamlit warns at import that its caches live in memory while no server runs, as they should in a test.
_CACHES = logging.getLogger("streamlit.runtime.caching.cache_data_api")
_CACHES.addFilter(lambda record: "No runtime found" not in record.getMessage())

# How long an example takes says how busy the machine is, and nothing about what is tested.
settings.register_profile("warpline", deadline=None)
settings.load_profile("warpline")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def bpf() -> None:
    """Skip, with the reason, where a trial load of a BPF program fails."""
    reason = loader.why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def promtool() -> str:
    """Prometheus' own tool for rules."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool here: Debian's package prometheus has it")
    return found


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def shared_data() -> Path:
    """Real recordings that nobody here wrote; a test that needs them skips where they are absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real recordings at {SHARED_DATA}")
    return SHARED_DATA
