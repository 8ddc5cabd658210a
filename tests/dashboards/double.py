"""The real store and query API, filled by the test: what the dashboard reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from correlator.serve import QueryServer
from correlator.storage.store import Store
from correlator.timeline import chunks, perfetto
from correlator.wanted import Wanted
from warpline.batch import Batch
from warpline.settings import Settings


def store(directory: Path, batches: Iterable[Batch] = ()) -> Store:
    """Return a store in `directory` that holds the batches."""
    made = Store(Settings(state_dir=str(directory), correlator_disk_reserve_mb=1))
    made.write([dataclasses.replace(batch, batch_id=f"scene/{at}") for at, batch in enumerate(batches)])
    return made


@contextmanager
def serving(of: Store) -> Iterator[str]:
    """Serve a store on a free loopback port; yield its address."""
    routes = [*chunks.routes(of), *perfetto.routes(of)]
    server = QueryServer(Settings(correlator_query_address="127.0.0.1:0"), of, list, Wanted(), routes)
    server.start()
    try:
        yield f"http://{server.address}"
    finally:
        server.close()
