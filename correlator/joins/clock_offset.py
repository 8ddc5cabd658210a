"""How far one node's clock is ahead of another's: bounds, from messages that both ends stamped.

θ = clock of B − clock of A. A message from A to B cannot arrive before it was sent: θ ≤ received(B) − sent(A). One from B
to A bounds it from below. Within a window θ is nearly a line (two quartzes drift apart evenly), so the bounds are the
extremes, at the moment asked, of all lines between the upper and the lower points: a linear program in two variables, solved
exactly over the vertices of its hulls [Moon, Skelly and Towsley, INFOCOM 1999; Zhang, Liu and Xia, INFOCOM 2002]. Where no
line fits, a clock was slewed or stepped or a match is false: then θ is only held to drift no faster than quartzes do, and
where that does not fit either (a step), the window is cut. Half the asymmetry of the path is inside the bounds and no
software can take it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from correlator.joins.attribution import Bool, Int64

Float = NDArray[np.float64]

WINDOW_NS = 30_000_000_000
"""Half the window around the moment asked."""
FASTEST_DRIFT = 200e-6
"""Drift that no healthy clock passes, slewing included is 500 ppm: a line steeper than this is not considered."""
DRIFT = 50e-6
"""Drift that the Lipschitz bound grants: between two free quartzes (data sheets: ±20 to ±50 ppm)."""
LEAST_POINTS = 3
_FALSE_RATIO = 0.01
_BIN_NS = 250_000_000
_TOLERANCE_NS = 0.5


@dataclass(frozen=True, slots=True)
class Points:
    """Bounds on θ at moments of A's clock, in ns: from above (messages A to B) or from below (B to A)."""

    at: Int64
    bound: Int64


@dataclass(frozen=True, slots=True)
class Offset:
    """θ around one moment: low ≤ θ ≤ high, in ns; `status` and `method` in the words of `clock_edge`."""

    low: float
    high: float
    drift_ppb: int
    forward: int
    reverse: int
    status: str
    method: str


UNKNOWN = Offset(-np.inf, np.inf, 0, 0, 0, "unknown", "prior")


def forward(sent_a: Int64, received_b: Int64) -> Points:
    """Return upper bounds on θ from messages that A sent and B received, each on its own clock."""
    return Points(sent_a, received_b - sent_a)


def reverse(sent_b: Int64, received_a: Int64) -> Points:
    """Return lower bounds on θ from messages that B sent and A received."""
    return Points(received_a, sent_b - received_a)


def offset(upper: Points, lower: Points, at_ns: int, prior: tuple[float, float] | None = None) -> Offset:
    """Return bounds on θ at `at_ns` of A's clock. `prior` is what NTP or PTP grants: bounds outside it are infeasible."""
    found = _from_messages(_near(upper, at_ns), _near(lower, at_ns), at_ns)
    if prior is None:
        return found
    if found.status == "unknown":
        return Offset(*prior, 0, found.forward, found.reverse, "prior_only", "prior")
    low, high = max(found.low, prior[0]), min(found.high, prior[1])
    if low > high:
        return Offset(found.low, found.high, found.drift_ppb, found.forward, found.reverse, "infeasible", found.method)
    return Offset(low, high, found.drift_ppb, found.forward, found.reverse, found.status, found.method)


def _near(points: Points, at_ns: int) -> Points:
    keep = np.abs(points.at - at_ns) <= WINDOW_NS
    return Points(points.at[keep], points.bound[keep])


def _from_messages(upper: Points, lower: Points, at_ns: int) -> Offset:
    counts = (len(upper.at), len(lower.at))
    if min(counts) < LEAST_POINTS:
        return Offset(-np.inf, np.inf, 0, *counts, "unknown", "linear_program")
    line = _line_bounds(upper, lower, at_ns)
    if line:
        return Offset(*line, *counts, "ok", "linear_program")
    kept_upper, kept_lower = _without_false(upper, lower)
    if len(kept_upper.at) + len(kept_lower.at) < sum(counts):
        line = _line_bounds(kept_upper, kept_lower, at_ns)
        if line:
            return Offset(*line, *counts, "ok", "linear_program")
    low, high = _lipschitz(kept_upper, kept_lower, at_ns)
    if low <= high and _steady(kept_upper, kept_lower):
        return Offset(low, high, 0, *counts, "ok", "lipschitz")
    line = _split(kept_upper, kept_lower, at_ns)
    if line:
        return Offset(*line, *counts, "split", "linear_program")
    return Offset(low, high, 0, *counts, "infeasible", "lipschitz")


def _line_bounds(upper: Points, lower: Points, at_ns: int) -> tuple[float, float, int] | None:
    """Return least and greatest value at `at_ns` of lines between the points, and their middle drift; None without any."""
    if min(len(upper.at), len(lower.at)) < LEAST_POINTS:
        return None
    base = int(upper.bound.min())
    top, bottom = _hull(_thinned(upper, 1), at_ns, base, 1), _hull(_thinned(lower, -1), at_ns, base, -1)
    points = np.concatenate([top, bottom])
    slopes = _candidate_slopes(points)
    one = np.repeat(points, slopes.shape[1], axis=0)
    flat = slopes.reshape(-1)
    value = one[:, 1] - flat * one[:, 0]
    fits = _fits(value, flat, top, bottom)
    if not fits.any():
        return None
    value, flat = value[fits], flat[fits]
    return float(value.min() + base), float(value.max() + base), round((flat.min() + flat.max()) / 2)


def _candidate_slopes(points: Float) -> Float:
    """Return for each hull point the slopes, in ns per s, of the lines to all others and of the fastest drifts."""
    across = points[None, :, 0] - points[:, None, 0]
    rise = points[None, :, 1] - points[:, None, 1]
    fastest = FASTEST_DRIFT * 1e9
    slopes = np.divide(rise, across, out=np.full_like(rise, fastest), where=across != 0)
    extremes = np.tile([fastest, -fastest], (len(points), 1))
    every: Float = np.clip(np.concatenate([slopes, extremes], axis=1), -fastest, fastest)
    return every


def _fits(value: Float, slope: Float, top: Float, bottom: Float) -> Bool:
    above = value[:, None] + slope[:, None] * top[None, :, 0] <= top[None, :, 1] + _TOLERANCE_NS
    below = value[:, None] + slope[:, None] * bottom[None, :, 0] >= bottom[None, :, 1] - _TOLERANCE_NS
    return np.asarray(above.all(axis=1) & below.all(axis=1))


def _thinned(points: Points, sign: int) -> Points:
    """Return the tightest point of each quarter second: leaving points out can only widen the bounds."""
    order = np.lexsort((sign * points.bound, points.at // _BIN_NS))
    bins = points.at[order] // _BIN_NS
    first = order[np.concatenate([[True], np.diff(bins) != 0])]
    return Points(points.at[first], points.bound[first])


def _hull(points: Points, at_ns: int, base: int, sign: int) -> Float:
    """Return the hull that lines meet first, as (s from the moment asked, ns above base): from below for upper points."""
    x = (points.at - at_ns) / 1e9
    y = sign * (points.bound - base).astype(np.float64)
    kept: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(kept) > 1 and _turns_down(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return np.array([(a, sign * b) for a, b in kept])


def _turns_down(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    return (middle[0] - first[0]) * (last[1] - first[1]) <= (middle[1] - first[1]) * (last[0] - first[0])


def _without_false(upper: Points, lower: Points) -> tuple[Points, Points]:
    """Return the points without the few that contradict two or more others each, even at the fastest drift."""
    gap = np.abs(upper.at[:, None] - lower.at[None, :]) * FASTEST_DRIFT
    contradicts = upper.bound[:, None] + gap < lower.bound[None, :]
    bad_upper, bad_lower = contradicts.sum(axis=1) >= 2, contradicts.sum(axis=0) >= 2
    if bad_upper.sum() < bad_lower.sum():
        bad_lower = contradicts[~bad_upper].sum(axis=0) >= 2
    else:
        bad_upper = contradicts[:, ~bad_lower].sum(axis=1) >= 2
    most = max(1, int(_FALSE_RATIO * (len(bad_upper) + len(bad_lower))))
    if bad_upper.sum() + bad_lower.sum() > most:
        return upper, lower
    return Points(upper.at[~bad_upper], upper.bound[~bad_upper]), Points(lower.at[~bad_lower], lower.bound[~bad_lower])


def _split(upper: Points, lower: Points, at_ns: int) -> tuple[float, float, int] | None:
    """Return the bounds of the longest part of the window, on one side of a cut, that holds the moment and has a line."""
    for part in (0.75, 0.5, 0.33, 0.2):
        for before, after in ((1.0, part), (part, 1.0), (part, part)):
            low, high = at_ns - before * WINDOW_NS, at_ns + after * WINDOW_NS
            inside = [Points(p.at[k], p.bound[k]) for p in (upper, lower) for k in [(p.at >= low) & (p.at <= high)]]
            line = _line_bounds(inside[0], inside[1], at_ns)
            if line:
                return line
    return None


def _steady(upper: Points, lower: Points) -> bool:
    """Return whether all of the window can be true of clocks that drift apart no faster than `DRIFT`: nothing stepped."""
    gap = np.abs(upper.at[:, None] - lower.at[None, :]) * DRIFT
    return bool((upper.bound[:, None] + gap >= lower.bound[None, :]).all())


def _lipschitz(upper: Points, lower: Points, at_ns: int) -> tuple[float, float]:
    """Return bounds on θ when it may wander, but no faster than `DRIFT`."""
    high = (upper.bound + DRIFT * np.abs(upper.at - at_ns)).min()
    low = (lower.bound - DRIFT * np.abs(lower.at - at_ns)).max()
    return float(low), float(high)


def through(offsets: dict[tuple[str, str], tuple[float, float]], a: str, b: str) -> tuple[float, float] | None:
    """Return bounds on clock of b − clock of a by the chain of nodes whose bounds are tightest in sum; None if none leads.

    Intervals add along a chain (Dijkstra over widths).
    """
    widths: dict[str, tuple[float, float, float]] = {a: (0.0, 0.0, 0.0)}
    done: set[str] = set()
    while len(done) < len(widths):
        node = min((n for n in widths if n not in done), key=lambda n: widths[n][0])
        done.add(node)
        for (one, other), (low, high) in offsets.items():
            for start, end, least, most in ((one, other, low, high), (other, one, -high, -low)):
                width, so_low, so_high = widths[node]
                if start == node and end not in done and width + most - least < widths.get(end, (np.inf,))[0]:
                    widths[end] = (width + most - least, so_low + least, so_high + most)
    return widths[b][1:] if b in widths else None
