"""What differs: which property of a request tells a chosen set of requests from all the others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dashboards import words

CATEGORIES = ("pod", "node", "path", "method", "status", "model", "side", "client_node", "ended_by", "evidence")
NUMBERS = ("request_bytes", "bytes", "chunks", "retransmits", "longest_gap_ns", "ttft_ns", "duration_ns")
LEAST = 5
"""Requests that both sides must have, before a difference says anything."""


def rank(chosen: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Return properties by how well they tell `chosen` from `others`, the best first: property, chosen, others, difference.

    Of a category's value the difference is that of its shares; of a number it is how much surer than a coin one can say
    from it which side a request is of (twice the area under the ROC curve, less one). Both lie from 0 to 1. Empty where
    either side has fewer than `LEAST` requests. A difference is a hint where to look, never a cause.
    """
    if min(len(chosen), len(others)) < LEAST:
        return pd.DataFrame(columns=["property", "chosen", "others", "difference"])
    rows = [row for name in CATEGORIES if name in chosen for row in _category(name, chosen[name], others[name])]
    rows += [row for name in NUMBERS if name in chosen for row in _number(name, chosen[name], others[name])]
    found = pd.DataFrame(rows, columns=["property", "chosen", "others", "difference"])
    return found[found["difference"] >= 0.1].sort_values(
        "difference", ascending=False, kind="stable", ignore_index=True
    )


def _category(name: str, chosen: pd.Series, others: pd.Series) -> list[tuple[str, str, str, float]]:
    shares = pd.concat(
        [each.astype("string").fillna("none").value_counts(normalize=True) for each in (chosen, others)],
        axis=1,
        keys=["chosen", "others"],
    ).fillna(0.0)
    best = (shares["chosen"] - shares["others"]).nlargest(2)
    return [
        (
            f"{name.replace('_', ' ')} = {value}",
            f"{100 * shares['chosen'][value]:.0f} %",
            f"{100 * shares['others'][value]:.0f} %",
            float(by),
        )
        for value, by in best.items()
    ]


def _number(name: str, chosen: pd.Series, others: pd.Series) -> list[tuple[str, str, str, float]]:
    left, right = (each.dropna().astype(float).to_numpy() for each in (chosen, others))
    if min(len(left), len(right)) < LEAST:
        return []
    ordered = np.sort(right)
    below, upto = np.searchsorted(ordered, left, "left"), np.searchsorted(ordered, left, "right")
    area = float((below + upto).mean() / 2 / len(right))
    say = words.duration if name.endswith("_ns") else words.size if name.endswith("bytes") else words.count
    title = f"{name.removesuffix('_ns').replace('_', ' ')} (median)"
    return [(title, say(np.median(left)), say(np.median(right)), abs(2 * area - 1))]
