"""Header blocks of HTTP/2: what is told of them, held against `hpack`'s own encoder and decoder."""

from __future__ import annotations

import numpy as np
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given
from hypothesis import strategies as st

from collectors.bpf.http2_heads import BLOCK, BLOCK_BYTES, FULL, NONE, PARTIAL, Closed, Heads
from tests.collectors.h2_peer import OK, TRAILER, asking

HEADERS, PROMISE, CONTINUATION, CLOSING = 1, 5, 9, 255
END_HEADERS = 4


class Parts:
    """Parts of blocks of one connection, as the kernel numbers them."""

    def __init__(self, connection: int = 7, joined: bool = False) -> None:
        self.connection, self.joined, self.numbers = connection, joined, [0, 0]
        self.encoders = [Encoder(), Encoder()]

    def block(self, exchange: int, way: int, block: bytes, size: int = BLOCK_BYTES) -> np.ndarray:
        """One HEADERS frame in parts of at most `size` bytes."""
        cuts = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
        made = np.zeros(len(cuts), BLOCK)
        for each, cut in zip(made, cuts, strict=True):
            each["connection"], each["id"], each["way"], each["type"] = self.connection, exchange, way, HEADERS
            each["flags"], each["joined"], each["now_ns"] = END_HEADERS, self.joined, 1000 + self.numbers[way]
            each["number"], each["length"] = self.numbers[way], len(cut)
            each["data"][: len(cut)] = np.frombuffer(cut, np.uint8)
            self.numbers[way] += 1
        made["begins"][0] = made["ends"][-1] = 1
        return made

    def request(self, number: int, size: int = BLOCK_BYTES) -> np.ndarray:
        return self.block(number, 0, self.encoders[0].encode(asking(number)), size)

    def answer(self, number: int) -> np.ndarray:
        return np.concatenate([self.block(number, 1, self.encoders[1].encode(fields)) for fields in (OK, TRAILER)])


def of(heads: Heads, *numbers: int) -> list[tuple[str | None, str | None, int | None, int | None, int]]:
    found = heads.of(np.array(numbers, np.uint64))
    return [(head.path, head.request_id, head.status, head.grpc_status, head.parse) for head in found]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(1, 200))
def test_heads_are_told_however_their_blocks_are_cut(numbers: list[int], size: int) -> None:
    heads, parts = Heads(4096), Parts()
    for place, number in enumerate(numbers):
        heads.add(np.concatenate([parts.request(number, size), parts.answer(number)]))
        (head,) = heads.of(np.array([number], np.uint64))
        assert (head.method, head.path, head.host, head.request_id) == ("POST", "/a/B", "here", f"r{number}")
        assert (head.trace_id, head.parent_span_id) == (number.to_bytes(16, "big"), number)
        assert (head.status, head.grpc_status, head.grpc, head.parse) == (200, 0, True, FULL)
        assert head.response_ns == 1000 + 2 * place


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.binary(max_size=80)), max_size=12))
def test_no_bytes_make_it_fail(blocks: list[tuple[int, bool, bytes]]) -> None:
    heads, parts = Heads(4096), Parts()
    for way, padded, block in blocks:
        made = parts.block(1, way, block)
        made["flags"] |= 40 if padded else 0
        heads.add(made)
    (head,) = heads.of(np.array([1], np.uint64))
    assert head.path is None or head.path.isprintable()


@given(st.binary(max_size=60))
def test_what_is_told_is_what_the_reference_reads(block: bytes) -> None:
    heads, parts = Heads(4096), Parts()
    heads.add(parts.block(1, 1, block))
    (head,) = heads.of(np.array([1], np.uint64))
    reference = Decoder()
    reference.max_allowed_table_size = 1 << 16
    try:
        fields = list(reference.decode(block, raw=True))
    except HPACKError:
        assert head.status is None
        return
    status = next((value for name, value in fields if name == b":status"), b"")
    known = status.isdigit() and status.isascii() and len(status) < 10 and int(status) >= 200
    assert head.status == (int(status) if known else None)


def test_a_part_that_is_missing_makes_what_follows_partial_and_never_wrong() -> None:
    heads, parts = Heads(4096), Parts()
    heads.add(parts.request(1))
    parts.request(2)  # The ring was full.
    for number in (3, 4):
        heads.add(parts.request(number))
    heads.add(parts.answer(4))
    assert of(heads, 1, 2, 3, 4) == [
        ("/a/B", "r1", None, None, FULL),
        (None, None, None, None, NONE),
        (None, None, None, None, PARTIAL),
        (None, None, 200, 0, PARTIAL),
    ]


def test_a_table_that_its_encoder_emptied_is_known_again() -> None:
    heads, parts = Heads(4096), Parts(joined=True)
    parts.encoders[0].encode(asking(1))
    heads.add(parts.request(2))
    parts.encoders[0].header_table_size = 0
    parts.encoders[0].header_table_size = 4096
    for number in (3, 4):
        heads.add(parts.request(number))
    assert of(heads, 2, 3, 4) == [
        (None, None, None, None, PARTIAL),
        ("/a/B", "r3", None, None, PARTIAL),
        ("/a/B", "r4", None, None, FULL),
    ]


def test_a_block_that_is_no_hpack_is_counted() -> None:
    heads, parts = Heads(4096), Parts()
    heads.add(parts.block(1, 0, b"\xff\xff\xff\xff\xff\xff"))
    heads.add(parts.request(2))
    assert heads.not_understood == 1
    assert of(heads, 1, 2) == [(None, None, None, None, PARTIAL), ("/a/B", "r2", None, None, PARTIAL)]


def test_a_promised_stream_says_nothing_of_the_one_that_it_came_on() -> None:
    heads, parts = Heads(4096), Parts()
    heads.add(parts.request(1))
    made = parts.block(1, 1, b"\0\0\0\2" + parts.encoders[1].encode([(":method", "GET"), (":status", "500")]))
    made["type"] = PROMISE
    heads.add(made)
    heads.add(parts.answer(1))
    assert of(heads, 1) == [("/a/B", "r1", 200, 0, FULL)]


def test_connections_have_tables_of_their_own_which_go_with_them() -> None:
    heads, one, other = Heads(4096), Parts(7), Parts(8)
    heads.add(np.concatenate([one.request(1), other.request(2), one.request(3), other.request(4)]))
    assert [each[:2] for each in of(heads, 1, 2, 3, 4)] == [("/a/B", f"r{number}") for number in (1, 2, 3, 4)]
    closing = one.block(0, 0, b"")
    closing["type"], closing["number"], closing["now_ns"] = CLOSING, 3, 99
    assert heads.add(closing) == [Closed(7, 99, 3)]
    heads.add(one.request(5))
    assert of(heads, 5) == [(None, None, None, None, PARTIAL)]
    heads.keep({8})
    heads.add(np.concatenate([one.request(6), other.request(7)]))
    assert [each[-1] for each in of(heads, 6, 7)] == [PARTIAL, FULL]


def test_heads_of_exchanges_without_an_end_are_dropped_oldest_first() -> None:
    heads, parts = Heads(4096), Parts()
    for number in range(1, 6):
        heads.add(parts.request(number))
    assert heads.drop_before(2) == 3
    assert [each[1] for each in of(heads, 3, 4, 5)] == [None, "r4", "r5"]
