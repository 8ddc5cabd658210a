"""How right an estimate is: GPU-time-weighted precision and recall of who was in which step, and GPU time given wrongly.

GPU time is scored twice. With `same` weights the truth shares each step's executions by the estimator's own rule, over the
members that were really there: only membership can be wrong. With `own` costs it is what each member cost the engine in its
own model, which no estimator knows: what is wrong then includes the rule itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from correlator.joins.attribution import CLASS_OF_KERNEL, DENSE, Measured, Owners, share

Tables = dict[str, pa.Table]
_WIDTH = np.int64(1 << 32)


@dataclass(frozen=True)
class Accuracy:
    precision: float
    recall: float
    misallocated: float
    """Share of all GPU time that went to a request which did not cause it."""
    median_error: float
    p95_error: float
    """Of one request's GPU time, as a share of it."""
    unattributed: float
    own_misallocated: float
    """The same by the engine's own costs."""
    own_p95_error: float
    wrong_exact: int
    """Rows called exact that are not in the truth with the same number of tokens."""
    calibration_error: float
    conserved: bool
    """True where what was given sums to what was measured, to the ns."""


def score(truth: Tables, found: Tables) -> Accuracy:
    """Compare an estimate's `share` and `member` with the truth."""
    names, code = np.unique(truth["member"]["internal_id"].to_pylist(), return_inverse=True)
    step = truth["member"]["step"].to_numpy()
    length = truth["step"]["end_ns"].to_numpy() - truth["step"]["start_ns"].to_numpy()
    was = step * _WIDTH + code
    rows = said(truth, found)
    weigh = lambda keys: float(length[keys // _WIDTH].sum())  # noqa: E731
    both = weigh(rows.key[rows.known])
    total = int(truth["kernel"]["ns"].to_numpy().sum())
    given, lost = _given(found["share"], names)
    same, own = _same_weights(truth, code, len(names)), np.bincount(code, truth["member"]["cost_ns"].to_numpy())
    right = dict(zip(was.tolist(), truth["member"]["scheduled_tokens"].to_pylist(), strict=True))
    claims = zip(rows.key[rows.exact].tolist(), rows.tokens[rows.exact].tolist(), strict=True)
    wrong_exact = sum(right.get(key) != tokens for key, tokens in claims)
    errors, own_errors = np.abs(given - same) / same, np.abs(given - own) / own
    return Accuracy(
        precision=both / max(weigh(rows.key), 1),
        recall=both / max(weigh(was), 1),
        misallocated=float(np.maximum(given - same, 0).sum() / total),
        median_error=float(np.median(errors)),
        p95_error=float(np.percentile(errors, 95)),
        unattributed=lost / total,
        own_misallocated=float(np.maximum(given - own, 0).sum() / total),
        own_p95_error=float(np.percentile(own_errors, 95)),
        wrong_exact=int(wrong_exact),
        calibration_error=calibration(rows.sure, rows.known) if "member" in found else 0.0,
        conserved=given.sum() + lost == total,
    )


def calibration(sure: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error: how far stated confidence is from the share of rows that are right."""
    places = np.minimum((sure * 10).astype(int), 9)
    gaps = [abs(sure[places == p].mean() - right[places == p].mean()) * (places == p).mean() for p in np.unique(places)]
    return float(sum(gaps))


@dataclass(frozen=True)
class Said:
    """The (step, request) pairs that an estimate names."""

    key: np.ndarray
    tokens: np.ndarray
    sure: np.ndarray
    exact: np.ndarray
    known: np.ndarray
    """True where the truth has the pair."""


def said(truth: Tables, found: Tables) -> Said:
    """Return who the estimate says was in which step; steps are told apart by when they ended, or by their number."""
    names, code = np.unique(truth["member"]["internal_id"].to_pylist(), return_inverse=True)
    was = truth["member"]["step"].to_numpy() * _WIDTH + code
    rows = found.get("member")
    if rows is None:
        share = found["share"]
        if "step_ordinal" in share.column_names:
            share = share.filter(pa.compute.is_valid(share["step_ordinal"]))
        step = np.searchsorted(truth["step"]["start_ns"].to_numpy(), share["time_ns"].to_numpy(), side="right") - 1
        who = _codes(share["owner"], names)
        key = np.unique((step * _WIDTH + who)[(who >= 0) & (step >= 0)])
        nothing = np.zeros(len(key), np.int64)
        return Said(key, nothing, nothing + 1.0, nothing > 0, np.isin(key, was))
    step = np.searchsorted(truth["step"]["end_ns"].to_numpy(), rows["time_ns"].to_numpy(), side="right") - 1
    plugin = np.array(rows["level"].cast(pa.string()).to_pylist()) == "plugin"
    step = np.maximum(np.where(plugin, rows["step_ordinal"].to_numpy(), step), 0)
    who = _codes(rows["internal_id"], names)
    sure = np.where(plugin, 1.0, rows["confidence"].fill_null(1.0).to_numpy())
    exact = np.array(rows["evidence"].cast(pa.string()).to_pylist()) == "exact"
    key = step * _WIDTH + who
    return Said(key, rows["scheduled_tokens"].to_numpy(), sure, exact, np.isin(key, was))


def _codes(owners: pa.ChunkedArray, names: np.ndarray) -> np.ndarray:
    """Return the place of each owner in `names`, by its whole id or by that which the API server gave it; -1 for none."""
    place = {name: i for i, name in enumerate(names.tolist())}
    place |= {name.rpartition("-")[0]: i for name, i in place.items()}
    encoded = pa.compute.dictionary_encode(owners.cast(pa.string())).combine_chunks()
    codes = np.array([place.get(name, -1) for name in encoded.dictionary.to_pylist()] or [-1])
    return codes[encoded.indices.to_numpy()]


def _given(share: pa.Table, names: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the GPU time that each request was given, and what nobody was."""
    who, ns = _codes(share["owner"], names), share["share_ns"].to_numpy().astype(float)
    return np.bincount(who[who >= 0], ns[who >= 0], minlength=len(names)), float(ns[who < 0].sum())


def _same_weights(truth: Tables, code: np.ndarray, count: int) -> np.ndarray:
    """Return each request's GPU time when the estimator's weights share the true steps among their true members."""
    member, kernel = truth["member"], truth["kernel"]
    steps = len(truth["step"])
    order = np.lexsort((code, member["step"].to_numpy()))
    columns = (member[c].to_numpy()[order] for c in ("scheduled_tokens", "computed_before_tokens", "sampled"))
    offsets = np.searchsorted(member["step"].to_numpy()[order], np.arange(steps + 1))
    owners = Owners(offsets, code[order], *(c.astype(np.int64) for c in columns), np.zeros(len(order), np.int8))
    kinds = np.array([CLASS_OF_KERNEL.get(c, DENSE) for c in kernel["class"].to_pylist()])
    key = kernel["step"].to_numpy() * 3 + kinds
    ns = np.bincount(key, kernel["ns"].to_numpy(), minlength=steps * 3).astype(np.int64)
    where = np.flatnonzero(ns)
    zeros = np.zeros_like(where)
    measured = Measured(where // 3, zeros, where % 3, ns[where], ns[where], zeros, zeros.astype(np.int8))
    total = np.zeros(count)
    for part in share(owners, measured):
        total += np.bincount(owners.identity[part.owner], part.share_ns, minlength=count)
    return total
