"""Ids and the groups that they tie: what is masked in one, what counts as one, and which rows hang together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from correlator.joins import ids
from correlator.joins.union import codes, components, count_distinct, star


def test_envoys_digit_is_masked_and_nothing_else() -> None:
    one, other = "5b2f0e9c-1a2b-4cde-8f01-23456789abcd", "5b2f0e9c-1a2b-9cde-8f01-23456789abcd"
    assert ids.masked(pa.array([one]))[0] == ids.masked(pa.array([other]))[0]
    assert ids.masked(pa.array(["req-14"]))[0].as_py() == "req-14"


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_components_are_those_of_a_walk(edges_: list[tuple[int, int]]) -> None:
    left = np.array([a for a, _ in edges_], np.int64)
    right = np.array([b for _, b in edges_], np.int64)
    label = components(20, left, right)
    near: dict[int, set[int]] = {i: {i} for i in range(20)}
    for _ in range(20):
        for a, b in edges_:
            near[a] = near[b] = near[a] | near[b]
            for member in near[a]:
                near[member] = near[a]
    assert label.tolist() == [min(near[i]) for i in range(20)]


@given(st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 6)), max_size=40), st.sampled_from([7, 1 << 61]))
def test_distinct_values_are_counted_however_large_they_are(pairs: list[tuple[int, int]], large: int) -> None:
    group, value = np.array(pairs, np.int64).reshape(-1, 2).T
    found = count_distinct(group, np.where(value == 6, large, value), 6)
    assert found.tolist() == [len({v for g, v in pairs if g == n and v >= 0}) for n in range(6)]


def test_a_star_joins_rows_of_one_code_and_leaves_rows_without_alone() -> None:
    left, right = star(codes(pa.array(["x", None, "y", "x", "", "y", "x"])))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 0), (0, 3), (0, 6), (2, 2), (2, 5)]
