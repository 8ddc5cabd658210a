"""Numbers and outcomes in words."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards import words


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
