"""Who may come in: bearer tokens from a file, mutual TLS, and loopback only where neither is asked for."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import ssl
from pathlib import Path

from warpline.errors import SettingsError
from warpline.settings import Settings

log = logging.getLogger(__name__)


class Tokens:
    """The bearer tokens of a file, one a line; read anew when the file changes, so that tokens can be rotated."""

    def __init__(self, path: str) -> None:
        """Read the file; an empty path asks for no token. Raises SettingsError where it holds none."""
        self._path = Path(path) if path else None
        self._stamp, self._tokens = self._read()

    @property
    def wanted(self) -> bool:
        """Whether a token is asked for at all."""
        return self._path is not None

    def admits(self, authorization: str | None) -> bool:
        """Say whether an Authorization header holds one of the tokens; every token is compared in constant time."""
        if self._path is None:
            return True
        self._refresh()
        scheme, _, given = (authorization or "").partition(" ")
        matches = [hmac.compare_digest(given.strip().encode(), each) for each in self._tokens]
        return scheme.lower() == "bearer" and any(matches)

    def _read(self) -> tuple[tuple[int, int], list[bytes]]:
        if self._path is None:
            return (0, 0), []
        try:
            state = self._path.stat()
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise SettingsError(f"token file {self._path}: {error.strerror}; give a readable file") from None
        tokens = [line.strip() for line in lines if line.strip()]
        if not tokens:
            raise SettingsError(f"token file {self._path}: holds no token; write one a line")
        return (state.st_mtime_ns, state.st_size), tokens

    def _refresh(self) -> None:
        assert self._path is not None
        try:
            state = self._path.stat()
            if (state.st_mtime_ns, state.st_size) != self._stamp:
                self._stamp, self._tokens = self._read()
        except (OSError, SettingsError) as error:  # The tokens that were good stay good until the file is whole again.
            log.warning("token file %s: %s; its last tokens stay in force", self._path, error)


class Access:
    """What the settings ask of those who come to the doors."""

    def __init__(self, settings: Settings) -> None:
        """Read tokens and certificates; raise SettingsError where a file is missing or does not fit."""
        self.tokens = Tokens(settings.correlator_token_file)
        self.certificate, self.key = settings.correlator_tls_certificate, settings.correlator_tls_key
        self.client_ca = settings.correlator_tls_client_ca
        if bool(self.certificate) != bool(self.key) or (self.client_ca and not self.certificate):
            raise SettingsError(
                "correlator_tls_*: a certificate needs its key, a client authority needs both; give them"
            )
        self.tls = self._context() if self.certificate else None

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"correlator_tls_*: {self.certificate}: {error}; give PEM files that fit") from None
        return context

    def address(self, asked: str, door: str) -> tuple[str, int]:
        """Return the host and port to bind: loopback, whatever was asked, where nobody has to prove who they are.

        Raises SettingsError where what was asked is no host:port.
        """
        host, _, port = asked.rpartition(":")
        host = host.strip("[]")
        if not port.isdigit():
            raise SettingsError(f"{door} door: address is {asked!r}; give host:port")
        if not (self.tokens.wanted or self.client_ca) and not is_loopback(host):
            log.warning(
                "%s door: bound to 127.0.0.1, not %s: correlator_token_file or correlator_tls_client_ca opens it",
                door,
                host or "every address",
            )
            host = "127.0.0.1"
        return host, int(port)


def is_loopback(host: str) -> bool:
    """Say whether every address that `host` stands for is this machine's own."""
    if not host:
        return False
    try:
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, None)}
        return all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)
    except (OSError, ValueError):
        return False
