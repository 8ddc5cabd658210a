"""The two ends of a connection as BPF programs record them (struct ends of socket.bpf.h), as columns."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ENDS = np.dtype(
    [
        ("local", "V16"),
        ("remote", "V16"),
        ("network", "<u4"),
        ("sequence_sent", "<u4"),
        ("sequence_received", "<u4"),
        ("family", "<u2"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("opener", "<u2"),
    ]
)
UNIX, INET, INET6 = 1, 2, 10
_MAPPED = b"\0" * 10 + b"\xff\xff"

Records = npt.NDArray[Any]


def connection_ids(ends: Records, inodes: Records) -> npt.NDArray[np.int64]:
    """Return each connection's number: the same from every source and at every time, since it is a hash of what identifies
    the connection: addresses, ports, network namespace and both initial sequence numbers; for AF_UNIX the socket's inode.
    """
    tcp = ends["family"] != UNIX
    words = np.zeros(len(ends), np.uint64)
    for name in ("local", "remote"):
        halves = np.ascontiguousarray(ends[name]).view("<u8").reshape(len(ends), 2)
        words = _mix(_mix(words ^ halves[:, 0]) ^ halves[:, 1])
    ports = ends["local_port"].astype(np.uint64) << np.uint64(16) | ends["remote_port"].astype(np.uint64)
    sequences = ends["sequence_sent"].astype(np.uint64) << np.uint64(32) | ends["sequence_received"].astype(np.uint64)
    words = _mix(_mix(words ^ (ports << np.uint64(32) | ends["network"].astype(np.uint64))) ^ sequences)
    words = np.where(tcp, words, _mix(inodes.astype(np.uint64) ^ _mix(ends["network"].astype(np.uint64))))
    return (words >> np.uint64(1)).astype(np.int64)


def columns(ends: Records) -> dict[str, Any]:
    """Return the columns local_address, local_port, peer_address and peer_port; NULL for AF_UNIX."""
    unix = ends["family"] == UNIX
    return {
        "local_address": _addresses(ends["local"], ends["family"]),
        "local_port": pa.array(ends["local_port"].astype(np.int64), mask=unix),
        "peer_address": _addresses(ends["remote"], ends["family"]),
        "peer_port": pa.array(ends["remote_port"].astype(np.int64), mask=unix),
    }


def _mix(words: Records) -> Records:
    """One round of splitmix64: every bit of the result depends on every bit of the word."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Records = words ^ (words >> np.uint64(31))
    return mixed


def _addresses(raw: Records, family: Records) -> pa.DictionaryArray:
    halves = np.ascontiguousarray(raw).view("<u8").reshape(len(raw), 2)
    hashes = _mix(_mix(_mix(family.astype(np.uint64)) ^ halves[:, 0]) ^ halves[:, 1])
    _, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
    texts = [_address(int(family[each]), raw[each].tobytes()) for each in first.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(texts, pa.string()))


def _address(family: int, address: bytes) -> str | None:
    if family == INET:
        return str(ipaddress.IPv4Address(address[:4]))
    if family == INET6:
        mapped = address[:12] == _MAPPED
        return str(ipaddress.IPv4Address(address[12:]) if mapped else ipaddress.IPv6Address(address))
    return None
