from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correlator.joins import clock_offset
from correlator.joins.clock_edge import clock_edges
from correlator.joins.clock_offset import Offset, forward, offset, reverse, through

S = 1_000_000_000


def messages(
    rate: float, seed: int = 1, drift: float = 12e-6, step_ns: float = 0, step_at: float = 1e9, false_ratio: float = 0
) -> tuple[clock_offset.Points, clock_offset.Points]:
    """Two nodes, one ms apart, messages both ways with exponential delays over a base; times from 0 to 120 s."""
    random = np.random.default_rng(seed)

    def theta(at: np.ndarray) -> np.ndarray:
        return 1e6 + drift * at * 1e9 + np.where(at > step_at, step_ns, 0)

    sent = np.sort(random.random(int(rate * 120)) * 120)
    late = 14e-6 + random.exponential(15e-6, len(sent))
    a_to_b = forward(ns(sent), ns(sent + late) + theta(sent + late).astype(np.int64))
    sent = np.sort(random.random(int(rate * 120)) * 120)
    late = 18e-6 + random.exponential(15e-6, len(sent))
    b_to_a = reverse(ns(sent) + theta(sent).astype(np.int64), ns(sent + late))
    wrong = random.random(len(b_to_a.at)) < false_ratio
    b_to_a.bound[wrong] += 3_000_000
    return a_to_b, b_to_a


def ns(seconds: np.ndarray) -> np.ndarray:
    return (seconds * S).astype(np.int64)


@pytest.mark.parametrize("rate", [0.5, 5.0, 50.0])
def test_the_true_offset_is_inside_and_the_bounds_are_tight(rate: float) -> None:
    upper, lower = messages(rate)
    for second in range(35, 90, 5):
        found = offset(upper, lower, second * S)
        assert found.status == "ok"
        assert found.low <= 1e6 + 12e-6 * second * 1e9 <= found.high
        assert found.high - found.low < 110_000


def test_a_stepped_clock_is_told_and_never_averaged() -> None:
    upper, lower = messages(5, step_ns=5e6, step_at=62.0)
    for second in (40, 50, 75, 85):
        found = offset(upper, lower, second * S)
        truth = 1e6 + 12e-6 * second * 1e9 + (5e6 if second > 62 else 0)
        assert found.status in ("split", "infeasible")
        assert found.status == "infeasible" or found.low <= truth <= found.high


def test_a_few_false_matches_are_left_out() -> None:
    upper, lower = messages(20, false_ratio=0.003)
    for second in (40, 60, 80):
        found = offset(upper, lower, second * S)
        assert found.status == "ok"
        assert found.low <= 1e6 + 12e-6 * second * 1e9 <= found.high


def test_too_few_messages_leave_the_prior_or_nothing() -> None:
    upper, lower = messages(0.01)
    assert offset(upper, lower, 60 * S).status == "unknown"
    found = offset(upper, lower, 60 * S, prior=(-1e6, 2e6))
    assert (found.status, found.low, found.high) == ("prior_only", -1e6, 2e6)


def test_a_prior_narrows_and_one_that_contradicts_is_told() -> None:
    upper, lower = messages(5)
    free = offset(upper, lower, 60 * S)
    narrowed = offset(upper, lower, 60 * S, prior=(free.low + 10, free.high + 10_000))
    assert (narrowed.low, narrowed.high) == (free.low + 10, free.high)
    assert offset(upper, lower, 60 * S, prior=(5e6, 6e6)).status == "infeasible"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(-80e-6, 80e-6), st.floats(0.3, 10))
def test_no_bounds_called_ok_ever_leave_the_truth_out(seed: int, drift: float, rate: float) -> None:
    upper, lower = messages(rate, seed, drift)
    found: Offset = offset(upper, lower, 60 * S)
    assert found.status == "ok"
    assert found.low - 1 <= 1e6 + drift * 60 * 1e9 <= found.high + 1


def test_bounds_add_along_the_tightest_chain_of_nodes() -> None:
    edges = {("a", "b"): (10.0, 20.0), ("b", "c"): (-5.0, 5.0), ("a", "c"): (-100.0, 100.0)}
    assert through(edges, "a", "c") == (5.0, 25.0)
    assert through(edges, "c", "a") == (-25.0, -5.0)
    assert through(edges, "a", "z") is None


def test_a_message_that_came_before_its_call_returned_does_not_cut_the_truth_off() -> None:
    sent = np.arange(0, 60 * S, S // 4)
    ahead, early = 5_000_000, 2_700  # The receiver has read 2.7 µs before the sender's call returned.
    told = pa.table(
        {
            "node": pa.repeat("a", len(sent)),
            "other_node": pa.repeat("b", len(sent)),
            "sent_ns": sent,
            "received_ns": sent + ahead - early,
            "answered_ns": sent + ahead + 1_000_000,
            "heard_ns": sent + 1_000_000 - early,
        }
    )
    (found,) = clock_edges(told, [30 * S]).to_pylist()
    assert found["status"] == "ok"
    assert found["low_ns"] <= ahead <= found["high_ns"]
    assert found["high_ns"] - found["low_ns"] <= 2 * 20_000
