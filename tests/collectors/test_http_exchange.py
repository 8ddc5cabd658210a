"""HTTP exchanges as the Linux kernel sees them, on real sockets, with prime counts."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors import http_exchange
from collectors.http_exchange import Probe
from tests.collectors.conftest import WAYS, Caught, http_probe
from tests.collectors.http_watch import Row, Watch, connect, numbers, read_until, request
from warpline.settings import Settings

pytestmark = pytest.mark.needs_bpf
HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=WAYS)
def http_watch(bpf: None, caught: Caught, request: pytest.FixtureRequest) -> Iterator[Watch]:
    """A probe that sees data in each of the ways that there are."""
    with http_probe(caught, request.param) as probe:
        yield Watch(probe)


@pytest.fixture(scope="module")
def port(http_watch: Watch) -> Iterator[int]:
    """A plain server that is watched, and its port."""
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), "0"], stdout=subprocess.PIPE)
    assert process.stdout
    found = int(process.stdout.readline())
    http_watch.probe.targets.watch(process.pid)
    yield found
    process.kill()
    process.communicate()


@pytest.fixture(autouse=True)
def nothing_left_over(http_watch: Watch) -> None:
    """Rows of the test before are none of the next one's."""
    http_watch.probe.poll()


def test_97_requests_on_one_connection_are_97_rows(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        for number in range(1, 98):
            door.sendall(request("/v1/models?key=secret", number))
            read_until(door, b"}")
    rows = http_watch.rows(97)
    assert numbers(rows) == list(range(1, 98))
    assert [row["ordinal"] for row in rows] == list(range(97))
    assert {(row["method"], row["path"], row["status"], row["ended_by"]) for row in rows} == {
        ("GET", "/v1/models", 200, "complete")
    }
    assert {row["parse"] for row in rows} == {"full"}
    assert [row["request_id"] for row in rows] == [f"r{number}" for number in range(1, 98)]
    assert {row["parent_span_id"] for row in rows} == set(range(1, 98))
    assert len({row["connection_id"] for row in rows}) == 1
    ends = [row["request_offset_bytes"] + row["request_bytes"] for row in rows]
    assert [row["request_offset_bytes"] for row in rows] == [0, *ends[:-1]]
    assert all(row["local_port"] == port for row in rows)


def test_a_streamed_answer_has_its_chunks_gaps_and_id(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        door.sendall(request("/chunks/13", 1, "POST", body="{}"))
        text = read_until(door, b"0\r\n\r\n")
    (row,) = http_watch.rows(1)
    assert row["chunks"] == 13
    assert sum(row["gap_counts"]) == 12
    assert row["response_id"] == "chatcmpl-" + "0" * 32
    assert row["response_bytes"] == len(text)
    assert row["start_ns"] <= row["request_end_ns"] <= row["response_start_ns"] < row["first_body_ns"]
    assert row["first_body_ns"] < row["last_chunk_ns"] < row["end_ns"]


@pytest.mark.parametrize("cut", [1, 4, 12, 40, 90])
def test_a_split_head_is_found(http_watch: Watch, port: int, cut: int) -> None:
    for number in range(1, 8):
        with connect(port) as door:
            whole = request("/v1/models", number)
            door.sendall(whole[:cut])
            time.sleep(0.005)
            door.sendall(whole[cut:])
            read_until(door, b"}")
    assert numbers(http_watch.rows(7)) == list(range(1, 8))


@pytest.mark.parametrize(("padding", "parse"), [(1500, "full"), (3500, "full"), (5000, "head_truncated")])
def test_a_header_far_behind_is_found_up_to_the_setting(http_watch: Watch, port: int, padding: int, parse: str) -> None:
    with connect(port) as door:
        text = request("/v1/models", 7).replace(b"traceparent", b"x-pad: " + b"p" * padding + b"\r\ntraceparent")
        door.sendall(text)
        read_until(door, b"}")
    (row,) = http_watch.rows(1)
    assert row["parse"] == parse
    assert (row["trace_id"] is not None) == (parse == "full")
    assert row["request_bytes"] == len(text)


def test_pipelined_requests_are_all_found(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        door.sendall(
            b"".join(request("/chunks/3" if n % 2 else "/v1/models", n, "POST", body="{}") for n in range(1, 6))
        )
        read_until(door, b"0\r\n\r\n", answers=5)
    rows = http_watch.rows(5)
    assert sorted(numbers(rows)) == [1, 2, 3, 4, 5]
    by_number = {int(row["trace_id"]): row for row in rows}
    assert [by_number[n]["chunks"] for n in range(1, 6)] == [3, 1, 3, 1, 3]
    assert [by_number[n]["ordinal"] for n in range(1, 6)] == [0, 1, 2, 3, 4]


def test_vectors_are_read_in_order(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        parts = [request("/vector", 3)[at : at + 11] for at in range(0, len(request("/vector", 3)), 11)]
        door.sendmsg(parts)
        read_until(door, b"0\r\n\r\n")
    (row,) = http_watch.rows(1)
    assert (row["status"], row["ended_by"], row["chunks"], int(row["trace_id"])) == (200, "complete", 1, 3)
    assert row["response_id"] == f"chatcmpl-{1:032x}"


@pytest.mark.parametrize("path", ["/tricky", "/split"])
def test_chunks_are_followed_by_their_sizes(http_watch: Watch, port: int, path: str) -> None:
    with connect(port) as door:
        for number in (1, 2):
            door.sendall(request(path, number))
            read_until(door, b"\n0\r\n\r\n" if path == "/split" else b"y\n\n\r\n0\r\n\r\n")
    rows = http_watch.rows(2)
    assert [(row["ended_by"], row["status"]) for row in rows] == [("complete", 200)] * 2
    assert numbers(rows) == [1, 2]


@pytest.mark.parametrize(
    ("method", "path", "status", "heads"),
    [("HEAD", "/", 200, 1), ("GET", "/none", 204, 1), ("POST", "/interim", 200, 2)],
)
def test_answers_without_a_body_end_with_their_head(
    http_watch: Watch, port: int, method: str, path: str, status: int, heads: int
) -> None:
    with connect(port) as door:
        for number in (1, 2, 3):
            door.sendall(request(path, number, method))
            read_until(door, b"ok" if path == "/interim" else b"\r\n\r\n", answers=heads)
    rows = http_watch.rows(3)
    assert [(row["status"], row["ended_by"]) for row in rows] == [(status, "complete")] * 3
    assert numbers(rows) == [1, 2, 3]


def test_an_answer_that_the_close_ends_is_whole(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        door.sendall(request("/close", 5))
        read_until(door, b"the end")
    (row,) = http_watch.rows(1)
    assert (row["ended_by"], row["status"], row["chunks"]) == ("close", 200, 1)


def test_a_large_body_is_one_request_of_its_length(http_watch: Watch, port: int) -> None:
    text = request("/v1/models", 9, "POST", body="GET / HTTP/1.1\r\n" * 20_011)
    with connect(port) as door:
        door.sendall(text)
        read_until(door, b"}")
    (row,) = http_watch.rows(1)
    assert row["request_bytes"] == len(text)
    assert row["start_ns"] < row["request_end_ns"]


def test_a_client_that_leaves_in_mid_stream_is_an_abort(http_watch: Watch, port: int) -> None:
    for number in range(1, 4):
        with connect(port) as door:
            door.sendall(request("/slow", number))
            door.recv(1000)
    rows = http_watch.rows(3)
    assert [(row["ended_by"], row["status"]) for row in rows] == [("abort", 200)] * 3


def test_a_unix_socket_is_watched_like_any_other(http_watch: Watch, tmp_path: Path) -> None:
    where = str(tmp_path / "door")
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), where], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        http_watch.probe.targets.watch(process.pid)
        for number in range(1, 20):
            with socket.socket(socket.AF_UNIX) as door:
                door.connect(where)
                door.sendall(request("/chunks/2", number))
                read_until(door, b"0\r\n\r\n")
        rows = http_watch.rows(19)
    finally:
        process.kill()
        process.communicate()
    assert numbers(rows) == list(range(1, 20))
    assert {row["local_address"] for row in rows} == {None}
    assert len({row["connection_id"] for row in rows}) == 19


def test_a_stream_that_was_open_at_start_is_marked(http_watch: Watch) -> None:
    process = subprocess.Popen([sys.executable, str(HERE / "plain_server.py"), "0"], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        with connect(int(process.stdout.readline())) as door:
            door.sendall(request("/slow", 1))
            door.recv(1000)
            http_watch.probe.targets.watch(process.pid)
            read_until(door, b"0\r\n\r\n")
            door.sendall(request("/v1/models", 2))
            read_until(door, b"}")
        rows = http_watch.rows(2)
    finally:
        process.kill()
        process.communicate()
    assert [row["open_at_start"] for row in rows] == [True, False]
    assert (rows[0]["parse"], rows[0]["ended_by"], rows[0]["path"]) == ("none", "complete", None)
    assert rows[0]["response_id"].startswith("chatcmpl-")
    assert rows[1]["request_offset_bytes"] == len(request("/slow", 1))


def test_an_exchange_that_has_not_ended_is_given_at_the_end(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        door.sendall(request("/slow", 11))
        open_rows: list[Row] = []
        deadline = time.monotonic() + 20
        while not open_rows and time.monotonic() < deadline:  # Sooner or later with a chunk, of 40 that come in 2 s.
            http_watch.probe.poll()
            now_open = http_watch.probe.still_open().rows.to_pylist()
            open_rows = [row for row in now_open if row["trace_id"] == uuid.UUID(int=11) and row["chunks"]]
    http_watch.rows(1)
    assert [(row["ended_by"], row["end_ns"], row["status"]) for row in open_rows] == [("open", None, 200)]
    assert open_rows[0]["chunks"] >= 1


def test_heads_that_are_no_http_are_no_rows(http_watch: Watch, port: int) -> None:
    with connect(port) as door:
        door.sendall(b"GETTING somewhere\r\n\r\n")
        assert door.recv(1) == b""  # The server read it, did not understand it either, and closed.
    assert http_watch.rows(0) == []


def test_a_full_ring_loses_rows_and_counts_them(bpf: None, tmp_path: Path, port: int) -> None:
    caught = Caught(tmp_path)
    probe = Probe(caught.context, {"EXCHANGE_PAGES": 1, "PIECE_PAGES": 1})
    try:
        probe.targets.watch_ports([port])
        began = caught.context.clock.now_ns()
        with connect(port) as door:
            for number in range(1, 102):
                door.sendall(request("/v1/models", number))
                read_until(door, b"}")
        assert probe.is_filling()
        rows, losses = [], caught.losses()
        deadline = time.monotonic() + 20
        while len(rows) + losses.get("exchanges: ring full", 0) < 101 and time.monotonic() < deadline:
            rows += probe.poll().rows.to_pylist()
            losses = caught.losses()
        assert not probe.is_filling()
    finally:
        probe.close()
    assert 0 < len(rows) < 101
    assert len(rows) + losses["exchanges: ring full"] == 101
    assert losses["request heads: ring full"] > 0
    lost = [row for batch in caught.emitted for row in batch.rows.to_pylist()]
    assert all(row["start_ns"] <= row["end_ns"] and row["end_ns"] > began for row in lost)


def test_nothing_of_an_earlier_exchange_shows_in_a_later_one_at_its_place(bpf: None, tmp_path: Path, port: int) -> None:
    probe = Probe(Caught(tmp_path).context, {"EXCHANGE_PAGES": 1, "PIECE_PAGES": 1})
    watch, found = Watch(probe), []
    try:
        probe.targets.watch_ports([port])
        # Both rings hold no more than a dozen records: short heads come to lie where long ones lay.
        for number in range(1, 24):
            with connect(port) as door:
                if number % 2:
                    door.sendall(request("/chunks/3", number, extra=f"x-old: {'old' * 99}\r\n"))
                    read_until(door, b"0\r\n\r\n")
                else:
                    door.sendall(b"GET /o HTTP/1.1\r\n\r\n")
                    read_until(door, b"}")
            found += watch.rows(1, settle_s=0)
    finally:
        probe.close()
    told = [[row[name] is None for name in ("request_id", "host", "trace_id", "response_id")] for row in found]
    assert told == [[number % 2 == 0] * 4 for number in range(1, 24)]
    assert [row["path"] for row in found] == ["/chunks/3", "/o"] * 11 + ["/chunks/3"]
    assert "old" not in str(found)


def test_check_says_what_to_set() -> None:
    assert "http_ports" in (http_exchange.check(Settings()) or "")
