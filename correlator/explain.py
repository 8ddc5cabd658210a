"""Why a request took as long as it did: where its wall time went, and what stands out, in sentences.

The way of a request is cut at the moments that its edges give: sent, received, handed to the engine, scheduled, first and
last token, answered. What lies between two of them has a name; what lies between none is unexplained and said to be. Of
what lies between two, the wait for a KV cache is a part of its own.
Findings are causes with a weight in nanoseconds of the request's own wall time, heaviest first, but for rare events that
have a name: they stand before time that merely passed (around.py). An edge that is missing is a finding too, for then less
can be explained. What differs from its peers stands apart (peers.py): it is no cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pyarrow as pa

from correlator import around, crossing, host, idle, peers, transfers
from correlator.around import Cause, Row, milliseconds
from warpline.errors import StoreError

View = Callable[..., pa.Table]
"""Asks for a view by name, parameters by keyword: `Client.view`."""

_SECOND = 1_000_000_000
_AROUND_NS = 300 * _SECOND
"""How long before and after it its peers began, at most."""
_NOTABLE = 0.05
"""Share of the wall time from which on a cause is worth a sentence."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the wall time of a request."""

    name: str
    ns: int
    evidence: str


@dataclass(frozen=True, slots=True)
class Spent:
    """What of the GPUs a request was given; None where it is not known."""

    busy_ns: int
    occupancy_ns: int
    """Busy time of the steps that it was in, all requests of theirs together."""
    energy_j: float | None
    cost: float | None
    token_j: float | None
    """Energy per output token."""
    peers_token_j: float | None
    """The median of its peers."""
    peers: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one request: its row of the view `request`, its parts in order, its causes, events first."""

    request: Row
    parts: list[Part]
    causes: list[Cause]
    differs: list[Cause]
    """What differs from its peers, by itself and by what it had in common with some of them: it weighs nothing either."""
    around: list[Cause]
    """What happened besides, near it in time, and is no reason of it as far as is known: it weighs nothing."""
    missing: list[str]
    unwatched: list[str]
    """What would explain more and was not watched; no edge of its way to the GPU."""
    spent: Spent

    @property
    def busy_ns(self) -> int:
        """Its part of the GPUs' busy time, in ns."""
        return self.spent.busy_ns

    @property
    def cost(self) -> float | None:
        """What that time costs by the setting `correlator_gpu_price`; None without a price."""
        return self.spent.cost

    @property
    def wall_ns(self) -> int:
        """From the first byte seen to the last, in ns."""
        return sum(part.ns for part in self.parts)

    @property
    def coverage(self) -> float:
        """Share of the wall time that has a name."""
        named = sum(part.ns for part in self.parts if part.name != "unexplained")
        return named / self.wall_ns if self.wall_ns else 0.0


_LATE_UNWATCHED = "why its host was late: watch the scheduler there (source sched)"


def explain(view: View, request: str) -> Explanation:
    """Return the explanation of the request that `request`, any of its ids, names. Raises StoreError if there is none."""
    rows = view("request_found", id=request).to_pylist()
    if not rows:
        raise StoreError(
            f"request {request!r}: none is known by this id; `warpline query request --order=-start_ns` lists them"
        )
    found = rows[-1]
    window = {"since_ns": found["start_ns"] - _SECOND, "until_ns": found["end_ns"] + _SECOND}
    key = found["internal_id"] or found["response_id"] or found["request_uid"]
    attempt = found["attempt_uid"]
    engine = view("request_served", id=attempt, **window).to_pylist() if attempt else []
    steps = view("request_step", request=key, **window).to_pylist()
    fetched = view("request_transfer", id=attempt, **window).to_pylist() if attempt else []
    parts = _parts(found, engine, steps, fetched)
    wall = max(sum(p.ns for p in parts), 1)
    here = {"node": found["node"], "since_ns": found["start_ns"], "until_ns": found["end_ns"]}
    near = view("request_around", request=key, **here).to_pylist()
    beside, within_ns = _peers(view, found)
    named = sum(part.ns for part in parts if part.name != "unexplained") / wall
    events, rest = around.beside(near, found, named)
    kept = view("request_host", request=key, process=found["process_uid"] or "?", **here).to_pylist()
    late = idle.causes(engine, steps, near, beside, wall)
    causes = [
        *_blamed(view("request_blame", request=key, **window).to_pylist(), _queued(parts) if fetched else None),
        *transfers.causes(fetched, sum(p.ns for p in parts if p.name == transfers.PART)),
        *around.causes(
            near, found["end_ns"] - found["start_ns"], lambda other: idle.shared(steps, engine, near, other)
        ),
        *idle.preempted(engine, steps, near),
        *host.causes(kept),
        *events,
        *late,
        *_waited(found, parts, wall),
        *_resent(found),
        *crossing.crossed(view, found),
    ]
    notable = [c for c in causes if c.ns == 0 or c.ns >= _NOTABLE * wall]
    return Explanation(
        found,
        parts,
        around.first(notable, wall),
        peers.differences(beside, around.weakest(steps), within_ns),
        rest,
        _missing(found, engine, steps),
        [_LATE_UNWATCHED] if any(each in notable for each in late) and not host.watched(kept) else [],
        _spent(view("request_share", request=key, **window).to_pylist(), steps, beside),
    )


def _peers(view: View, found: Row) -> tuple[list[Row], int]:
    """Return the request beside its peers, rows of view `request_peer`, and how far from it the farthest of them began."""
    begin = found["start_ns"]
    asked = {"request_uid": found["request_uid"]}
    near = view("request_near", **asked, since_ns=begin - _AROUND_NS, until_ns=begin + _AROUND_NS).to_pylist()
    if not near:
        return [], 0
    reach = {name: near[0][name] for name in ("since_ns", "begun_ns", "until_ns")}
    within = max(begin - reach["since_ns"], reach["begun_ns"] - 1 - begin)
    return view("request_peer", **asked, **reach).to_pylist(), within


def _spent(shares: list[Row], steps: list[Row], beside: list[Row]) -> Spent:
    energy, cost = ([s[name] for s in shares if s[name] is not None] for name in ("share_j", "cost"))
    return Spent(
        sum(s["busy_ns"] for s in shares),
        sum(s["occupancy_ns"] or 0 for s in steps),
        sum(energy) if energy else None,
        sum(cost) if cost else None,
        *peers.token_energy(beside),
    )


def _parts(found: Row, engine: list[Row], steps: list[Row], fetched: list[Row]) -> list[Part]:
    """Cut the wall time at the moments that are known, in order; a moment that is not leaves its neighbours joined."""
    known = engine[0] if len(engine) == 1 else {}
    here = found["client_node"] == found["node"]
    served = str(known.get("evidence") or "unknown")
    cuts: list[tuple[int | None, str, str]] = [
        (found["client_start_ns"] if here else None, "", ""),
        (found["start_ns"], "network to the server", str(found["evidence"])),
        (found["request_end_ns"], "receiving the request", str(found["evidence"])),
        (known.get("start_ns"), "API server before the engine", served),
        (known.get("scheduled_ns"), "queue", served),
        (known.get("first_token_ns"), "prefill", served),
        (known.get("end_ns"), "decode", served),
        (found["end_ns"], "API server after the last token" if known else "unexplained", str(found["evidence"])),
        (found["client_end_ns"] if here else None, "network to the client", str(found["evidence"])),
    ]
    parts: list[Part] = []
    last: int | None = None
    for moment, name, evidence in cuts:
        if moment is None:
            continue
        if last is not None and moment > last:
            waited = transfers.inside(fetched, last, moment)
            length = moment - last - waited
            between = _decode(length, steps, evidence) if name == "decode" else [Part(name, length, evidence)]
            between.append(Part(transfers.PART, waited, around.weakest(fetched)))
            parts += [part for part in between if part.ns]
        last = moment if last is None else max(last, moment)
    return parts


def _decode(length: int, steps: list[Row], evidence: str) -> list[Part]:
    """Cut the decode: the request's own GPU time, that of others in its steps, and the time without its steps on a GPU."""
    mine = [s for s in steps if s["phase"] != "prefill" and s["busy_ns"]]
    # Ranks work at once: of the time of the busiest GPU, what its share of all of them is.
    own = min(sum(s["busiest_ns"] * s["busy_ns"] // s["occupancy_ns"] for s in mine), length)
    others = min(sum(s["busiest_ns"] for s in mine) - own, length - own)
    parts = [
        Part("decode: own GPU time", own, evidence),
        Part("decode: others' GPU time in its steps", others, evidence),
        Part("decode: no kernel of its steps ran" if mine else "decode", length - own - others, evidence),
    ]
    return [p for p in parts if p.ns > 0]


_KINDS = {
    "queue": "it waited in the queue while the GPU worked for others",
    "prefill": "its tokens waited for the prompts of others in the same steps",
    "preemption": "it was preempted and waited while the GPU worked for others",
}


def _queued(parts: list[Part]) -> int:
    return sum(part.ns for part in parts if part.name == "queue")


def _blamed(rows: list[Row], queue_ns: int | None) -> list[Cause]:
    """Say who delayed it. Where it also waited for a KV cache, no GPU work delayed it by more than the rest, `queue_ns`."""
    causes = []
    for kind, text in _KINDS.items():
        mine = sorted(
            (r for r in rows if r["role"] == "delayed by" and r["kind"] == kind), key=lambda r: -r["delay_ns"]
        )
        total = sum(r["delay_ns"] for r in mine)
        if kind == "queue" and queue_ns is not None and total > queue_ns:
            mine = [{**r, "delay_ns": min(r["delay_ns"], queue_ns)} for r in mine]
            total = queue_ns
        if total:
            most = str(mine[0]["other"])
            if len(mine) > 1:
                most = f"{len(mine)} requests, most by {most} ({milliseconds(mine[0]['delay_ns'])})"
            method = "busy time of the steps that it waited for"
            sentence = f"{text}: {milliseconds(total)}, by {most}"
            causes.append(Cause(sentence, total, str(mine[0]["evidence"]), method, kind="event"))
    return causes


def _resent(found: Row) -> list[Cause]:
    if not found["retransmits"]:
        return []
    text = f"segments of its connection were sent again: {found['retransmits']}"
    return [Cause(text, 0, "exact", "TCP's own count")]


_WAITED = {
    "network to the server": "its bytes were on their way to the server",
    "receiving the request": "its server had not read the whole request: its client still sent it, or it lay unread",
    "API server before the engine": "it waited at its server, not yet in an engine",
    "API server after the last token": "its server had the last token, and had not answered",
    "network to the client": "its answer was on its way to the client",
    "unexplained": "it was at its server, and what an engine did for it is not on record",
}


def _waited(found: Row, parts: list[Part], wall: int) -> list[Cause]:
    """Name the parts that took much of the time in which nobody worked for the request, as far as is known."""
    causes = []
    for part in parts:
        text = _WAITED.get(part.name)
        if text and part.ns >= idle.MOST * wall:
            said = (
                text if part.name != "unexplained" or _inference(found) else "its server worked on it, or let it wait"
            )
            causes.append(
                Cause(
                    f"for {milliseconds(part.ns)} ({part.ns / wall:.0%} of its time) {said}",
                    part.ns,
                    part.evidence,
                    "two moments of the way",
                )
            )
    return causes


def _inference(found: Row) -> bool:
    """Return whether an engine should know of a request: scrapes and probes are GETs, inference is a POST everywhere."""
    return str(found["method"]) != "GET"


def _missing(found: Row, engine: list[Row], steps: list[Row]) -> list[str]:
    """Name the edges on the way from the client's socket to the GPU that were not recorded, and what would record them."""
    missing = []
    if found["client_start_ns"] is None:
        missing.append("the client's end of the connection: run a collector on the client's node")
    if found["side"] != "server":
        missing.append("the server's end of the connection: run a collector on the server's node")
    if not _inference(found):
        return missing
    if not engine:
        missing.append("the engine's request: watch its wire (source engine_wire) or install warpline-vllm")
    if not any(s["level"] or s["share_ns"] for s in steps):
        missing.append("the engine steps that it was in: install warpline-vllm, or watch the engine's wire")
    if not any(s["share_ns"] for s in steps):
        missing.append("its GPU executions: inject the CUPTI library (source cuda_kernel)")
    return missing


def as_json(found: Explanation) -> Row:
    """Return the explanation for JSON: times in ns, parts and causes in order."""
    return {
        "request": found.request,
        "wall_ns": found.wall_ns,
        "coverage": found.coverage,
        **asdict(found.spent),
        "parts": [{"name": p.name, "ns": p.ns, "evidence": p.evidence} for p in found.parts],
        "causes": [_cause(c) for c in found.causes],
        "differs": [_cause(c) for c in found.differs],
        "around": [_cause(c) for c in found.around],
        "missing": found.missing,
        "unwatched": found.unwatched,
    }


def _cause(cause: Cause) -> Row:
    return {name: value for name, value in asdict(cause).items() if value not in (None, "")}


def lines(found: Explanation) -> list[str]:
    """Return the explanation as lines of text."""
    row, wall = found.request, max(found.wall_ns, 1)
    name = row["response_id"] or row["request_id"] or row["request_uid"]
    text = [
        f"{row['method']} {row['path']} → {row['status']}  {name}",
        f"{milliseconds(found.wall_ns)} of wall time, {found.coverage:.1%} of it explained",
    ]
    text += _gpu_time(found.spent)
    text += ["", "Where it went"]
    text += [f"  {milliseconds(p.ns):>9}  {p.ns / wall:6.1%}  {p.name}  [{p.evidence}]" for p in found.parts]
    text += ["", "What stands out"]
    text += [f"  {i}. {_told(c)}" for i, c in enumerate(found.causes, 1)] or ["  nothing"]
    if found.differs:
        text += ["", "What differs from its peers", *(f"  - {_told(c)}" for c in found.differs)]
    if found.around:
        text += ["", "What happened around it", *(f"  - {_told(c)}" for c in found.around)]
    if found.missing or found.unwatched:
        text += ["", "What was not recorded", *(f"  - {m}" for m in [*found.missing, *found.unwatched])]
    return text


def _told(cause: Cause) -> str:
    """Return a finding with how it is known: `sentence  [evidence 0.99: method]`."""
    sure = "" if cause.confidence is None else f" {math.floor(cause.confidence * 10_000) / 10_000:g}"
    return f"{cause.sentence}  [{cause.evidence}{sure}{': ' if cause.method else ''}{cause.method}]"


def _gpu_time(spent: Spent) -> list[str]:
    """Return what of the GPUs it was given, in a line or two; nothing where none is known."""
    if not spent.busy_ns:
        return []
    whole = f", {spent.busy_ns / spent.occupancy_ns:.1%} of that of its steps" if spent.occupancy_ns else ""
    price = "" if spent.cost is None else f", which cost {spent.cost:.3g}"
    text = [f"{milliseconds(spent.busy_ns)} of GPU time was its own{whole}{price}"]
    if spent.energy_j is not None:
        each = "" if spent.token_j is None else f", {spent.token_j:.3g} J per output token"
        if each and spent.peers_token_j is not None:
            each += f"; the median of {spent.peers} peers is {spent.peers_token_j:.3g} J"
        text.append(f"{spent.energy_j:.3g} J of the GPUs' energy went to it{each}")
    return text
