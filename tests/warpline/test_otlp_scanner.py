"""The scanner in C against its oracle, upb: what it takes it reads alike, whatever bytes it is given."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.warpline.test_otlp import KEYS, VALUES, span_request
from tests.warpline.test_otlp_fields import CASES, KINDS, request_with, values
from warpline import otlp
from warpline.otlp import Decoded, Malformed, Signal, scanner
from warpline.otlp.records import Request
from warpline.otlp.values import Redaction
from warpline.schema import Type

NOW = 1_764_000_000_000_000_000

pytestmark = pytest.mark.skipif(not scanner.available(), reason="the scanner in C is not built: no compiler here")

TEXTS_OF_JSON = (Type.JSON, Type.JSON_NAME)


def seeds(signal: Signal) -> list[bytes]:
    paths = [path for s, path in CASES if s == signal]
    single = [request_with(signal, path, value).SerializeToString() for path in paths for value in values(path[-1])]
    usual = [request_with(signal, p, values(p[-1])[1]) for p in paths if not p[-1].name.endswith("strindex")]
    rng = random.Random(5)
    return (
        single[::3]
        + [b"".join(m.SerializeToString() for m in rng.sample(usual, 7)) for _ in range(100)]
        + [whole(signal, paths)]
    )


def whole(signal: Signal, paths: list[Any]) -> bytes:
    """One request that has every field, all in one resource, scope and record as far as one can hold them."""
    merged = KINDS[signal]()
    for path in paths:
        node = merged
        for field in path[:-1]:
            node = getattr(node, field.name)
            if field.is_repeated:
                node = node[0] if len(node) else node.add()
        if path[-1].is_repeated:
            getattr(node, path[-1].name).append(values(path[-1])[1])
        else:
            setattr(node, path[-1].name, values(path[-1])[1])
    return bytes(merged.SerializeToString())


def rows(decoded: Decoded) -> list[list[dict[str, Any]]]:
    """Rows to compare: JSON by what it says, since a number can be written in two ways, and floats by their bits."""
    return [[_row(batch.table, row) for row in batch.rows.to_pylist()] for batch in decoded.batches]


def _row(table: Any, row: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in row.items():
        is_json = table.by_name[name].type in TEXTS_OF_JSON or (name == "body" and row["body_type"] is not None)
        if is_json and value is not None:
            found[name] = repr(json.loads(value, object_pairs_hook=list))
        else:
            found[name] = struct.pack("<d", value) if isinstance(value, float) and value == value else repr(value)
    return found


def scanned(signal: Signal, body: bytes) -> Decoded | None:
    request = Request(NOW, Redaction())
    batches = scanner.scan(signal, [body], request)
    if batches is None:
        return None
    request.outcome.batches = batches
    request.outcome.lost(otlp.REDACTED, request.redaction.count)
    for batch in batches:
        batch.rows.validate(full=True)
    return request.outcome


def compare(signal: Signal, body: bytes) -> str:
    """Compare the two on one body and say what became of it."""
    found = scanned(signal, body)
    try:
        wanted = otlp.decode(signal, body, now_ns=NOW, fast=False)
    except Malformed:
        assert found is None
        return "malformed"
    if found is None:
        return "left to upb"
    assert rows(found) == rows(wanted)
    assert (found.losses, found.rejected) == (wanted.losses, wanted.rejected)
    return "read alike"


SEEDS: dict[Signal, list[bytes]] = {signal: seeds(signal) for signal in KINDS}


@pytest.mark.parametrize("signal", KINDS)
def test_every_field_is_read_as_upb_reads_it(signal: Signal) -> None:
    outcomes = Counter(compare(signal, body) for body in SEEDS[signal])
    assert outcomes["read alike"] > 0.7 * len(SEEDS[signal]) and not outcomes["malformed"]


@pytest.mark.parametrize("signal", KINDS)
def test_mutated_requests_are_read_as_upb_reads_them_or_left_to_it(signal: Signal) -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.randoms(use_true_random=False), st.sampled_from(SEEDS[signal]))
    def mutated(rng: random.Random, body: bytes) -> None:
        outcomes[compare(signal, mutate(body, rng))] += 1

    mutated()
    assert outcomes["read alike"] > 50 and outcomes["malformed"] > 50


def mutate(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(max(len(changed), 1))
        how = rng.random()
        if how < 0.6 and changed:
            changed[at] = rng.randrange(256)
        elif how < 0.7:
            del changed[at:]
        elif how < 0.85:
            changed[at:at] = rng.randbytes(1)
        else:
            changed[at:at] = changed[at : at + rng.randrange(40)]
    return bytes(changed)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=5))
def test_attribute_values_of_every_kind_are_read_as_upb_reads_them(pairs: list[tuple[str, Any]]) -> None:
    request = span_request()
    for key, value in pairs:
        request.resource_spans[0].scope_spans[0].spans[0].attributes.add(key=key, value=value)
    assert compare("traces", request.SerializeToString()) == "read alike"


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_doubles_read_back_to_the_bit(numbers: list[float]) -> None:
    request = span_request(**{f"n{i}": number for i, number in enumerate(numbers)})
    found = scanned("traces", request.SerializeToString())
    assert found is not None
    text = found.batches[0].rows.column("attributes")[0].as_py()
    assert list(json.loads(text).values()) == numbers
    assert all("." in part or "e" in part for part in text.strip("{}").split(","))


def test_texts_of_every_length_with_an_odd_character_at_every_place_read_back() -> None:
    odd = ['"', "\\", "\n", "\x00", "\x1f", "\x7f", "é", "語", "🚀", "!", "#"]
    texts = ["a" * at + each + "b" * after for each in odd for at in range(20) for after in range(12)]
    texts += ["c" * length for length in range(200)]
    for begin in range(0, len(texts), 500):
        request = span_request(**{f"n{i}": text for i, text in enumerate(texts[begin : begin + 500])})
        found = scanned("traces", request.SerializeToString())
        assert found is not None
        text = found.batches[0].rows.column("attributes")[0].as_py()
        assert list(json.loads(text).values()) == texts[begin : begin + 500]


def test_typical_doubles_read_back_to_the_bit_and_the_plain_ones_are_short() -> None:
    rng = random.Random(3)
    numbers = [rng.random() * 10 ** rng.randrange(-12, 18) for _ in range(20_000)]
    numbers += [round(rng.random() * 1000, places) for places in range(8) for _ in range(500)]
    request = span_request(**{f"n{i}": number for i, number in enumerate(numbers[:4000] + numbers[-4000:])})
    found = scanned("traces", request.SerializeToString())
    assert found is not None
    text = found.batches[0].rows.column("attributes")[0].as_py()
    assert list(json.loads(text).values()) == numbers[:4000] + numbers[-4000:]
    assert len(text) < 1.1 * len(json.dumps(json.loads(text), separators=(",", ":")))


def test_many_distinct_keys_and_names_are_kept_apart() -> None:
    for start in (0, 5000, 10_000):
        request = span_request(**{f"key.{start + i}": i for i in range(6000)})
        spans = request.resource_spans[0].scope_spans[0].spans
        for i in range(3000):
            spans.add(name=f"name {i}", trace_id=bytes([1] * 16), span_id=bytes([2] * 8), start_time_unix_nano=NOW)
        decoded = otlp.decode("traces", request.SerializeToString(), now_ns=NOW)
        found = decoded.batches[0].rows
        assert json.loads(found.column("attributes")[0].as_py()) == {f"key.{start + i}": i for i in range(6000)}
        assert found.column("name").to_pylist()[1:] == [f"name {i}" for i in range(3000)]


def test_threads_do_not_disturb_each_other() -> None:
    bodies = [span_request(**{f"k{t}_{i}": i for i in range(50)}).SerializeToString() for t in range(4)]
    wanted = [rows(otlp.decode("traces", body, now_ns=NOW)) for body in bodies]
    wrong: list[int] = []

    def repeat(number: int) -> None:
        for _ in range(200):
            found = rows(otlp.decode("traces", bodies[number], now_ns=NOW))
            wrong.extend([number] if found != wanted[number] else [])

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_columns_outlive_the_request_and_the_thread_that_made_them() -> None:
    kept: list[Any] = []
    body = span_request(some__key="some value").SerializeToString()
    thread = threading.Thread(target=lambda given: kept.extend(otlp.decode("traces", given).batches), args=(body,))
    thread.start()
    thread.join()
    del body, thread
    assert kept[0].rows.column("attributes").to_pylist() == ['{"some.key":"some value"}']
    kept[0].rows.validate(full=True)


def test_a_digest_names_a_body_and_changes_with_every_bit() -> None:
    body = bytes(range(200))
    names = {scanner.digest(body[:n]) for n in range(len(body))}
    names |= {
        scanner.digest(body[:i] + bytes([body[i] ^ 1 << bit]) + body[i + 1 :]) for i in range(200) for bit in range(8)
    }
    names |= {scanner.digest(bytes(n)) for n in range(2, 300)}
    assert len(names) == 200 + 1600 + 298


def test_requests_that_are_read_together_give_the_rows_of_each() -> None:
    bodies = [span_request(number=i, **{f"key.{i % 5}": "text"}).SerializeToString() for i in range(23)]
    found = otlp.decode_together(bodies, now_ns=NOW)
    assert found is not None
    each = [row for body in bodies for batch in rows(otlp.decode("traces", body, now_ns=NOW)) for row in batch]
    assert rows(found) == [each]
    found.batches[0].rows.validate(full=True)


def test_a_request_that_is_cut_off_takes_nothing_of_the_one_behind_it() -> None:
    body, whole = span_request(some__key="x" * 40).SerializeToString(), span_request(other="y").SerializeToString()
    assert otlp.decode_together([whole, body, whole], now_ns=NOW) is not None
    for cut in range(1, len(body)):
        assert otlp.decode_together([body[:cut], whole], now_ns=NOW) is None


def test_requests_of_which_something_is_refused_or_untimed_are_not_read_together() -> None:
    fine, without_id, without_time = (span_request() for _ in range(3))
    without_id.resource_spans[0].scope_spans[0].spans[0].span_id = b""
    span = without_time.resource_spans[0].scope_spans[0].spans[0]
    span.start_time_unix_nano = span.end_time_unix_nano = 0
    for odd in (without_id, without_time):
        assert otlp.decode("traces", odd.SerializeToString(), now_ns=NOW)
        assert otlp.decode_together([fine.SerializeToString(), odd.SerializeToString()], now_ns=NOW) is None


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scanner with a driver that mutates requests, built with the address and undefined-behaviour sanitizers."""
    binary = tmp_path_factory.mktemp("scan") / "fuzz_scan"
    sources = [str(ROOT / "tests/warpline/fuzz_scan.c"), "-I", str(ROOT / "warpline/otlp/scan")]
    flags = ["-g", "-O0", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(["gcc", *flags, *sources, "-o", str(binary), "-lm"], capture_output=True, text=True)
    if built.returncode and "cannot find" in built.stderr:
        pytest.skip(f"no sanitizers here: {built.stderr.strip().splitlines()[-1]}")
    assert not built.returncode, built.stderr
    return binary


@pytest.mark.parametrize("signal", KINDS)
def test_no_bytes_make_the_scanner_read_or_write_beyond_its_buffers(
    sanitized: Path, tmp_path: Path, signal: Signal
) -> None:
    """`fuzz_scan SIGNAL SEEDS ROUNDS SEED` runs as long as one likes by hand."""
    file = tmp_path / "seeds"
    file.write_bytes(b"".join(struct.pack("<q", len(seed)) + seed for seed in SEEDS[signal]))
    number = str(["traces", "logs", "metrics"].index(signal))
    ran = subprocess.run([str(sanitized), number, str(file), "20000", "1"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
    taken, left = map(int, ran.stdout.split())
    assert taken > 2000 and left > 2000
