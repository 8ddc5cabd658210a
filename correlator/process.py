"""The correlator process: doors, spool, store, query API, and what works on what is stored."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from correlator.alerting.alert_routes import keep_routes
from correlator.alerting.alert_routes import routes as alert_routes
from correlator.alerting.alert_watch import AlertWatch
from correlator.alerting.autoscale import routes as autoscale_routes
from correlator.alerting.keep import Keeper
from correlator.doors.receive import Receiver
from correlator.joins.stages import Joins
from correlator.remembered import Remembered
from correlator.serve import QueryServer
from correlator.storage.disk import routes as disk_routes
from correlator.storage.ingest import Ingest
from correlator.storage.salvage import heal
from correlator.storage.store import Store
from correlator.storage.upkeep import Upkeep
from correlator.timeline.chunks import routes as timeline_routes
from correlator.timeline.perfetto import routes as perfetto_routes
from correlator.wanted import Wanted
from warpline import telemetry
from warpline.errors import StoreError
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)


class Correlator:
    """All parts of one correlator. `start` opens it to the world, `stop` drains it."""

    def __init__(self, settings: Settings) -> None:
        """Open store and spool, and bind every address; raise SettingsError or StoreError with what to do."""
        self.settings = settings
        with ExitStack() as opened:  # Where a later part cannot be opened, the earlier ones are closed.
            self.store = Store(settings)
            opened.callback(self.store.close)
            self.ingest = Ingest(settings, self.store)
            opened.callback(self.ingest.close)
            state = Path(settings.state_dir)
            wanted = Wanted(Remembered(state / "wanted.json"))
            keeper = Keeper(settings, self.store.query, wanted, Remembered(state / "kept.json"))
            routes = [
                *timeline_routes(self.store),
                *perfetto_routes(self.store),
                *alert_routes(self.store, self.ingest.accept),
                *keep_routes(keeper),
                Route("/api/progress", self._progress),
                Route("/api/join", self._join_now, methods=["POST"]),
                *autoscale_routes(self.store),
                *disk_routes(self.store, settings, lambda: self.ingest.spool.bytes),
            ]
            self.query = QueryServer(settings, self.store, self.readings, wanted, routes)
            opened.callback(self.query.close)
            self.receiver = Receiver(settings, self.ingest)
            opened.pop_all()
        self.upkeep = Upkeep(settings, self.store)
        self.joins = Joins(settings, self.store)
        self.alerts = AlertWatch(settings, self.store, self.ingest.accept, keeper, Remembered(state / "owed.json"))
        self._stops: list[telemetry.Stop] = []

    def start(self) -> None:
        """Start every part, the doors last."""
        self.ingest.start()
        self.upkeep.start()
        try:
            self.joins.start()
        except StoreError as error:  # They look at what is stored: a file was damaged while nobody ran.
            log.warning("%s", error)
            heal(self.store)
            self.joins.start()
        self.alerts.start()
        self.query.start()
        self.receiver.start()
        if self.settings.correlator_own_metrics and not self.settings.correlator_tls_certificate:
            # Doors that speak TLS have others to watch them, by /metrics: this process holds no certificate of a client's.
            node = self.settings.node or socket.gethostname()
            endpoint = f"http://{self.receiver.http_address}"
            shown = telemetry.Credentials(self.settings.correlator_token_file)
            self._stops.append(telemetry.send_metrics(endpoint, "warpline-correlator", node, self.readings, shown))

    def stop(self, seconds: float = 10.0) -> bool:
        """Close the doors, store what they acknowledged, stop; return whether all of it was stored.

        What was not is in the spool, and is stored at the next start.
        """
        for stop in self._stops:
            stop()
        self.alerts.stop()
        self.receiver.close(seconds)
        drained = self.ingest.close(seconds)
        self.joins.stop()
        self.upkeep.stop()
        self.query.close()
        if drained:
            self.store.close()
        return drained

    def _progress(self, request: Request) -> Response:
        """Say whether all that was acknowledged is stored, and whether all that is stored is joined."""
        stored = self.ingest.is_done()
        return JSONResponse({"stored": stored, "joined": stored and self.joins.is_done()})

    def _join_now(self, request: Request) -> Response:
        """Have the joins begin at once."""
        self.joins.hurry()
        return JSONResponse({}, 202)

    def readings(self) -> Iterator[Reading]:
        """Yield what the correlator says of itself."""
        yield from self.receiver.readings()
        yield from self.ingest.readings()
        yield from self.upkeep.readings()
        yield from self.joins.readings()
        yield from self.alerts.readings()
