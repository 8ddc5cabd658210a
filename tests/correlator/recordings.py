"""Recordings in a store of a test: read by their reader, written as an import would."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from correlator.storage.store import Store
from tests.collectors.reading import Reading, read
from warpline.settings import Settings


@contextmanager
def store_in(directory: Path) -> Iterator[Store]:
    """A store of its own, closed at the end."""
    store = Store(Settings(state_dir=str(directory / "state"), correlator_memory_limit_mb=512))
    try:
        yield store
    finally:
        store.close()


def put(store: Store, module: ModuleType, path: Path, directory: Path, whole: bool = True) -> Reading:
    """Read a recording and write its rows; not `whole` leaves out the row that completes an import."""
    found = read(module, path, directory)
    batches = found.batches if whole else found.batches[:-1]
    store.write([dataclasses.replace(each, batch_id=f"{path.name}/{n}") for n, each in enumerate(batches)])
    return found


def rows(store: Store, view: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """All rows of a view."""
    return store.view(view, parameters or {}).read_all().to_pylist()  # type: ignore[no-any-return]
