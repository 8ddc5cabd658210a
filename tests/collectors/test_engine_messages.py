"""Decoding of the engine wire without a kernel: vLLM's own bytes, cut anywhere, lost anywhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collectors.wire import vllm_messages as vllm
from collectors.wire.engine_state import MOST_REQUESTS, Engine
from collectors.wire.zmtp import FROM_ENGINE, TO_ENGINE, Reader

RECORDING = Path(__file__).parent / "data" / "vllm-0.33.0-wire.msgpack"
"""Written by vllm_recorder.py with vLLM's own classes and encoder."""
GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"


def recorded(kind: str) -> list[bytes]:
    return [body for what, _, body in msgspec.msgpack.decode(RECORDING.read_bytes()) if what == kind]


def frame(body: bytes, more: bool = False) -> bytes:
    if len(body) > 255:
        return bytes([2 | more]) + len(body).to_bytes(8, "big") + body
    return bytes([more]) + bytes([len(body)]) + body


@pytest.fixture
def engine() -> Engine:
    return Engine(lambda seconds: round(seconds * 1e9))


def test_what_vllms_encoder_writes_is_read(engine: Engine) -> None:
    for body in recorded("add"):
        engine.add_request(vllm.read_request(body), 5)
    for number, body in enumerate(recorded("outputs")[:3]):
        engine.add_outputs(vllm.read_outputs(body), number, len(body), False)
    rows = engine.take()
    messages = rows["engine_message"]
    assert messages["message"] == [1, 2, 3]
    assert messages["engine_time_ns"] == [102_000_000_000, 103_000_000_000, 104_000_000_000]
    assert messages["context_tokens"] == [49, 0, 0] and messages["generation_tokens"] == [7, 7, 7]
    assert messages["preempted_requests"] == [1, 2, 3] and messages["preempted_queried_tokens"] == [10, 20, 30]
    assert messages["running"] == [7] * 3 and messages["kv_used_ratio"] == [0.25] * 3
    assert rows["engine_emission"]["new_tokens"] == [1] * 21
    assert rows["engine_emission"]["cached_tokens"][:7] == [4] * 7
    kinds = rows["engine_event"]["kind"]
    assert [kinds.count(each) for each in ("queued", "scheduled", "first_token")] == [7, 7, 7]
    assert rows["engine_event"]["time_ns"][:2] == [100_250_000_000, 100_500_000_000]
    ended = [row for row in zip(*rows["engine_request"].values(), strict=True) if row[1] is not None]
    names = list(rows["engine_request"])
    last = [dict(zip(names, row, strict=True)) for row in ended]
    assert [row["finish_reason"] for row in last] == ["stop", "length", "abort", "stop", "length", "abort", "stop"]
    assert {row["output_tokens"] for row in last} == {3} and {row["prompt_tokens"] for row in last} == {11}
    assert last[0]["external_id"] == "cmpl-0-0"
    assert last[0]["trace_id"].hex() == "0af7651916cd43dd8448eb211c80319c"
    assert last[0]["parent_span_id"] == 0xB7AD6B7169203331
    assert (last[6]["role"], last[6]["remote_request_id"]) == ("decode", "far-1")


def test_no_token_and_no_text_of_a_message_is_kept(engine: Engine) -> None:
    for body in recorded("add"):
        assert b"secret stop" in body
        engine.add_request(vllm.read_request(body), 5)
    for body in recorded("outputs")[:3]:
        engine.add_outputs(vllm.read_outputs(body), 6, len(body), False)
    said = str(engine.take()) + str(engine._requests)
    for content in ("424242", "434343", "secret"):
        assert content not in said


def test_a_layout_with_another_number_of_elements_is_not_guessed_at() -> None:
    body = recorded("outputs")[0]
    parts = msgspec.msgpack.decode(body)
    for wrong in ([*parts, None], parts[:-1], [parts[0], [[*parts[1][0], None]], *parts[2:]]):
        with pytest.raises(vllm.UnknownLayoutError, match="elements"):
            vllm.read_outputs(msgspec.msgpack.encode(wrong))
    with pytest.raises(vllm.UnknownLayoutError, match="no msgpack array"):
        vllm.read_outputs(b"\xc1nonsense")
    assert vllm.fingerprint(body) == "9 elements, its outputs [19]"


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_the_length_of_a_list_is_read_from_its_header(count: int) -> None:
    assert vllm.length(msgspec.Raw(msgspec.msgpack.encode([0] * count))) == count
    assert vllm.length(msgspec.Raw(msgspec.msgpack.encode(None))) is None


def messages(count: int) -> list[bytes]:
    bodies = recorded("outputs")[:3]
    short = msgspec.msgpack.encode([0, [], None, 1.5, None, None, None, None, None])
    return [(*bodies, short)[number % 4] for number in range(count)]


@pytest.mark.parametrize("piece", [1, 7, 64, 4096])
def test_messages_come_whole_however_the_bytes_are_cut(piece: int) -> None:
    sent = messages(23)
    stream = GREETING + READY + b"".join(frame(body) for body in sent)
    reader, found = Reader(FROM_ENGINE), []
    for at in range(0, len(stream), piece):
        found += reader.add(stream[at : at + piece], at)
    assert [each.frames for each in found] == [[body] for body in sent]
    assert reader.socket_type == "PUSH" and not reader.broken and reader.skipped_bytes == 0
    assert not any(each.after_gap for each in found)


def test_a_late_reader_joins_at_a_message_wherever_it_comes_in() -> None:
    sent = messages(31)
    stream = b"".join(frame(body) for body in sent)
    ends = [0]
    for body in sent:
        ends.append(ends[-1] + len(frame(body)))
    long_ones = [start for start, body in zip(ends, sent, strict=False) if len(body) > 255]
    choose = random.Random(499)
    for _ in range(499):
        cut = choose.randrange(len(stream) - 4096)
        found = Reader(FROM_ENGINE).add(stream[cut:], 1)
        assert [each.frames[0] for each in found] == sent[ends.index(min(at for at in long_ones if at >= cut)) :]
        assert [each.after_gap for each in found] == [True] + [False] * (len(found) - 1)


def test_a_call_that_begins_with_a_short_message_is_joined_at_once() -> None:
    sent = messages(4)[3:]
    assert [m.frames for m in Reader(FROM_ENGINE).add(frame(sent[0]), 1, starts_call=True)] == [sent]


@pytest.mark.parametrize("cut", [1, 2, 3, 17, 61])
def test_a_stream_of_short_messages_is_joined_in_its_middle(cut: int) -> None:
    bodies = [msgspec.msgpack.encode([0, ["r", [number]], None]) for number in range(97)]
    stream = b"".join(map(frame, bodies))
    reader = Reader(FROM_ENGINE)
    found = [each for at in range(cut, len(stream), 50) for each in reader.add(stream[at : at + 50], 1)]
    assert [each.frames[0] for each in found] == bodies[-len(found) :]
    assert len(found) >= 97 - 8 and found[0].after_gap


def test_chance_makes_no_run_of_short_messages() -> None:
    reader, some = Reader(FROM_ENGINE), random.Random(5)
    assert [each for _ in range(200) for each in reader.add(some.randbytes(4096), 1)] == []


def test_behind_a_gap_nothing_is_made_of_two_halves() -> None:
    sent = messages(12)
    stream = b"".join(frame(body) for body in sent)
    reader = Reader(FROM_ENGINE)
    found = reader.add(GREETING + stream[:5000], 1)
    reader.gap()
    found += reader.add(stream[9000:], 2)
    assert all(each.frames[0] in sent for each in found)
    assert [each.after_gap for each in found].count(True) == 1
    assert len(found) < len(sent)


def test_requests_and_their_further_frames_are_one_message() -> None:
    add = recorded("add")[0]
    stream = (
        frame(vllm.ADD, True) + frame(add, True) + frame(bytes(70_000)) + frame(vllm.ABORT, True) + frame(b"\x91\xa1r")
    )
    reader = Reader(TO_ENGINE)
    found = [m for at in range(0, len(stream), 997) for m in reader.add(stream[at : at + 997], 1, at == 0)]
    assert [[len(part) for part in each.frames] for each in found] == [[1, len(add), 70_000], [1, 3]]


def test_bytes_that_are_not_zmtp_break_nothing() -> None:
    reader, noise = Reader(FROM_ENGINE), random.Random(7).randbytes(100_003)
    for at in range(0, len(noise), 4096):
        reader.add(noise[at : at + 4096], 1)
    after = [m.frames[0] for m in reader.add(frame(messages(1)[0]), 2, starts_call=True)]
    assert after[-1:] == messages(1)


def numbers(engine: Engine, gaps: list[bool], **details: Any) -> list[int]:
    for number, gap in enumerate(gaps):
        stats = vllm.Stats(iteration_details=vllm.Details(iteration_index=number * 3)) if details else None
        body = msgspec.msgpack.encode([0, [], None, 1.0, None, None, None, None, None])
        said = vllm.read_outputs(body)
        said.scheduler_stats = stats
        engine.add_outputs(said, number, 1, gap)
    return engine.take()["engine_message"]["message"]


def test_a_lost_message_leaves_its_number_free(engine: Engine) -> None:
    assert numbers(engine, [False, True, False]) == [1, 3, 4]


def test_the_engines_own_count_tells_how_many_were_lost(engine: Engine) -> None:
    assert numbers(engine, [False, True, False], told=True) == [1, 4, 5]


def test_requests_that_never_end_are_let_go_and_counted(engine: Engine) -> None:
    said = vllm.read_request(recorded("add")[0])
    for number in range(MOST_REQUESTS + 13):
        said.request_id = str(number)
        engine.add_request(said, number)
    assert engine.forgotten == 13


def test_an_aborted_request_ends(engine: Engine) -> None:
    engine.add_request(vllm.read_request(recorded("add")[0]), 5)
    engine.add_aborts(["cmpl-0-0-89abcdef", "never seen"], 7)
    rows = engine.take()
    assert rows["engine_event"]["kind"] == ["aborted"]
    assert rows["engine_request"]["finish_reason"] == [None, "abort"]
