"""What differs between a request and its peers, in sentences: by itself, and by the pod, the GPU and the model it had.

Its peers are the answered requests of its path and model that began near it, the nearest 1,000 within five minutes (view
`request_peer`); each sentence says how many they were. A difference of its own is told where it lies beyond 95 of 100
peers and half as much again as their middle; one of those that had its pod, its GPU or its model where both sides are ten
or more, their medians are as far apart, and the rank test of Mann and Whitney leaves less than one chance in a hundred for
all comparisons together. It is a difference, never a cause: whoever reads it is told what else differed, and no time of the
request is weighed by it.
"""

from __future__ import annotations

import math
from typing import Any

from correlator.around import Cause, milliseconds

Row = dict[str, Any]
Key = tuple[str, str | None]
"""A group: the property that its requests share with the one, and the property that both sides share."""

LEAST_PEERS = 10
"""Requests on each side, before a difference says anything."""
LEAST_RATIO = 1.5
_CHANCE = 0.01
_COMPARISONS = 18
"""Six groups in three measures: each may be told by chance."""
_NOTED = 1.25
"""From which ratio on it is told that the groups' prompts or answers differed, too."""


def differences(rows: list[Row], evidence: str, within_ns: int) -> list[Cause]:
    """Return what differs, as rows of `request_peer` tell it, what is most first; `evidence` is that of its engine steps.

    `within_ns` is how far from the request its peers began. `Cause.ns` is what it has beyond their median, in ns.
    """
    own = {row["measure"]: row for row in rows if row["property"] is None}
    found = [*_of_itself(own, evidence), *_of_groups(rows, own, within_ns)]
    return sorted(found, key=lambda each: -each.ns)


def token_energy(rows: list[Row]) -> tuple[float | None, float | None, int]:
    """Return its energy per output token in J, the median of its peers where they are enough, and how many those are."""
    row = next((r for r in rows if r["property"] is None and r["measure"] == "token_j"), None)
    if row is None:
        return None, None, 0
    return row["own"], row["peers_p50"] if row["peers"] >= LEAST_PEERS else None, row["peers"]


# Its own


def _of_itself(own: dict[str, Row], evidence: str) -> list[Cause]:
    odd = {name: row for name, row in own.items() if _stands_out(row)}
    found = [*_until_first_token(odd), *_after_it(odd, own)]
    if not found and "duration_ns" in odd:  # Else its parts tell it.
        found.append(_time("time at its server", odd["duration_ns"]))
    return [*found, *_per_step(odd, evidence)]


def _until_first_token(odd: dict[str, Row]) -> list[Cause]:
    found = []
    if "queue_ns" in odd:
        found.append(_time("queue", odd["queue_ns"]))
    if "prefill_ns" in odd:
        found.append(_time("prefill", odd["prefill_ns"], odd.get("prompt_tokens"), "its prompt has"))
    elif "prompt_tokens" in odd:
        found.append(Cause(f"its prompt has {_tokens(odd['prompt_tokens'])}", 0, "exact", _rank(odd["prompt_tokens"])))
    if not {"queue_ns", "prefill_ns"} & odd.keys() and "ttft_ns" in odd:  # Else it would be told twice.
        found.append(_time("time to first token", odd["ttft_ns"]))
    return found


def _after_it(odd: dict[str, Row], own: dict[str, Row]) -> list[Cause]:
    found = []
    if "token_ns" in odd:
        found.append(_time("time per output token", odd["token_ns"], tokens=_steps_after_first(own)))
    elif "decode_ns" in odd:
        return [_time("decode", odd["decode_ns"], odd.get("output_tokens"), "its answer has")]
    if "output_tokens" in odd:
        found.append(Cause(f"its answer has {_tokens(odd['output_tokens'])}", 0, "exact", _rank(odd["output_tokens"])))
    return found


def _per_step(odd: dict[str, Row], evidence: str) -> list[Cause]:
    found = []
    if "batch" in odd:
        row = odd["batch"]
        text = (
            f"its decode steps had {row['own']:.3g} requests on average; those of half of {row['peers']} peers had"
            f" {row['peers_p50']:.3g} or fewer, of 95 of 100 {row['peers_p95']:.3g} or fewer"
        )
        found.append(Cause(text, 0, evidence, "step ledger; " + _rank(row)))
    if "token_j" in odd:
        row = odd["token_j"]
        text = (
            f"it took {row['own']:.3g} J per output token; half of {row['peers']} peers took {row['peers_p50']:.3g} J or"
            f" less, 95 of 100 {row['peers_p95']:.3g} J or less"
        )
        found.append(Cause(text, 0, "estimated", "its share of busy time × power; " + _rank(row)))
    return found


def _stands_out(row: Row) -> bool:
    own, middle, high = row["own"], row["peers_p50"], row["peers_p95"]
    return (
        None not in (own, middle, high) and row["peers"] >= LEAST_PEERS and own > high and own >= LEAST_RATIO * middle
    )


def _time(name: str, row: Row, length: Row | None = None, has: str = "", tokens: float = 1) -> Cause:
    own, middle, high = (milliseconds(row[key]) for key in ("own", "peers_p50", "peers_p95"))
    text = f"its {name} is {own}; half of {row['peers']} peers have {middle} or less, 95 of 100 {high} or less"
    if length is not None:
        text += f"; {has} {_tokens(length)}"
    return Cause(text, int((row["own"] - row["peers_p50"]) * tokens), "exact", _rank(row))


def _tokens(row: Row) -> str:
    return (
        f"{row['own']:.0f} tokens; half of {row['peers']} peers have {row['peers_p50']:.0f} or fewer,"
        f" 95 of 100 {row['peers_p95']:.0f} or fewer"
    )


def _steps_after_first(own: dict[str, Row]) -> float:
    """Return how many of its tokens took that long."""
    row = own.get("output_tokens")
    return max(float(row["own"] or 1) - 1, 1) if row else 1


def _rank(row: Row) -> str:
    return f"its rank among {row['peers']} peers"


# Of those that had its pod, its GPU, its model

_SAID = {
    "duration_ns": "took {} times as long as",
    "token_ns": "took {} times as long per output token as",
    "ttft_ns": "waited {} times as long for their first token as",
}
_GROUP = {"model": "model", "pod": "pod", "prefill": "pod", "gpu": "GPU"}
_SAME = ("measure", "own", "own_requests", "peers_p50", "peers")
"""What agrees where the requests of two groups are the same."""
_BY = {"model": "for model {}", "pod": "served by {}", "prefill": "whose prefill was in {}", "gpu": "served by {}"}


def _of_groups(rows: list[Row], own: dict[str, Row], within_ns: int) -> list[Cause]:
    groups: dict[Key, dict[str, Row]] = {}
    for row in rows:
        if row["property"] is not None:
            groups.setdefault((row["property"], row["within"]), {})[row["measure"]] = row
    odd = {key: chosen for key, each in groups.items() if (chosen := _longer(each, own))}
    return [_sentence(key, row, groups[key], within_ns) for key, row in _once(odd, groups)]


def _longer(group: dict[str, Row], own: dict[str, Row]) -> Row | None:
    """Return the measure by which a group's requests were longer, this one among them; what does not depend on how much was
    asked for comes first where the groups' answers were not alike."""
    alike = _ratio(group.get("output_tokens")) < _NOTED
    order = ("duration_ns", "token_ns", "ttft_ns") if alike else ("token_ns", "ttft_ns", "duration_ns")
    for name in order:
        row, mine = group.get(name), own.get(name)
        if row is None or mine is None or min(row["own_requests"], row["peers"]) < LEAST_PEERS or row["z"] is None:
            continue
        certain = _confidence(row["z"]) >= 1 - _CHANCE
        if certain and _ratio(row) >= LEAST_RATIO and (mine["own"] or 0) >= _NOTED * row["peers_p50"]:
            return row
    return None


def _once(odd: dict[Key, Row], groups: dict[Key, dict[str, Row]]) -> list[tuple[Key, Row]]:
    """Return the groups to tell: of a pod and a GPU whose requests are the same, or of which one has several of the other,
    that one which says where the difference lies."""
    chosen: list[tuple[Key, Row]] = [(key, odd[key]) for key in (("model", None), ("prefill", None)) if key in odd]
    for inner, outer in (("gpu", "pod"), ("pod", "gpu")):
        if _enough(groups.get((inner, outer))):  # The outer one has several of the inner.
            if (inner, outer) in odd:
                return [*chosen, ((inner, outer), odd[(inner, outer)])]
            return [*chosen, *([((outer, None), odd[(outer, None)])] if (outer, None) in odd else [])]
    both: list[tuple[Key, Row]] = [((name, None), odd[(name, None)]) for name in ("pod", "gpu") if (name, None) in odd]
    if len(both) == 2 and all(both[0][1][name] == both[1][1][name] for name in _SAME):
        named = f"{both[0][1]['value']} ({both[1][1]['value']})"
        return [*chosen, (both[0][0], {**both[0][1], "value": named})]
    return chosen + sorted(both, key=lambda each: -each[1]["z"])[:1]


def _enough(group: dict[str, Row] | None) -> bool:
    row = (group or {}).get("duration_ns")
    return row is not None and min(row["own_requests"], row["peers"]) >= LEAST_PEERS


def _sentence(key: Key, row: Row, group: dict[str, Row], within_ns: int) -> Cause:
    name, within = key
    others = f"the other {row['others']} {_GROUP[name]}s" if row["others"] > 1 else f"the other {_GROUP[name]}"
    whole = (
        {None: "of its model", "pod": "of its pod", "gpu": "on its GPU"}[within] if name != "model" else "of its path"
    )
    text = (
        f"requests {_BY[name].format(row['value'])} {_SAID[row['measure']].format(f'{_ratio(row):.2g}')} those of {others}"
        f" {whole}, within {milliseconds(within_ns)} of it: median {milliseconds(row['own'])} of {row['own_requests']}"
        f" against {milliseconds(row['peers_p50'])} of {row['peers']}"
    )
    for tokens, what in (("prompt_tokens", "prompts"), ("output_tokens", "answers")):
        if _ratio(group.get(tokens)) >= _NOTED:
            said = group[tokens]
            text += f"; their {what} were longer, too: median {said['own']:.0f} tokens against {said['peers_p50']:.0f}"
    method = f"Mann-Whitney test, z = {row['z']:.1f}, of {_COMPARISONS} comparisons"
    tokens_each = group["output_tokens"]["own"] - 1 if row["measure"] == "token_ns" else 1
    return Cause(text, int((row["own"] - row["peers_p50"]) * tokens_each), "estimated", method, _confidence(row["z"]))


def _ratio(row: Row | None) -> float:
    return row["own"] / row["peers_p50"] if row and row["own"] is not None and row["peers_p50"] else 1.0


def _confidence(z: float) -> float:
    """Return how sure it is that a group's values are the greater ones: one-sided, Bonferroni's for all comparisons."""
    return min(max(1 - _COMPARISONS * math.erfc(z / math.sqrt(2)) / 2, 0.0), 0.9999)
