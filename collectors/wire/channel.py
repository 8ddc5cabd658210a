"""gRPC channels to the agents of a node, over their sockets or TCP, with or without TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from warpline.errors import SourceError

_MESSAGE_BYTES = 64 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    # An agent that dies without a word is found within half a minute, and no more often than agents allow by default.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Proxies of the environment are for the outside; an agent stands on this node or in this cluster.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(address: str, ca: str = "", certificate: str = "", key: str = "", server_name: str = "") -> Any:
    """Return a channel to `address` (`unix:///path`, a bare path, or host:port); connects when first used.

    `ca` names a PEM file and switches TLS on; `certificate` and `key` are for mutual TLS; `server_name` is the name to
    expect in the peer's certificate where it is not the address. Raises SourceError for a file that cannot be read.
    """
    target = f"unix://{address}" if address.startswith("/") else address
    options = _OPTIONS + ((("grpc.ssl_target_name_override", server_name),) if server_name else ())
    if not ca:
        return grpc.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(_pem(ca), _pem(key), _pem(certificate))
    return grpc.secure_channel(target, credentials, options=options)


def _pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; give a readable PEM file") from None


def answers(address: str, ca: str = "", certificate: str = "", key: str = "", server_name: str = "") -> bool:
    """Say whether a connection to `address` can be made within two seconds."""
    path = address.removeprefix("unix://")
    if path.startswith("/") and not Path(path).is_socket():
        return False
    with open_channel(address, ca, certificate, key, server_name) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=2.0)
        except grpc.FutureTimeoutError:
            return False
    return True
