"""Where a request stands among its like: whether the time it took is ordinary."""

from __future__ import annotations

import pandas as pd

from dashboards import cohort, words

WITHIN_NS = 300_000_000_000
"""How far from it in time its like began."""
LEAST = 20
"""With fewer of its like nothing is said."""
ODD_RANK, ODD_RATIO = 95, 1.5
"""Beyond so many of 100 of its like, and so many times their median, a time is no longer ordinary: as `peers.py` has it."""


def said(row: pd.Series) -> str:
    """Return in a sentence whether a request's time is ordinary, by those of its path and model that began near it.

    `row` is of view `request`. Times are those at its server, or at its client where no server was seen, as its like's are.
    Raises StoreError.
    """
    others = cohort.like(row, WITHIN_NS)
    alike = others.loc[others["side"] == row["side"], "duration_ns"].dropna().astype(float)
    return among(row["duration_ns"], alike, str(row["side"]))


def among(own_ns: int | None, others_ns: pd.Series, side: str = "server") -> str:
    """Return in a sentence where a duration at its client or server stands among others, all in ns."""
    if words.missing(own_ns) or len(others_ns) < LEAST:
        return f"Fewer than {LEAST} like it are known within 5 minutes: whether its time is ordinary cannot be said."
    own, middle = float(own_ns or 0), float(others_ns.median())
    rank, below = (
        int(100 * part.mean()) for part in (others_ns < own, others_ns > own)
    )  # Rounded down: 100 is all of them.
    if below >= ODD_RANK:
        usual, than, rank = "", "shorter", below
    else:
        usual, than = "ordinary: " if rank < ODD_RANK else "", "longer"
    others = "all" if rank == 100 else f"{rank} % of"
    near = max(own, middle) < ODD_RATIO * max(min(own, middle), 1.0)
    much = "but not by much: their" if rank >= ODD_RANK and near else "whose"
    return (
        f"Its {words.duration(own)} at the {side} are {usual}{than} than {others} {len(others_ns):,} like it "
        f"within 5 minutes, {much} median is {words.duration(middle)}."
    )
