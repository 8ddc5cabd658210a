"""The OTLP doors, gRPC and HTTP: what comes in is decoded, on disk when it is acknowledged, and counted where it is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from correlator.doors.access import Access
from correlator.doors.grpc_door import GrpcDoor
from correlator.doors.http_door import HttpDoor
from correlator.doors.intake import Accepts, Intake
from warpline.errors import SettingsError
from warpline.settings import Settings
from warpline.telemetry import Reading

log = logging.getLogger(__name__)


class Receiver:
    """Both doors on one intake."""

    def __init__(self, settings: Settings, ingest: Accepts) -> None:
        """Bind both doors; raise SettingsError where an address is taken or a file does not fit."""
        access = Access(settings)
        self.intake = Intake(settings, ingest)
        host, port = access.address(settings.correlator_http_address, "http")
        grpc_host, grpc_port = access.address(settings.correlator_grpc_address, "grpc")
        try:
            self._http = HttpDoor((host, port), access, self.intake)
        except OSError as error:
            reason = error.strerror or error
            raise SettingsError(
                f"http door: {host}:{port}: {reason}; free it, or set correlator_http_address"
            ) from None
        try:
            self._grpc = GrpcDoor((grpc_host, grpc_port), access, self.intake)
        except BaseException:
            self._http.server_close()
            raise
        self.http_address = f"{host}:{self._http.server_address[1]}"
        self.grpc_address = f"{grpc_host}:{self._grpc.port}"

    @property
    def losses(self) -> dict[str, int]:
        """What was lost at the doors so far: records by reason."""
        return dict(self.intake.losses)

    def start(self) -> None:
        """Open both doors."""
        self.intake.start()
        self._http.begin()
        self._grpc.begin()
        log.info("doors open: OTLP/HTTP at %s, OTLP/gRPC at %s", self.http_address, self.grpc_address)

    def close(self, seconds: float = 5.0) -> None:
        """Take nothing new, let what is being taken be acknowledged, write the losses, then close (SIGTERM's path)."""
        self._grpc.refuse()
        finished = self.intake.close(seconds)
        self._grpc.close(1.0)
        self._http.close()
        log.info("doors closed%s", "" if finished else f": some requests were not acknowledged within {seconds:.0f} s")

    def readings(self) -> Iterator[Reading]:
        """Yield what the doors say of themselves, for /metrics."""
        return self.intake.readings()
