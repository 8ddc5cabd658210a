"""Records of `http_exchange.bpf.c` to rows: pieces of heads are joined with their exchanges, batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.bpf import http_heads
from collectors.bpf.ends import ENDS, columns, connection_ids
from collectors.identity.batches import Cgroups, process_uids
from warpline.clock import NodeClock

BLOCK, FIRST, GAPS = 256, 96, 24
PIECE = np.dtype([("id", "<u8"), ("length", "<u4"), ("number", "<u4"), ("data", "u1", (BLOCK,))])
_ENDS = [(name, ENDS.fields[name][0]) for name in ENDS.names or ()]  # type: ignore[index]
_PENDING = np.dtype(
    [
        *((name, "<u8") for name in ("id", "start_ns", "request_end_ns", "request_offset", "request_bytes")),
        *((name, "<u4") for name in ("thread", "head_bytes", "retransmits", "flags")),
    ]
)
_RESPONSE = [
    *((name, "<u8") for name in ("head_ns", "first_ns", "last_ns", "longest_gap_ns", "response_offset")),
    ("response_bytes", "<u8"),
    ("chunks", "<u4"),
    ("first_length", "<u2"),
    ("gaps", "<u2", (GAPS,)),
    ("first", "u1", (FIRST,)),
    ("room_behind", "u1", (2,)),
]
EXCHANGE = np.dtype(
    [
        *_PENDING.descr,
        *_RESPONSE,
        *((name, "<u8") for name in ("end_ns", "cgroup", "process_start_ns", "inode")),
        *((name, "<u4") for name in ("process", "ordinal", "code")),
        *_ENDS,
        *((name, "<u2") for name in ("status", "role", "ended", "gaps_before")),
    ]
)
"""struct exchange of http_state.bpf.h."""
_DIRECTION = np.dtype(
    [
        *((name, "<u8") for name in ("remaining", "length", "stream")),
        ("head_bytes", "<u4"),
        ("status", "<u2"),
        *((name, "u1") for name in ("state", "scan", "seen", "pieces")),
        ("room", "u1", (6,)),
    ]
)
_DEPTH = 8
CONNECTION = np.dtype(
    [
        *((name, "<u8") for name in ("inode", "cgroup", "process_start_ns")),
        *((name, "<u4") for name in ("process", "role", "requests", "responses", "retransmits", "tls")),
        *_ENDS,
        ("room", "<u4"),
        ("ways", _DIRECTION, (2,)),
        ("pending", _PENDING, (_DEPTH,)),
        *_RESPONSE,
    ]
)
"""struct connection: what the kernel keeps while an exchange lasts."""
FRAMES = 8
"""State of a connection's ways where it speaks HTTP/2; what it then keeps of it lies over `pending`, its number first."""
STREAM_KEY = np.dtype([("connection", "<u8"), ("stream", "<u4"), ("unused", "<u4")])
OPEN_AT_START, TRUNCATED, FAULTED, IN_TLS, HTTP2 = 1, 2, 8, 16, 32
ENDINGS = ("unknown", "complete", "next_request", "close", "abort", "open")
ABORT, STILL_OPEN = ENDINGS.index("abort"), ENDINGS.index("open")
RESET = len(ENDINGS)
"""An abort whose code is known: RST_STREAM."""
SIDES = ("server", "client")
PARSES = ("none", "partial", "full", "head_truncated")

Records = npt.NDArray[Any]


class Assembler:
    """Turns records into columns of `http_exchange`. Pieces wait here for the end of their exchange."""

    def __init__(self, node: str, clock: NodeClock, cgroups: Cgroups, head_bytes: int) -> None:
        """Make rows of `node`; heads are read up to `head_bytes`."""
        self._node, self._clock, self._cgroups, self._head_bytes = node, clock, cgroups, head_bytes
        self._waiting = np.zeros(0, PIECE)

    def add(self, pieces: Records) -> None:
        """Take pieces of heads, in the order made."""
        if len(pieces):
            kept = np.empty(len(pieces), PIECE)
            for name in ("id", "length", "number", "data"):
                kept[name] = pieces[name]
            self._waiting = np.concatenate([self._waiting, kept])

    def waiting(self) -> int:
        """Return how many pieces wait for the end of their exchange."""
        return len(self._waiting)

    def drop_before(self, oldest: int) -> int:
        """Forget all but the newest `oldest` pieces; return how many were dropped."""
        dropped = max(len(self._waiting) - oldest, 0)
        self._waiting = self._waiting[dropped:]
        return dropped

    def rows(self, ended: Records) -> dict[str, Any]:
        """Return the columns of `http_exchange` for exchanges of HTTP/1 that ended, those that are no HTTP left out."""
        by_id = np.argsort(ended["id"], kind="stable")
        ended = ended[by_id]
        heads, got = self._heads(ended["id"])
        bare = (ended["flags"] & OPEN_AT_START) != 0
        is_http = bare | heads.known | (ended["status"] > 0)
        if not is_http.all():
            ended, got, bare = ended[is_http], got[is_http], bare[is_http]
            heads = http_heads.kept(heads, is_http)
        answered = ended["status"] > 0
        return (
            self.exchange(ended)
            | self._head_columns(ended, heads, got, bare)
            | {
                "protocol": "http/1.1",
                "status": pa.array(ended["status"].astype(np.int64), mask=~answered),
            }
        )

    def _heads(self, ids: npt.NDArray[np.uint64]) -> tuple[http_heads.Heads, npt.NDArray[np.int64]]:
        """Return the heads of the exchanges `ids` (sorted), and how many bytes of each we have; their pieces go."""
        place = np.searchsorted(ids, self._waiting["id"])
        mine = (place < len(ids)) & (ids[np.minimum(place, len(ids) - 1)] == self._waiting["id"])
        pieces, self._waiting = self._waiting[mine], self._waiting[~mine]
        order = np.argsort(pieces["id"], kind="stable")
        flat, starts = http_heads.flatten(pieces, order, ids)
        return http_heads.parse(flat, starts), np.diff(starts)

    def _head_columns(
        self, ended: Records, heads: http_heads.Heads, got: npt.NDArray[np.int64], bare: npt.NDArray[np.bool_]
    ) -> dict[str, Any]:
        whole = got == np.minimum(ended["head_bytes"], self._head_bytes)
        truncated = (ended["flags"] & TRUNCATED) != 0
        parse = np.where(whole & heads.known, np.where(truncated, 3, 2), np.where(got > 0, 1, 0))
        return {
            "method": heads.method.dictionary_encode(),
            "path": heads.path,
            "host": heads.host.dictionary_encode(),
            "request_id": heads.request_id,
            "trace_id": pa.uuid().wrap_array(heads.trace_id),
            "parent_span_id": heads.parent_span_id,
            "parse": coded(parse, PARSES),
            "open_at_start": pa.array(bare),
        }

    def exchange(self, x: Records) -> dict[str, Any]:
        """Return the columns that do not hang on what heads say."""
        tls, bare = ((x["flags"] & flag) != 0 for flag in (IN_TLS, OPEN_AT_START))
        return {
            "start_ns": self._clock.from_monotonic(x["start_ns"].astype(np.int64)),
            "end_ns": self._time(x["end_ns"]),
            "node": self._node,
            "process_uid": process_uids(self._node, x["process_start_ns"], x["process"]),
            "pid": x["process"].astype(np.int64),
            "thread_id": x["thread"].astype(np.int64),
            "side": coded(x["role"], SIDES),
            "connection_id": connection_ids(x[list(ENDS.names or ())], x["inode"]),
            "ordinal": x["ordinal"].astype(np.int64),
            # Offsets are the connection's: under TLS its bytes are others than those that were read here.
            "request_offset_bytes": pa.array(x["request_offset"].astype(np.int64), mask=bare | tls),
            "response_offset_bytes": pa.array(
                x["response_offset"].astype(np.int64), mask=(x["response_bytes"] == 0) | tls
            ),
            **columns(x),
            "tls": pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(x), np.int32), mask=~tls), ["openssl"]),
            "response_id": http_heads.response_ids(x["first"], x["first_length"].astype(np.int64)),
            "request_end_ns": self._time(x["request_end_ns"]),
            "response_start_ns": self._time(x["head_ns"]),
            "first_body_ns": self._time(x["first_ns"]),
            "last_chunk_ns": self._time(x["last_ns"]),
            "request_bytes": x["request_bytes"].astype(np.int64),
            "response_bytes": x["response_bytes"].astype(np.int64),
            "chunks": x["chunks"].astype(np.int64),
            "longest_gap_ns": x["longest_gap_ns"].astype(np.int64),
            "gap_counts": _lists(x["gaps"]),
            "retransmits": x["retransmits"].astype(np.int64),
            "ended_by": coded(np.where(x["ended"] == RESET, ABORT, x["ended"]), ENDINGS),
            "reset_code": pa.array(x["code"].astype(np.int64), mask=x["ended"] != RESET),
            **self._cgroups.columns(x["cgroup"]),
        }

    def _time(self, monotonic: Records) -> pa.Array:
        return pa.array(self._clock.from_monotonic(monotonic.astype(np.int64)), mask=monotonic == 0)


def still_open(connections: Records) -> Records:
    """Return an EXCHANGE for each connection whose oldest request has no whole response yet; it has no end."""
    waiting = connections[connections["requests"] != connections["responses"]]
    front = waiting["pending"][np.arange(len(waiting)), waiting["responses"] % _DEPTH]
    found = np.zeros(len(waiting), EXCHANGE)
    for source in (front, waiting):
        for name in set(EXCHANGE.names or ()) & set(source.dtype.names or ()):
            found[name] = source[name]
    found["retransmits"] = waiting["retransmits"] - front["retransmits"]
    found["ordinal"] = waiting["responses"]
    found["status"] = waiting["ways"]["status"][:, 1]
    found["ended"] = STILL_OPEN
    return found


def coded(codes: Records, texts: tuple[str, ...]) -> pa.DictionaryArray:
    """Return `texts[code]` for each code, dictionary-encoded."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(texts, pa.string()))


def _lists(counts: Records) -> pa.ListArray:
    rows, width = counts.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(counts.astype(np.int64).ravel()))
