"""HTTP/2 as the Linux kernel sees it, its bytes laid into system calls by hand: each stream is a row, or a counted loss."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hpack import Encoder

from collectors.http_exchange import Probe
from tests.collectors.conftest import Caught
from tests.collectors.h2_peer import OK, PREFACE, SETTINGS, TRAILER, Peer, asking, between, data, go_away, reset
from tests.collectors.puppet import Puppet
from warpline import otlp
from warpline.batch import Batch

pytestmark = pytest.mark.needs_bpf
Row = dict[str, Any]


class Watch:
    """A probe, the connection that it sees, and both ends' frames."""

    def __init__(self, probe: Probe, puppet: Puppet) -> None:
        self.probe, self.puppet = probe, puppet
        self.client, self.server = Peer(), Peer()

    def answers(self, stream: int, chunks: int = 1) -> bytes:
        """A whole answer of so many DATA frames."""
        parts = [self.server.head(stream, OK), *(data(stream, b"x" * 20) for _ in range(chunks))]
        return b"".join([*parts, self.server.head(stream, TRAILER, "END_STREAM")])

    def rows(self, count: int) -> list[Row]:
        """Poll until there are `count` rows; whatever the puppet did is seen before it answers, so none comes later."""
        found: list[Row] = []
        deadline = time.monotonic() + 10
        while True:
            found += self.probe.poll().rows.to_pylist()
            if len(found) >= count or time.monotonic() > deadline:
                return sorted(found, key=lambda row: row["ordinal"])
            time.sleep(0.02)


@pytest.fixture(scope="module")
def probe(bpf: None, caught: Caught) -> Iterator[Probe]:
    found = Probe(caught.context)
    yield found
    found.close()


@pytest.fixture
def watch(probe: Probe) -> Iterator[Watch]:
    """A connection that is watched from its start."""
    with Puppet() as puppet:
        probe.targets.watch(puppet.process.pid)
        puppet.connect()
        probe.poll()
        yield Watch(probe, puppet)


def named(rows: list[Row]) -> list[int]:
    assert all(row["trace_id"] for row in rows), rows
    return [int(row["trace_id"]) for row in rows]


@pytest.mark.parametrize("size", [1, 3, 7, 0])
def test_frames_may_be_cut_at_every_byte(watch: Watch, size: int) -> None:
    asked = [PREFACE]
    for number in (1, 2, 3):
        stream = 2 * number - 1
        asked += [
            watch.client.head(stream, asking(number), parts=number),
            data(stream, b"prompt", "END_STREAM"),
            between(),
        ]
    watch.puppet.takes(b"".join(asked), size or 1 << 20)
    watch.puppet.writes(SETTINGS + between() + b"".join(watch.answers(stream, 2) for stream in (1, 3, 5)), size)
    rows = watch.rows(3)
    assert named(rows) == [1, 2, 3]
    assert [row["ordinal"] for row in rows] == [1, 3, 5]
    told = ("side", "protocol", "method", "path", "host", "status", "grpc_status", "ended_by", "parse", "chunks")
    assert {tuple(row[name] for name in told) for row in rows} == {
        ("server", "grpc", "POST", "/a/B", "here", 200, 0, "complete", "full", 2)
    }
    assert [row["request_id"] for row in rows] == ["r1", "r2", "r3"]
    offsets = [len(PREFACE), *(len(b"".join(asked[: 1 + 3 * number])) for number in (1, 2))]
    assert [row["request_offset_bytes"] for row in rows] == offsets
    assert [row["request_bytes"] for row in rows] == [len(asked[n]) + len(asked[n + 1]) for n in (1, 4, 7)]
    for row in rows:
        assert row["start_ns"] <= row["request_end_ns"] <= row["response_start_ns"] <= row["first_body_ns"]
        assert row["first_body_ns"] <= row["last_chunk_ns"] <= row["end_ns"]
        assert sum(row["gap_counts"]) == 1


def test_31_streams_share_a_connection(watch: Watch) -> None:
    streams = range(1, 63, 2)
    watch.puppet.takes(PREFACE + b"".join(watch.client.head(each, asking(each), "END_STREAM") for each in streams))
    watch.puppet.writes(b"".join(watch.server.head(each, OK) for each in reversed(streams)))
    for _ in range(13):
        watch.puppet.writes(b"".join(data(each, b"token") for each in streams))
    watch.puppet.writes(b"".join(watch.server.head(each, TRAILER, "END_STREAM") for each in reversed(streams)))
    rows = watch.rows(31)
    assert named(rows) == list(streams)
    assert {(row["chunks"], sum(row["gap_counts"]), row["status"], row["ended_by"]) for row in rows} == {
        (13, 12, 200, "complete")
    }
    assert all(row["response_bytes"] > 13 * len(data(1, b"token")) for row in rows)


def test_padding_and_priority_are_no_part_of_what_is_told(watch: Watch) -> None:
    head = watch.client.head(1, asking(1, "/p"), "END_STREAM", "PRIORITY", parts=3, padding=200)
    watch.puppet.takes(PREFACE + head + watch.client.head(3, asking(2, "/p"), "END_STREAM", padding=1))
    watch.puppet.writes_vector(watch.server.head(1, OK, padding=9), data(1, b"", "END_STREAM"))
    watch.puppet.writes_vector(watch.server.head(3, OK), b"", data(3, b"token", "END_STREAM", padding=255))
    rows = watch.rows(2)
    assert [(row["path"], row["parse"], row["status"], row["chunks"]) for row in rows] == [
        ("/p", "full", 200, 0),
        ("/p", "full", 200, 1),
    ]
    assert named(rows) == [1, 2]


def test_a_head_of_many_kilobytes_is_read_whole(watch: Watch) -> None:
    more = {f"x_{number}": secrets.token_hex(400) for number in range(20)}
    watch.puppet.takes(PREFACE + watch.client.head(1, asking(1, **more), "END_STREAM", parts=5))
    watch.puppet.takes(watch.client.head(3, asking(2), "END_STREAM"), 1000)
    watch.puppet.writes(watch.answers(1) + watch.answers(3))
    rows = watch.rows(2)
    assert named(rows) == [1, 2]
    assert {row["parse"] for row in rows} == {"full"}
    assert rows[0]["request_bytes"] > 8000


def test_a_query_is_left_out_and_an_interim_answer_is_no_answer(watch: Watch) -> None:
    watch.puppet.takes(PREFACE + watch.client.head(1, asking(1, "/a?key=secret"), "END_STREAM"))
    watch.puppet.writes(watch.server.head(1, [(":status", "103"), ("link", "</x>")]))
    time.sleep(0.002)
    watch.puppet.writes(watch.server.head(1, [(":status", "404")], "END_STREAM"))
    (row,) = watch.rows(1)
    assert (row["path"], row["status"], row["first_body_ns"], row["chunks"]) == ("/a", 404, None, 0)
    assert row["response_start_ns"] - row["start_ns"] > 2_000_000


@pytest.mark.parametrize("by_client", [True, False])
def test_a_reset_ends_its_stream_alone_and_has_its_code(watch: Watch, by_client: bool) -> None:
    watch.puppet.takes(PREFACE + b"".join(watch.client.head(each, asking(each)) for each in (1, 3)))
    watch.puppet.writes(watch.server.head(1, OK) + data(1, b"token"))
    ending = reset(1, 8) if by_client else reset(1, 2)
    watch.puppet.takes(ending, 10) if by_client else watch.puppet.writes(ending, 10)
    watch.puppet.writes(data(1, b"too late") + watch.answers(3))
    rows = watch.rows(2)
    assert [(row["ended_by"], row["reset_code"], row["status"]) for row in rows] == [
        ("abort", 8 if by_client else 2, 200),
        ("complete", None, 200),
    ]
    assert [row["chunks"] for row in rows] == [1, 1]


def test_streams_end_with_their_connection(watch: Watch) -> None:
    watch.puppet.takes(PREFACE + b"".join(watch.client.head(each, asking(each)) for each in (1, 3, 5)))
    watch.puppet.writes(watch.answers(3) + watch.server.head(1, OK) + go_away(3))
    assert [row["ordinal"] for row in watch.rows(1)] == [3]
    open_rows = watch.probe.still_open().rows.to_pylist()
    assert sorted((row["ordinal"], row["ended_by"], row["end_ns"]) for row in open_rows) == [
        (1, "open", None),
        (5, "open", None),
    ]


def test_a_killed_server_leaves_aborted_rows(watch: Watch) -> None:
    watch.puppet.takes(PREFACE + b"".join(watch.client.head(each, asking(each)) for each in (1, 3, 5)))
    watch.puppet.writes(watch.server.head(3, OK) + data(3, b"token"))
    watch.puppet.process.kill()
    rows = watch.rows(3)
    assert [(row["ordinal"], row["status"], row["chunks"]) for row in rows] == [(1, None, 0), (3, 200, 1), (5, None, 0)]
    assert {row["ended_by"] for row in rows} == {"abort"}
    assert named(rows) == [1, 3, 5]
    assert all(row["end_ns"] > row["start_ns"] for row in rows)


def test_a_connection_joined_in_the_middle_is_partial_and_nothing_of_it_is_guessed(probe: Probe) -> None:
    with Puppet() as puppet:
        watch = Watch(probe, puppet)
        puppet.connect()
        probe.poll()
        puppet.takes(PREFACE + watch.client.head(1, asking(1)) + watch.client.head(3, asking(3), "END_STREAM"))
        puppet.writes(SETTINGS + watch.answers(1) + watch.server.head(3, OK) + data(3, b"token"))
        probe.targets.watch(puppet.process.pid)
        puppet.takes(watch.client.head(5, asking(5), "END_STREAM"))
        puppet.writes(data(3, b"token") + watch.server.head(3, TRAILER, "END_STREAM") + watch.answers(5))
        # Its path and id come as literals that no table keeps: these can be told.
        told = Encoder().encode([(":method", "GET"), (":status", "204")])
        literal = b"\x04\x04/lit" + b"\x10\x0cx-request-id\x02id"
        watch.client.encoder.encode = lambda fields: told[:1] + literal  # type: ignore[method-assign]
        puppet.takes(watch.client.head(7, [], "END_STREAM"))
        puppet.writes(watch.answers(7))
        # An encoder that empties its table is known from there on.
        watch.client, emptied = Peer(), Encoder()
        emptied.header_table_size = 0
        emptied.header_table_size = 4096
        watch.client.encoder = emptied
        for stream in (9, 11):
            puppet.takes(watch.client.head(stream, asking(stream), "END_STREAM"))
            puppet.writes(watch.answers(stream))
        rows = watch.rows(5)
    assert [row["ordinal"] for row in rows] == [3, 5, 7, 9, 11]
    assert [row["open_at_start"] for row in rows] == [True, False, False, False, False]
    assert [(row["parse"], row["method"], row["path"], row["request_id"]) for row in rows] == [
        ("none", None, None, None),
        ("partial", "POST", None, None),
        ("partial", "GET", "/lit", "id"),
        ("partial", "POST", "/a/B", "r9"),
        ("full", "POST", "/a/B", "r11"),
    ]
    assert [row["status"] for row in rows] == [None, 200, 200, 200, 200]
    assert [row["chunks"] for row in rows] == [1, 1, 1, 1, 1]
    assert {row["ended_by"] for row in rows} == {"complete"}
    assert {row["side"] for row in rows} == {"server"}


def test_what_one_system_call_holds_too_much_of_is_counted_and_the_next_call_is_followed(
    watch: Watch, caught: Caught
) -> None:
    watch.puppet.takes(PREFACE + watch.client.head(1, asking(1), "END_STREAM"))
    watch.puppet.writes(watch.server.head(1, OK) + data(1, b"x") * 1009)
    watch.puppet.writes(b"not the first byte of a frame")
    watch.puppet.writes(watch.server.head(1, TRAILER, "END_STREAM"))
    watch.puppet.takes(watch.client.head(3, asking(3), "END_STREAM"))
    watch.puppet.writes(watch.answers(3))
    rows = watch.rows(2)
    assert caught.losses()["too many messages in one system call"] == 1
    assert [(row["ordinal"], row["ended_by"], row["parse"]) for row in rows] == [
        (1, "complete", "partial"),
        (3, "complete", "full"),
    ]
    assert 0 < rows[0]["chunks"] < 1009
    assert named(rows) == [1, 3]


def test_pushed_streams_are_counted_and_their_heads_do_not_mislead(watch: Watch, caught: Caught) -> None:
    watch.puppet.takes(PREFACE + watch.client.head(1, asking(1), "END_STREAM"))
    watch.puppet.writes(watch.server.head(1, OK) + watch.server.promise(1, 2, [(":method", "GET"), ("x-pushed", "1")]))
    watch.puppet.writes(watch.server.head(2, [(":status", "500"), ("x-two", "2")]) + data(2, b"pushed", "END_STREAM"))
    watch.puppet.writes(data(1, b"token") + watch.server.head(1, TRAILER, "END_STREAM"))
    (row,) = watch.rows(1)
    assert (row["status"], row["grpc_status"], row["method"], row["chunks"]) == (200, 0, "POST", 1)
    assert caught.losses()["http/2 pushed streams are not followed"] == 1


def test_no_content_leaves_the_collector_from_http2(watch: Watch, caught: Caught) -> None:
    mark = secrets.token_hex(8)
    secret = {"authorization": f"Bearer {mark}", "cookie": mark, "x_prompt": mark, "grpc_message": mark}
    heads = watch.client.head(1, asking(1, f"/a?q={mark}", **secret)) + watch.client.head(
        1, [("x-t", mark)], "END_STREAM"
    )
    watch.puppet.takes(PREFACE + heads + watch.client.head(3, asking(3), parts=2))
    watch.puppet.takes(data(3, mark.encode() * 99, padding=3) + data(3, mark.encode(), "END_STREAM"))
    watch.puppet.writes(watch.server.head(1, [*OK, ("x-answer", mark)]) + data(1, mark.encode() * 20))
    watch.puppet.writes(watch.server.head(1, [("grpc-status", "3"), ("grpc-message", mark)], "END_STREAM"))
    watch.puppet.writes(watch.answers(3))
    deadline = time.monotonic() + 10
    batches = []
    while sum(batch.rows.num_rows for batch in batches) < 2 and time.monotonic() < deadline:
        batches.append(watch.probe.poll())
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    assert [
        (row["ordinal"], row["grpc_status"], row["path"]) for row in sorted(rows, key=lambda row: row["ordinal"])
    ] == [
        (1, 3, "/a"),
        (3, 0, "/a/B"),
    ]
    every = [batch for batch in (*batches, *caught.emitted) if batch.rows.num_rows]
    sent = otlp.encode([Batch(batch.table, batch.rows, "test/1") for batch in every], {})
    assert mark not in str(rows) and mark.encode() not in sent
    assert Encoder().encode([("x", mark)])[3:] not in sent  # Nor as HPACK writes it.


def test_a_full_ring_of_header_blocks_is_counted_and_no_head_is_made_up(bpf: None, tmp_path: Path) -> None:
    caught = Caught(tmp_path)
    probe = Probe(caught.context, {"BLOCK_PAGES": 1, "STREAMS": 64})
    try:
        with Puppet() as puppet:
            watch = Watch(probe, puppet)
            probe.targets.watch(puppet.process.pid)
            puppet.connect()
            puppet.takes(PREFACE)
            for stream in range(1, 83, 2):
                puppet.takes(watch.client.head(stream, asking(stream, f"/{stream}"), "END_STREAM"))
                puppet.writes(watch.answers(stream))
            rows = watch.rows(41)
            puppet.takes(watch.client.head(83, asking(83)) + watch.client.head(85, asking(85)))
            puppet.writes(b"".join(watch.answers(83) for _ in range(9)))
        rows += watch.rows(2)  # Even where the ring was too full for the word that the connection has ended.
    finally:
        probe.close()
    losses = caught.losses()
    assert losses["http/2 header blocks: ring full"] > 0
    assert len(rows) == 43
    assert {row["ended_by"] for row in rows[:41]} == {"complete"}
    for row in rows:
        assert row["path"] in (None, f"/{row['ordinal']}", "/a/B")
        assert row["trace_id"] in (None, uuid.UUID(int=row["ordinal"]))
    assert any(row["parse"] == "none" for row in rows) and any(row["parse"] == "full" for row in rows)
