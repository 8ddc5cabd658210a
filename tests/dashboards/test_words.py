"""Numbers and outcomes in words."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards import request_way, words


@pytest.mark.parametrize(
    ("status", "ended_by", "still_open", "grpc_status", "said"),
    [
        (200, "complete", False, None, ("200", "green")),
        (503, "complete", False, None, ("503", "red")),
        (200, "abort", False, None, ("200 aborted", "orange")),
        (200, "complete", False, 0, ("gRPC 0", "green")),
        (200, "complete", False, 14, ("gRPC 14", "red")),
        (200, "complete", True, None, ("open", "blue")),
        (None, "abort", False, None, ("no response seen", "gray")),
    ],
)
def test_an_outcome_is_told_by_the_status_that_says_most(
    status: Any, ended_by: str, still_open: bool, grpc_status: Any, said: tuple[str, str]
) -> None:
    assert words.outcome(status, ended_by, still_open, grpc_status) == said


def test_a_difference_has_its_sign() -> None:
    assert [words.change(each) for each in (1_200_000_000, -26_500_000_000, 0, float("nan"))] == [
        "+1.20 s",
        "−26.5 s",
        "0 s",
        "–",
    ]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("http_exchange", "node-1/71/0/client", "client's socket on node-1, 71/0"),
        ("hop", "node-1/ingress/1790000000/7b3f2a10-44aa-4c1e-9f00-0000000000aa", "access log of ingress on node-1"),
        ("engine_step", f"208 steps of cmpl-{'7' * 24}-deadbeef", "208 steps of cmpl-777777777…adbeef"),
        ("launch", "83188 launches of node-1:523:4303", "83,188 launches of node-1:523:4303"),
        ("gpu_kernel", "512 executions on GPU-5e1f0000-aaaa-bbbb-cccc-000000000000", "512 executions on GPU-5e1f…0000"),
        ("gpu_kernel", "GPU-5e1f0000-aaaa-bbbb-cccc-000000000000", "GPU-5e1f…0000"),
        ("process", "node-1:523:4303", "process node-1:523:4303"),
        ("attempt", "r-1", "request r-1"),
    ],
)
def test_an_end_of_an_edge_is_told_in_words_and_its_ids_fit_a_cell(kind: str, name: str, said: str) -> None:
    assert request_way.said(kind, name) == said
