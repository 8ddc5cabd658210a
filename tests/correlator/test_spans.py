"""The filter of known spans as it grows: in memory bit by bit, and nothing of what it knew forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from correlator.storage import spans
from tests.correlator.test_store import ids_of

SIZES = (1 << 13, 1 << 15, 1 << 17)


def parts(count: int, size: int) -> Iterator[spans.Keys]:
    """Yield keys of `count` different spans, `size` at a time."""
    random = np.random.default_rng(11)
    for begin in range(0, count, size):
        yield random.integers(0, 1 << 62, (min(size, count - begin), 3), dtype=np.uint64)


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
