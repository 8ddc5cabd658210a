"""What differs: the property that sets requests apart is found, and chance is not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dashboards import differs


def requests(count: int, pod: str, size: float, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    sizes, chunks = random.normal(size, 50, count), random.integers(5, 90, count)
    return pd.DataFrame({"pod": pod, "path": "/v1/chat/completions", "request_bytes": sizes, "chunks": chunks})


def test_the_pod_that_all_slow_requests_share_comes_first() -> None:
    ranked = differs.rank(
        requests(40, "slow-pod", 1000, 1), pd.concat([requests(200, "a", 1000, 2), requests(200, "b", 1000, 3)])
    )
    assert ranked["property"].iloc[0] == "pod = slow-pod"
    assert ranked["difference"].iloc[0] == 1.0


def test_longer_prompts_are_told_with_both_medians() -> None:
    ranked = differs.rank(requests(60, "a", 5000, 1), requests(300, "a", 1000, 2))
    assert ranked["property"].iloc[0] == "request bytes (median)"
    assert ranked["chosen"].iloc[0].endswith("kB")


def test_two_draws_of_the_same_requests_do_not_differ() -> None:
    assert differs.rank(requests(400, "a", 1000, 1), requests(400, "a", 1000, 2)).empty


def test_a_handful_says_nothing() -> None:
    assert differs.rank(requests(3, "x", 9000, 1), requests(300, "a", 1000, 2)).empty
