"""A client on another node: how much longer it waited is known without its clock, on which way within the clocks' bounds."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from correlator.crossing import crossed

MS, S = 1_000_000, 1_000_000_000
SERVED = {
    "node": "server", "start_ns": 100 * S, "end_ns": 100 * S + 90 * MS, "proxies": 0, "evidence": "exact",
    "client_node": "client", "client_start_ns": 99 * S - 4 * MS, "client_end_ns": 99 * S + 96 * MS,
}  # fmt: skip
"""The client's clock is 1 s behind; its request took 4 ms to the server, the answer 6 ms back."""


def bounded(low: float, high: float, away_s: float = 0, turned: bool = False, status: str = "ok") -> dict[str, Any]:
    """What the server's clock is ahead of the client's, in ms, or the other way round; known `away_s` before."""
    nodes = {"node": "server", "other_node": "client"} if turned else {"node": "client", "other_node": "server"}
    ends = (-high, -low) if turned else (low, high)
    return nodes | {"low_ns": int(ends[0] * MS), "high_ns": int(ends[1] * MS), "status": status} | {
        "time_ns": 100 * S - int(away_s * S)
    }  # fmt: skip


def told(found: dict[str, Any], *edges: dict[str, Any]) -> list[tuple[str, tuple[int, int] | None]]:
    def view(name: str, **asked: Any) -> pa.Table:
        assert (name, asked) == ("timeline_clock", {"at_ns": found["start_ns"], "nodes": ["client", "server"]})
        return pa.Table.from_pylist(list(edges))

    return [(cause.sentence, cause.error_ns) for cause in crossed(view, found)]


@pytest.mark.parametrize("turned", [False, True])
def test_each_way_is_told_within_the_bounds_of_the_clocks(turned: bool) -> None:
    assert told(SERVED, bounded(999, 1002, turned=turned)) == [
        (
            "its client, on node client, waited 10 ms more than its server worked: the way there and back;"
            " there it took 2 ms to 5 ms, back 5 ms to 8 ms",
            (2 * MS, 5 * MS),
        )
    ]


def test_a_bound_of_a_while_ago_is_wider_by_what_clocks_drift() -> None:
    ((_, bounds),) = told(SERVED, bounded(999, 1002, away_s=10))
    assert bounds == (2 * MS - 500_000, 5 * MS + 500_000)


def test_no_way_takes_less_than_no_time_or_more_than_both() -> None:
    ((text, bounds),) = told(SERVED, bounded(990, 1010))
    assert bounds == (0, 10 * MS)
    assert text.endswith("there it took 0 ms to 10 ms, back 0 ms to 10 ms")


@pytest.mark.parametrize("edges", [(), (bounded(999, 1002, status="infeasible"),), (bounded(1010, 1020),)])
def test_without_bounds_or_with_such_as_cannot_be_only_the_sum_is_told(edges: tuple[dict[str, Any], ...]) -> None:
    assert told(SERVED, *edges) == [
        ("its client, on node client, waited 10 ms more than its server worked: the way there and back", None)
    ]


def test_proxies_on_the_way_are_said() -> None:
    ((text, _),) = told(SERVED | {"proxies": 2})
    assert text.endswith("the way through 2 proxies there and back")


@pytest.mark.parametrize(
    "other",
    [{"client_node": "server"}, {"client_node": None}, {"client_end_ns": None}, {"client_end_ns": 99 * S + 90 * MS}],
)
def test_nothing_is_told_of_a_client_that_is_near_unknown_or_hardly_slower(other: dict[str, Any]) -> None:
    assert told(SERVED | other) == []
