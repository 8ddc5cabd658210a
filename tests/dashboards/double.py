"""The real store and query API, filled by the test: what the dashboard reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from correlator.alerting import alert_routes
from correlator.alerting.keep import Keeper
from correlator.serve import QueryServer
from correlator.storage import disk
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
    settings, wanted = dataclasses.replace(of.settings, correlator_query_address="127.0.0.1:0"), Wanted()
    keeper = Keeper(settings, of.query, wanted)
    of_alerts = [*alert_routes.routes(of, of.write), *alert_routes.keep_routes(keeper)]
    server = QueryServer(
        settings,
        of,
        list,
        wanted,
        [*chunks.routes(of), *perfetto.routes(of), *of_alerts, *disk.routes(of, settings, int)],
    )
    server.start()
    try:
        yield f"http://{server.address}"
    finally:
        server.close()
