"""HTTP/2 records of `http_exchange.bpf.c` to rows, one a stream: what the kernel counted, and what its header blocks say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from collectors.bpf import http2_heads
from collectors.bpf.http2_heads import Closed, Heads
from collectors.bpf.http_rows import (
    ABORT,
    CONNECTION,
    EXCHANGE,
    FAULTED,
    FRAMES,
    OPEN_AT_START,
    PARSES,
    STILL_OPEN,
    STREAM_KEY,
    Assembler,
    Records,
    coded,
)
from collectors.bpf.loader import Loaded


class Streams:
    """The streams that are under way, their heads, and the connections that carry them."""

    def __init__(self, loaded: Loaded, assembler: Assembler, path_bytes: int) -> None:
        """Read the maps and the ring of `loaded`; rows are made as `assembler` makes those of HTTP/1."""
        self.heads = Heads(path_bytes)
        self._assembler = assembler
        self.blocks = loaded.ring("blocks", http2_heads.BLOCK)
        self._under_way = loaded.map("streams", STREAM_KEY, EXCHANGE)
        self._connections = loaded.map("connections", "<u8", CONNECTION)

    def take(self) -> Records:
        """Read the header blocks that came; return EXCHANGEs of the streams whose connection ended before they did."""
        closed: list[Closed] = []
        while len(parts := self.blocks.take()):
            closed += self.heads.add(parts)
        if not closed:
            return np.zeros(0, EXCHANGE)
        keys, streams = self._under_way.items()
        order = np.argsort([each.connection for each in closed])
        numbers = np.array([each.connection for each in closed], np.uint64)[order]
        place = np.minimum(np.searchsorted(numbers, keys["connection"]), len(numbers) - 1)
        cut_off = numbers[place] == keys["connection"]
        ended: Records = streams[cut_off]
        which = order[place[cut_off]]
        ended["end_ns"] = np.array([each.end_ns for each in closed], np.uint64)[which]
        ended["retransmits"] = np.array([each.retransmits for each in closed], np.uint32)[which] - ended["retransmits"]
        ended["ended"] = ABORT
        self._delete(keys[cut_off])
        return ended

    def orphans(self, now_ns: int) -> Records:
        """Return EXCHANGEs of the streams whose connection is gone without a word, because the ring was full."""
        keys, streams = self._under_way.items()
        connections = self._connections.items()[1]
        alive = connections["pending"]["id"][:, 0][connections["ways"]["state"][:, 0] == FRAMES]
        self.heads.keep(set(alive.tolist()))
        lone = ~np.isin(keys["connection"], alive)
        ended: Records = streams[lone]
        ended["end_ns"], ended["ended"], ended["retransmits"] = now_ns, ABORT, 0
        ended["flags"] |= FAULTED
        self._delete(keys[lone])
        return ended

    def still_open(self) -> Records:
        """Return EXCHANGEs of the streams that have not ended; they have no end."""
        found = self._under_way.items()[1]
        found["ended"], found["retransmits"] = STILL_OPEN, 0
        return found

    def rows(self, ended: Records) -> dict[str, Any]:
        """Return the columns of `http_exchange` for streams that ended."""
        heads = self.heads.of(ended["id"])
        told_ns = np.array([head.response_ns for head in heads], np.uint64)
        ended["head_ns"] = np.where(told_ns > 0, told_ns, ended["head_ns"])
        faulted = (ended["flags"] & FAULTED) != 0
        parse = np.array([head.parse for head in heads], np.int64)
        return self._assembler.exchange(ended) | {
            "protocol": pa.array(["grpc" if head.grpc else "http/2" for head in heads]).dictionary_encode(),
            "method": pa.array([head.method for head in heads], pa.string()).dictionary_encode(),
            "path": pa.array([head.path for head in heads], pa.string()),
            "status": pa.array([head.status for head in heads], pa.int64()),
            "grpc_status": pa.array([head.grpc_status for head in heads], pa.int64()),
            "host": pa.array([head.host for head in heads], pa.string()).dictionary_encode(),
            "trace_id": pa.uuid().wrap_array(pa.array([head.trace_id for head in heads], pa.binary(16))),
            "parent_span_id": pa.array([head.parent_span_id for head in heads], pa.uint64()),
            "request_id": pa.array([head.request_id for head in heads], pa.string()),
            "parse": coded(np.where(faulted, np.minimum(parse, http2_heads.PARTIAL), parse), PARSES),
            "open_at_start": pa.array((ended["flags"] & OPEN_AT_START) != 0),
        }

    def _delete(self, keys: Records) -> None:
        for key in keys:
            self._under_way.delete(key)
