"""The scheduler, replayed: who was in which engine step, from what the engine told its API server.

vLLM's engine sends one message a step (v1/engine/core.py): the ids that got tokens, the times at which requests were
scheduled or preempted, how many prompt tokens they computed, and in totals what resumed requests looked up and found in the
prefix cache. A request that gets tokens was in that step. The steps before its first token, in which its prompt was computed
chunk by chunk, are not on the wire; they follow from the scheduler's rule: first come, first served, from a budget of
tokens a step that decodes draw from first (v1/core/sched/scheduler.py::schedule).

What is not on the wire either: with asynchronous scheduling, the one step that a stopped request was scheduled in before
its end was known; it is added as derived. So rows made here may be exact, but a step's list of them is at best derived.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from correlator.joins.attribution import DERIVED, ESTIMATED, EXACT, Int64

SCHEDULED, PREEMPTED = 0, 1


@dataclass(frozen=True, slots=True)
class Wire:
    """What one engine sent, as arrays. Steps are its messages in order; a request is a code."""

    number: Int64
    """The messages' numbers: a gap is a message that was lost."""
    sent: Int64
    """When each step's message was made, in node time, ascending."""
    totals: Int64
    """Tokens of each step, -1 where the message does not say."""
    resumed: Int64
    """Requests resumed after preemption since the message before."""
    recomputed: Int64
    """Tokens that they had to compute again: looked up and not found."""
    drafts: Int64
    """Drafts of each request that had some in the step, accepted or not; 0 for none, -1 where the message does not say."""
    idle: NDArray[np.bool_]
    """True where nothing was left to run after the message."""
    emit_step: Int64
    emit_request: Int64
    emit_tokens: Int64
    emit_stopped: NDArray[np.bool_]
    """True where the request ended by what it had put out, which nobody could know before."""
    event_time: Int64
    event_request: Int64
    event_kind: Int64
    prompt: Int64
    """Prompt tokens by request, -1 unknown."""
    computed: Int64
    """Prompt tokens computed (not found in the cache) by request, -1 unknown."""
    budget: int
    """Tokens that one step may schedule; 0 finds it from the wire."""


@dataclass(frozen=True, slots=True)
class Members:
    """Rows of the step ledger, one element each."""

    step: Int64
    request: Int64
    scheduled: Int64
    context: Int64
    sampled: Int64
    recomputed: Int64
    draft: Int64
    evidence: Int64


@dataclass(slots=True)
class _Window:
    """One stay of a request in the batch before it gets a token: prompt or recomputation, `need` tokens by step `last`."""

    request: int
    earliest: int
    first: int
    last: int
    need: int
    context: int
    finishes: bool
    again: bool
    evidence: int
    rows: list[tuple[int, int, int]] = field(default_factory=list)


def replay(wire: Wire) -> Members:
    """Return the step ledger of one engine's wire."""
    order = np.lexsort((wire.emit_step, wire.emit_request))
    step, request, tokens = wire.emit_step[order], wire.emit_request[order], wire.emit_tokens[order]
    before = np.cumsum(tokens) - tokens
    first = np.searchsorted(request, np.arange(len(wire.prompt) + 1))
    before = before - before[np.minimum(first[request], max(len(before) - 1, 0))] if len(before) else before
    soonest, likely, ahead = _schedule_steps(wire, step, first)
    windows, used = _windows(wire, step, before, first, (soonest, likely))
    decode = _decodes(wire, step, request, tokens, before, used)
    if ahead:
        stopped = wire.emit_stopped[order]
        decode = _with_idle(wire, decode, step[stopped], request[stopped], (before + tokens)[stopped])
    spent = np.bincount(decode.step, decode.scheduled, minlength=len(wire.sent)).astype(np.int64)
    budget = wire.budget or _budget(wire, windows, spent)
    _fill(windows, wire, spent, budget)
    return _joined(wire, decode, windows)


def _schedule_steps(wire: Wire, step: Int64, first: Int64) -> tuple[Int64, Int64, int]:
    """Return the soonest step that can have been scheduled at each event, the likely one, and how far ahead the engine is.

    A synchronous engine schedules a step after the message of the one before; an asynchronous one a step earlier, unless
    it was idle: then the first thing that it schedules is the next step. Which of both an engine does shows in how far
    first tokens lie from the events before them.
    """
    soonest = np.searchsorted(wire.sent, wire.event_time, side="right").astype(np.int64)
    starts = np.flatnonzero(wire.event_kind == SCHEDULED)
    at_once = _at_once(wire, soonest, starts)
    emission = np.full(len(soonest), -1, np.int64)
    for row in starts.tolist():
        low, high = first[wire.event_request[row]], first[wire.event_request[row] + 1]
        at = low + np.searchsorted(step[low:high], soonest[row])
        emission[row] = step[at] if at < high else -1
    busy = starts[(emission[starts] >= 0) & ~at_once[starts]]
    distance = (emission - soonest)[busy]
    ahead = int((distance >= 1).sum() > (distance == 0).sum() or _runs_idly(wire, soonest))
    late = np.where(emission >= 0, np.minimum(soonest + ahead, np.maximum(emission, soonest)), soonest + ahead)
    late = np.where(at_once, soonest, late)
    last = max(len(wire.sent) - 1, 0)
    return np.minimum(soonest, last), np.minimum(late, last), ahead


def _at_once(wire: Wire, soonest: Int64, starts: Int64) -> NDArray[np.bool_]:
    """Say which events are of the first schedule of an engine that had nothing to do: one schedule stamps all alike."""
    count = len(wire.sent)
    stops = np.zeros(count + 1, bool)
    stops[wire.emit_step[wire.emit_stopped] + 1] = True  # The step scheduled before the stop was known still runs.
    idle = np.concatenate([[True], wire.idle]) & ~stops
    earliest = np.full(count + 1, np.iinfo(np.int64).max)
    np.minimum.at(earliest, soonest[starts], wire.event_time[starts])
    found: NDArray[np.bool_] = idle[soonest] & (wire.event_time == earliest[soonest])
    return found


def _runs_idly(wire: Wire, soonest: Int64) -> bool:
    """Say whether an engine ran a step for a stopped request alone: only one that schedules ahead does."""
    count = len(wire.sent)
    emits, scheduled = np.zeros(count + 1, bool), np.zeros(count + 1, bool)
    emits[wire.emit_step] = True
    scheduled[soonest] = True
    after = wire.emit_step[wire.emit_stopped] + 1
    after = after[(after < count) & wire.idle[after - 1]]
    after = after[np.diff(wire.number)[after - 1] == 1] if len(after) else after
    return bool((~emits[after] & ~scheduled[after]).any())


def _windows(
    wire: Wire, step: Int64, before: Int64, first: Int64, event_steps: tuple[Int64, Int64]
) -> tuple[list[_Window], NDArray[np.bool_]]:
    used = np.zeros(len(step), bool)
    soonest, event_step = event_steps
    order = np.lexsort((wire.event_kind == SCHEDULED, wire.event_time, wire.event_request))
    resumes = _resumed_tokens(wire, order)
    windows: list[_Window] = []
    last_step = len(wire.sent) - 1
    for place, row in enumerate(order.tolist()):
        if wire.event_kind[row] != SCHEDULED:
            continue
        request = int(wire.event_request[row])
        begin = int(event_step[row])
        following = order[place + 1 : place + 2]
        preempted = (
            int(event_step[following[0]])
            if len(following)
            and wire.event_request[following[0]] == request
            and wire.event_kind[following[0]] == PREEMPTED
            else last_step + 1
        )
        low, high = int(first[request]), int(first[request + 1])
        at = low + int(np.searchsorted(step[low:high], begin))
        done = int(before[at]) if at < high else (int(before[high - 1]) + 1 if high > low else 0)
        finishes = at < high and int(step[at]) < preempted
        window = _window(wire, request, (int(soonest[row]), begin), done, resumes.get(row))
        window.finishes = finishes
        window.last = int(step[at]) if finishes else max(preempted - 1, begin)
        if finishes:
            used[at] = True
        windows.append(window)
    return windows, used


def _window(wire: Wire, request: int, begin: tuple[int, int], done: int, resumed: tuple[int, int] | None) -> _Window:
    prompt = int(wire.prompt[request])
    whole = max(prompt, 0) + done
    if done == 0 and resumed is None:
        known = int(wire.computed[request])
        need, evidence = (known, EXACT) if known >= 0 else (max(prompt, 1), DERIVED if prompt >= 0 else ESTIMATED)
    elif resumed is not None:
        need, evidence = min(resumed[0], whole), resumed[1]
    else:
        need, evidence = whole, ESTIMATED
    need = max(need, 1)
    again = resumed is not None or done > 0
    return _Window(request, *begin, begin[1], need, max(whole - need, 0), False, again, evidence)


def _resumed_tokens(wire: Wire, order: Int64) -> dict[int, tuple[int, int]]:
    """Return for each resumption (row of its event) how many tokens it computed again, and how that is known.

    The wire says it in total for those resumed since the last message: exact for one, divided by length for several.
    """
    seen: set[int] = set()
    by_message: dict[int, list[int]] = defaultdict(list)
    for row in order.tolist():
        if wire.event_kind[row] == SCHEDULED:
            request = int(wire.event_request[row])
            if request in seen:
                by_message[int(np.searchsorted(wire.sent, wire.event_time[row], side="right"))].append(row)
            seen.add(request)
    found: dict[int, tuple[int, int]] = {}
    for message, rows in by_message.items():
        if message >= len(wire.sent) or wire.resumed[message] != len(rows):
            continue
        lengths = np.maximum(wire.prompt[wire.event_request[rows]], 1).astype(float)
        parts = np.round(wire.recomputed[message] * lengths / lengths.sum()).astype(int)
        for row, part in zip(rows, parts.tolist(), strict=True):
            found[row] = (max(part, 1), DERIVED if len(rows) == 1 else ESTIMATED)
    return found


def _decodes(wire: Wire, step: Int64, request: Int64, tokens: Int64, before: Int64, used: NDArray[np.bool_]) -> Members:
    """Return a row for every token that no window explains: a decode; several tokens at once are accepted drafts.

    Only a request that got a token in the step before too surely decoded one row. After a pause it may have computed
    again, where the events that say so were lost; and its first token ends a prefill whose beginning was lost. Drafts that
    were all refused show in the step's total of them alone.
    """
    rows = np.flatnonzero(~used & (tokens > 0))
    opens = before[rows] == 0
    told = wire.drafts[step[rows]]
    most = int(tokens[rows][~opens].max(initial=1))
    width = np.maximum(np.where(told >= 0, 1 + told, most) if wire.drafts.max(initial=0) > 0 else most, tokens[rows])
    single = (most == 1) & (told == 0) & (wire.drafts.max(initial=0) == 0)
    prompt, computed = np.maximum(wire.prompt[request[rows]], 0), wire.computed[request[rows]]
    whole = np.maximum(np.where(computed >= 0, computed, prompt), 1)
    steady = np.zeros(len(step), bool)
    steady[1:] = (np.diff(request) == 0) & (np.diff(step) == 1) & (np.diff(wire.number[step]) == 1)
    evidence = np.where(opens, ESTIMATED, np.where(steady[rows] & single, EXACT, DERIVED))
    zeros = np.zeros(len(rows), np.int64)
    return Members(
        step[rows],
        request[rows],
        np.where(opens, whole, width),
        np.where(opens, np.maximum(prompt - whole, 0), np.maximum(prompt + before[rows] - 1, 0)),
        tokens[rows],
        zeros,
        np.where(opens, 0, width - 1),
        evidence.astype(np.int64),
    )


def _with_idle(wire: Wire, decode: Members, step: Int64, request: Int64, done: Int64) -> Members:
    """Add the step that a stopped request was in for nothing: it was scheduled before its last token was known."""
    keep = step + 1 < len(wire.sent)
    step, request, done = step[keep] + 1, request[keep], done[keep]
    zeros, ones = np.zeros(len(step), np.int64), np.ones(len(step), np.int64)
    context = np.maximum(wire.prompt[request], 0) + done - 1
    idle = Members(step, request, ones, np.maximum(context, 0), zeros, zeros, zeros, zeros + DERIVED)
    return Members(*(np.concatenate([getattr(decode, f.name), getattr(idle, f.name)]) for f in fields(Members)))


_BUDGETS = 1 << np.arange(7, 18, dtype=np.int64)
"""Budgets that are tried: those that people set are powers of two."""


def _budget(wire: Wire, windows: list[_Window], spent: Int64) -> int:
    """Return the step's budget as the wire shows it: the largest step told, or the budget that explains most prompts.

    It explains prompts that began and ended in one step where they fit into it together, and a longer one where it finds
    room in the steps from its first to its last, and not in fewer.
    """
    told = int(wire.totals.max(initial=-1))
    follows = np.concatenate([[False], np.diff(wire.number) == 1])
    prompts = [w for w in windows if w.finishes and not w.again and follows[w.last]]
    if told > 0 or not prompts:
        return max(told, 2048)
    need, first, last = (np.array([getattr(w, f) for w in prompts]) for f in ("need", "first", "last"))
    single = first == last
    load = np.bincount(last[single], need[single], minlength=len(spent)).astype(np.int64) + spent
    before = np.concatenate([[0], np.cumsum(load)])
    taken = before[last + 1] - before[first]
    best, most = 0, -1
    for budget in _BUDGETS.tolist():
        room = (last + 1 - first) * budget - taken
        fits = np.where(
            single, load[last] <= budget, (room >= need) & (room - np.maximum(budget - load[last], 0) < need)
        )
        if (explained := int(fits.sum())) > most:
            best, most = budget, explained
    return best


def _fill(windows: list[_Window], wire: Wire, spent: Int64, budget: int) -> None:
    """Give each window its chunks: in order of arrival, from what the step's decodes leave of the budget."""
    starting: dict[int, list[_Window]] = defaultdict(list)
    for window in windows:
        steps = slice(window.first, window.last + 1)
        if window.finishes and window.need > budget * (steps.stop - steps.start) - spent[steps].sum():
            window.first = window.earliest  # So few steps cannot have held it.
        starting[window.first].append(window)
    active: list[_Window] = []
    pending = sorted(starting)
    at = 0
    step = 0
    while at < len(pending) or active:
        step = step + 1 if active else pending[at]
        if at < len(pending) and pending[at] == step:
            active += starting[step]
            at += 1
        total = int(wire.totals[step]) if step < len(wire.totals) else -1
        left = (total if total >= 0 else budget) - (int(spent[step]) if step < len(spent) else 0)
        for window in active:
            left -= _chunk(window, step, max(left, 1))
        active = [w for w in active if w.last > step and w.need > 0]


def _chunk(window: _Window, step: int, left: int) -> int:
    """Give `window` its tokens of one step and return how many: all that remain in its last, else what the budget has.

    Where the budget has room for all before the last step, the request cannot have been in this step: it would have ended.
    """
    if step == window.last and window.finishes:
        tokens = window.need
    else:
        tokens = 0 if window.need <= left and window.finishes else max(min(window.need - 1, left), 0)
    if tokens:
        window.rows.append((step, tokens, window.context))
        window.context += tokens
        window.need -= tokens
    return tokens


def _joined(wire: Wire, decode: Members, windows: list[_Window]) -> Members:
    rows: list[tuple[int, ...]] = []
    for w in windows:
        before = max(w.earliest - 1, 0)
        whole = int(wire.number[w.last] - wire.number[before]) == w.last - before
        several = (
            w.earliest != w.last or not whole
        )  # It could have begun in a step before, or got its first tokens there.
        for step, tokens, context in w.rows:
            evidence = max(w.evidence, DERIVED if several else EXACT, EXACT if w.finishes else ESTIMATED)
            ends = int(w.finishes and step == w.last)
            rows.append((step, w.request, tokens, context, ends, tokens if w.again else 0, 0, evidence))
    columns = np.array(rows, np.int64).reshape(-1, 8).T
    names = ("step", "request", "scheduled", "context", "sampled", "recomputed", "draft", "evidence")
    joined = {n: np.concatenate([getattr(decode, n), c]) for n, c in zip(names, columns, strict=True)}
    order = np.lexsort((joined["request"], joined["step"]))
    return Members(**{n: c[order] for n, c in joined.items()})
