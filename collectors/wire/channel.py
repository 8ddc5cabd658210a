"""gRPC channels to the agents of a node, over their sockets or TCP, with or without TLS."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from warpline.errors import SourceError
from warpline.settings import Settings

_MESSAGE_BYTES = 64 << 20
_READY_S = 5.0
_HANGS_UP = "hangs up after TLS's handshake: it may want a client's certificate of another authority"
_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    # An agent that dies without a word is found within half a minute, and no more often than agents allow by default.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Proxies of the environment are for the outside; an agent stands on this node or in this cluster.
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """What a peer is spoken to with: PEM files of its authority (empty: plain text) and, for mutual TLS, of a certificate
    and its key; the name to expect in the peer's certificate where it is not the address."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    name: str = ""


def tls(settings: Settings, peer: str) -> Tls:
    """Return what the settings `<peer>_tls_ca`, `_certificate`, `_key` and `_name` say."""
    return Tls(*(getattr(settings, f"{peer}_tls_{each}") for each in Tls.__slots__))


PLAIN = Tls()


def open_channel(address: str, secured: Tls = PLAIN) -> Any:
    """Return a channel to `address` (`unix:///path`, a bare path, or host:port); connects when first used.

    Raises SourceError for a PEM file that cannot be read, and for a certificate or name that no authority stands beside.
    """
    target = f"unix://{address}" if address.startswith("/") else address
    if not secured.ca:
        if secured != PLAIN:
            raise SourceError(f"{address}: a certificate, key or name without an authority; set its tls_ca too")
        return grpc.insecure_channel(target, options=_OPTIONS)
    options = _OPTIONS + ((("grpc.ssl_target_name_override", secured.name),) if secured.name else ())
    credentials = grpc.ssl_channel_credentials(_pem(secured.ca), _pem(secured.key), _pem(secured.certificate))
    return grpc.secure_channel(target, credentials, options=options)


def _pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; give a readable PEM file") from None


def silent(address: str, secured: Tls, who: str, remedy: str) -> str | None:
    """Return why no connection to `who` at `address` can be made within five seconds, and `remedy`; None where one can."""
    path = address.removeprefix("unix://")
    if path.startswith("/") and not Path(path).is_socket():
        return f"{address}: {who} does not answer; {remedy}"
    try:
        if _connects(address, secured):
            return None
    except SourceError as error:
        return str(error)
    reason = "does not answer" if path.startswith("/") else _refusal(address, secured)
    return f"{address}: {who} {reason}; {remedy}"


def _connects(address: str, secured: Tls) -> bool:
    states: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
    ends = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)
    with open_channel(address, secured) as channel, contextlib.suppress(queue.Empty):
        channel.subscribe(lambda state: states.put(state) if state in ends else None, try_to_connect=True)
        return states.get(timeout=_READY_S) is grpc.ChannelConnectivity.READY
    return False


def _refusal(address: str, secured: Tls) -> str:
    """Return why a TCP peer cannot be spoken to, asked of it once more without gRPC, which does not tell."""
    host, _, port = address.rpartition(":")
    host = host.rpartition("/")[2].strip("[]")
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host, int(port)), _READY_S) as plain:
        return _tls_refusal(plain, secured, secured.name or host) if secured.ca else "does not speak plain gRPC"
    return "does not answer"


def _tls_refusal(plain: socket.socket, secured: Tls, name: str) -> str:
    try:
        wanted = ssl.create_default_context(cafile=secured.ca)
        wanted.set_alpn_protocols(["h2"])
        if secured.certificate:
            wanted.load_cert_chain(secured.certificate, secured.key or None)
        with wanted.wrap_socket(plain, server_hostname=name) as spoken:
            if not spoken.recv(1):  # With TLS 1.3 the peer tells only now what it thinks of our certificate, if at all.
                return _HANGS_UP
    except ssl.SSLCertVerificationError as error:
        return f"has a certificate that is not accepted ({error.verify_message})"
    except ssl.SSLError as error:
        return f"cannot be spoken to by TLS ({(error.reason or 'no reason').replace('_', ' ').lower()})"
    except ConnectionError:
        return _HANGS_UP
    return "does not speak gRPC"
