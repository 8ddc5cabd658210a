"""Foreign spans are stored once, however they are batched; the filter of those known forgets nothing, also as it grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from correlator.storage import spans
from correlator.storage.segments import ROWS
from correlator.storage.store import Store
from tests.correlator.storing import NOON, SPAN, count, small, spans_of
from warpline.batch import Batch
from warpline.errors import StoreError

SIZES = (1 << 13, 1 << 15, 1 << 17)


def parts(count: int, size: int) -> Iterator[spans.Keys]:
    """Yield keys of `count` different spans, `size` at a time."""
    random = np.random.default_rng(11)
    for begin in range(0, count, size):
        yield random.integers(0, 1 << 62, (min(size, count - begin), 3), dtype=np.uint64)


def ids_of(keys: spans.Keys) -> pa.Table:
    ids = [key.tobytes() for key in keys[:, :2]]
    return pa.Table.from_batches([SPAN.batch({"start_ns": [0] * len(keys), "trace_id": ids, "span_id": keys[:, 2]})])


@pytest.mark.parametrize("size", [100, ROWS])
def test_foreign_spans_that_are_batched_anew_are_stored_once(tmp_path: Path, size: int) -> None:
    store = Store(small(tmp_path))
    store.write([spans_of("hash-1", range(size)), spans_of("hash-2", range(size // 2, 2 * size))])
    store.write([spans_of("hash-3", range(2 * size)), spans_of("hash-4", range(2 * size, 2 * size + 7))])
    assert count(store, "span") == 2 * size + 7
    store.close()
    store = Store(small(tmp_path))
    store.write([spans_of("hash-5", range(size, 3 * size))])
    assert count(store, "span") == count(store, "(SELECT DISTINCT trace_id, span_id FROM span)") == 3 * size


def test_new_spans_that_only_look_like_known_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("correlator.storage.spans._hashed", lambda *parts: np.zeros(len(parts[0]), np.uint64))
    store = Store(small(tmp_path))
    store.write([spans_of("hash-1", range(50))])
    same_span_id = SPAN.batch({"start_ns": [NOON], "trace_id": [b"\xff" * 16], "span_id": [7]})
    store.write([spans_of("hash-2", range(50, 100)), Batch(SPAN, same_span_id, "hash-3")])
    store.write([spans_of("hash-4", range(25, 75))])
    assert count(store, "span") == 101


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("distinct", [1, 64, 1 << 63])
def test_the_repeated_among_spans_of_few_hashes_and_of_one_line_are_those_seen_before(
    monkeypatch: pytest.MonkeyPatch, distinct: int, built: bool
) -> None:
    real = spans._hashed  # A hash below 2 ** 40 falls into line 0.
    monkeypatch.setattr(spans, "_hashed", lambda *parts: real(*parts) % np.uint64(distinct) % np.uint64(1 << 40))
    if not built:
        monkeypatch.setattr(spans, "_seen", None)
    keys = np.random.default_rng(7).integers(0, 1 << 62, (3000, 3), dtype=np.uint64)
    keys[1000:1500] = keys[:500]
    keys[2900:] = keys[0]
    parts = [ids_of(keys[:1200]), ids_of(keys[1200:])]
    fresh = np.concatenate(spans.SeenSpans().fresh(parts, lambda asked, *_: asked[:0]))
    found, wanted = set(), []
    for key in map(tuple, keys.tolist()):
        wanted.append(key not in found)
        found.add(key)
    assert fresh.tolist() == wanted and sum(wanted) == 2400


@pytest.mark.skipif(spans._seen is None, reason="the filter in C is not built: no compiler here")
def test_the_filter_in_c_and_the_one_in_numpy_note_and_know_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = np.random.default_rng(7).integers(0, 1 << 64, 40_000, dtype=np.uint64)
    hashed[20_000:] = hashed[15_000:35_000]
    kept = []
    for built in (True, False):
        if not built:
            monkeypatch.setattr(spans, "_seen", None)
        made, noted, looked = spans._Filter(1 << 17), np.zeros(30_000, np.bool_), np.zeros(40_000, np.bool_)
        made.note(hashed[:30_000], noted)
        made.look(hashed, looked)
        kept.append((made._map.tolist(), noted.tolist(), looked.tolist()))
    assert kept[0] == kept[1]
    assert all(kept[0][1][20_000:25_000]) and sum(kept[0][1]) == 5_000 and all(kept[0][2][:30_000])


def test_one_new_span_of_a_million_is_asked_about() -> None:
    random = np.random.default_rng(7)
    made, none = spans._Filter(1 << 18), np.zeros(1 << 18, np.bool_)
    made.note(random.integers(0, 1 << 64, len(none), dtype=np.uint64), none)
    assert made.is_full
    looked = np.zeros(4_000_000, np.bool_)
    made.look(random.integers(0, 1 << 64, len(looked), dtype=np.uint64), looked)
    assert looked.sum() < 20


def test_spans_whose_transaction_failed_are_stored_when_they_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(small(tmp_path))
    store.write([spans_of("hash-1", range(10))])
    day = next(iter(store.days.values()))
    real = day._insert_ledger
    monkeypatch.setattr(day, "_insert_ledger", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(StoreError):
        store.write([spans_of("hash-2", range(5, 15))])
    monkeypatch.setattr(day, "_insert_ledger", real)
    store.write([spans_of("hash-2", range(5, 15))])
    assert count(store, "span") == count(store, "(SELECT DISTINCT span_id FROM span)") == 15


@pytest.mark.parametrize("size", [61, 1_021, 5_003])
def test_memory_for_the_next_filter_is_taken_before_it_begins(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(spans, "_WORDS", SIZES)
    seen, steps = spans.SeenSpans(), [0]
    for keys in parts(60_000, size):
        known, filters = seen._next._taken if seen._next else None, len(seen._filters)
        seen.add(ids_of(keys))
        if len(seen._filters) == filters:
            steps.append((seen._next._taken if seen._next else 0) - (known or 0))
        elif size < SIZES[0] // 4:
            begun = seen._filters[-1]
            assert known is not None and known >= begun.size - 2 * 4 * size - spans._PAGE, "but for the last part's"
    assert [each.size for each in seen._filters] == list(SIZES)
    assert max(steps) <= 8 * size + spans._PAGE, "no part takes more than its share"


def test_a_filter_that_grew_knows_all_that_it_knew_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "_WORDS", SIZES)
    seen, noted = spans.SeenSpans(), list(parts(60_000, 1_021))
    wrong = sum(int(seen.add(ids_of(keys)).sum()) for keys in noted)
    assert wrong <= 3 and len(seen._filters) == len(SIZES)
    assert all(seen.add(ids_of(keys)).all() for keys in noted)
