from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from correlator.joins.busy import busy_time

intervals = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300), st.integers(0, 90)), min_size=1, max_size=60)


def busy(rows: list[tuple[int, int, int]]) -> list[int]:
    gpu, start, length = (np.array(c, np.int64) for c in zip(*rows, strict=True))
    return [int(x) for x in busy_time(gpu, start, start + length)]


def union(rows: list[tuple[int, int, int]]) -> int:
    return len({(gpu, at) for gpu, start, length in rows for at in range(start, start + length)})


@given(intervals)
def test_busy_times_sum_to_the_union_of_the_intervals(rows: list[tuple[int, int, int]]) -> None:
    found = busy(rows)
    assert sum(found) == union(rows)
    assert all(0 <= b <= length for b, (_, _, length) in zip(found, rows, strict=True))


@given(intervals)
def test_the_order_of_rows_does_not_change_the_busy_time_of_different_intervals(
    rows: list[tuple[int, int, int]],
) -> None:
    distinct = list(dict.fromkeys(rows))
    turned = distinct[::-1]
    assert dict(zip(distinct, busy(distinct), strict=True)) == dict(zip(turned, busy(turned), strict=True))


def test_executions_that_do_not_overlap_are_busy_for_their_whole_length() -> None:
    assert busy([(0, 0, 10), (0, 10, 5), (1, 0, 7)]) == [10, 5, 7]


def test_two_that_overlap_share_the_time_they_ran_together() -> None:
    assert busy([(0, 0, 10), (0, 4, 10)]) == [4 + 3, 3 + 4]


def test_the_odd_nanosecond_goes_to_the_execution_that_began_first() -> None:
    assert busy([(0, 0, 5), (0, 0, 9)]) == [3, 2 + 4]
