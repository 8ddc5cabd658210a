"""One OTLP/HTTP endpoint, and what its answers mean (OTLP 1.5, "Failures").

200 is taken, in part where `partial_success` says so; 429, 502, 503, 504 and no answer at all mean "send again later", after
what Retry-After says; every other status is final: what was sent is lost, and must not be sent again.
"""

from __future__ import annotations

import email.utils
import gzip
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from warpline.errors import SettingsError
from warpline.settings import Settings

PROTOBUF = "application/x-protobuf"
RETRYABLE = (429, 502, 503, 504)
_LONGEST_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request: `taken`, or to be sent again when `retry` (after `wait_s`), else lost for `reason`."""

    taken: bool
    retry: bool = False
    wait_s: float = 0.0
    reason: str = ""
    too_large: bool = False
    rejected: int = 0


class Sender:
    """Posts log requests to `<collector_endpoint>/v1/logs`, keeping its connection."""

    def __init__(self, settings: Settings) -> None:
        """Read token and certificates; raise SettingsError where a file cannot be read."""
        self.url = f"{settings.collector_endpoint.rstrip('/')}/v1/logs"
        self._token_file, self._compress = settings.collector_token_file, settings.collector_gzip
        bearer(self._token_file)
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=30), retries=False, **tls(settings))

    def send(self, body: bytes) -> Answer:
        """Send one request and say what became of it; never raises for what the network does."""
        headers = {"content-type": PROTOBUF, **bearer(self._token_file)}
        if self._compress:
            headers["content-encoding"], body = "gzip", gzip.compress(body, 1)
        try:
            answer = self._pool.request("POST", self.url, body=body, headers=headers)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return Answer(False, retry=True, reason=f"no answer: {type(error).__name__}")
        if answer.status == 200:
            return _accepted(answer.data)
        if answer.status in RETRYABLE:
            wait = _retry_after(answer.headers.get("retry-after"))
            return Answer(False, retry=True, wait_s=wait, reason=f"status {answer.status}")
        return Answer(False, reason=f"refused with status {answer.status}", too_large=answer.status == 413)


def bearer(token_file: str) -> dict[str, str]:
    """Return the header with the token of a file, read anew each time so that it can be rotated; none without a file.

    Raises SettingsError where it cannot be read.
    """
    if not token_file:
        return {}
    try:
        return {"authorization": f"Bearer {Path(token_file).read_text(encoding='ascii').split()[0]}"}
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise SettingsError(f"collector_token_file {token_file}: {error}; give a file with a token") from None


def _accepted(body: bytes) -> Answer:
    response = ExportLogsServiceResponse()
    try:
        response.ParseFromString(body)
    except DecodeError:
        return Answer(True)
    partial = response.partial_success
    return Answer(True, rejected=partial.rejected_log_records, reason=partial.error_message)


def _retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for: a number or a date (RFC 9110, 10.2.3); 0 without one."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def tls(settings: Settings) -> dict[str, Any]:
    """Return urllib3's words for the collector's TLS settings; raise SettingsError where a file is not there."""
    given = {
        "ca_certs": settings.collector_tls_ca,
        "cert_file": settings.collector_tls_certificate,
        "key_file": settings.collector_tls_key,
    }
    for name, path in given.items():
        if path and not Path(path).is_file():
            raise SettingsError(f"collector_tls: {name} {path}: no such file; give a PEM file")
    return {name: path for name, path in given.items() if path}
