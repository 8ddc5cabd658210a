"""What a step computed, as bytes. Columns, not rows: at 256 requests each is one pass in C.

SCHEDULED: ordinal, time, total tokens and eight counts; then int32 columns: tokens scheduled (members), tokens computed
before (members), prompt length (new members), tokens put out so far (the other members), draft tokens (members with
drafts); then the ids, NUL-separated: members (new ones first), with drafts, resumed, preempted, finished.
UPDATED: ordinal, time, count; then tokens sampled (int32) and the ids.
EXECUTED: ordinal, start, end, total tokens, hash of the members, thread, rank, flags (1: dummy).
FINISHED: ordinal (-1: outside a step), time, count; then vLLM's numbers of the reasons (int32) and the ids.
Times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any
from zlib import crc32

SCHEDULED = struct.Struct("<qqq8I")
UPDATED = struct.Struct("<qqII")
EXECUTED = struct.Struct("<qqqqqiiI4x")
FINISHED = struct.Struct("<qqII")
DUMMY = 1


class Mismatch(Exception):
    """The scheduler's output does not add up: its layout is not the one known here."""


def scheduled(ordinal: int, time_ns: int, output: Any) -> tuple[bytes, ...]:
    """Return a SCHEDULED record of vLLM's SchedulerOutput; raise Mismatch where members and total disagree."""
    new, cached = output.scheduled_new_reqs, output.scheduled_cached_reqs
    drafts: dict[str, Any] = output.scheduled_spec_decode_tokens
    ids, amounts = _members(output)
    total, expected = output.total_num_scheduled_tokens, len(output.num_scheduled_tokens)
    if len(ids) != expected or sum(amounts) != total:
        raise Mismatch(f"{len(ids)} members with {sum(amounts)} tokens, and {expected} with {total} in the totals")
    computed = [each.num_computed_tokens for each in new]
    computed += cached.num_computed_tokens
    prompts = [_prompt_length(each) for each in new]
    preempted = output.preempted_req_ids or ()
    others = [*chain(drafts, cached.resumed_req_ids, preempted, output.finished_req_ids)]
    names, tokens = _join(ids), _ints(amounts)
    _remember(output, names, tokens)
    head = SCHEDULED.pack(
        ordinal, time_ns, total, len(new), len(ids), len(drafts), len(cached.resumed_req_ids), len(preempted),
        len(output.finished_req_ids), 0, 0,
    )  # fmt: skip
    lengths = [len(each) for each in drafts.values()]
    columns = (computed, prompts, cached.num_output_tokens, lengths)
    texts = (names, b"\0", _join(others)) if ids and others else (names, _join(others))
    return (head, tokens, *map(_ints, columns), *texts)


_LATEST: dict[int, tuple[Any, bytes, bytes]] = {}
"""Of the latest steps their output, and its members as bytes: where scheduler and worker are one process, half the work."""


def _remember(output: Any, names: bytes, tokens: bytes) -> None:
    _LATEST[id(output)] = (output, names, tokens)
    while len(_LATEST) > 2:
        _LATEST.pop(next(iter(_LATEST)), None)


def _members(output: Any) -> tuple[list[str], Sequence[int]]:
    """Return the members, new ones first, and how many tokens each got."""
    ids = [each.req_id for each in output.scheduled_new_reqs]
    ids += output.scheduled_cached_reqs.req_ids
    tokens = output.num_scheduled_tokens
    return ids, itemgetter(*ids)(tokens) if len(ids) > 1 else [tokens[each] for each in ids]


@lru_cache(maxsize=4096)
def _layout(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}i")


def _ints(values: Sequence[int]) -> bytes:
    """Return whole numbers as int32: four times as fast as by way of an array."""
    return _layout(len(values)).pack(*values)


def _prompt_length(request: Any) -> int:
    """A request's prompt may be token ids, or embeddings of which only the shape is read."""
    tokens = request.prompt_token_ids
    return len(tokens) if tokens is not None else int(request.prompt_embeds.shape[0])


def updated(ordinal: int, time_ns: int, output: Any) -> tuple[bytes, ...]:
    """Return an UPDATED record of vLLM's ModelRunnerOutput: how many tokens each request got, never which."""
    ids, sampled = output.req_ids, output.sampled_token_ids
    if not sampled:
        ids = ()
    return (UPDATED.pack(ordinal, time_ns, len(ids), 0), _ints(list(map(len, sampled))), _join(ids))


def executed(ordinal: int, times: tuple[int, int], output: Any, thread: int, rank: int) -> tuple[bytes, ...]:
    """Return an EXECUTED record: the host's window around one rank's run of a step; no `output` is a dummy step."""
    total = 0 if output is None else output.total_num_scheduled_tokens
    mark = 0 if output is None else _member_hash(output)
    flags = DUMMY if output is None else 0
    return (EXECUTED.pack(ordinal, *times, total, mark, thread, rank, flags),)


def finished(ordinal: int, time_ns: int, ended: Sequence[tuple[str, Any]]) -> tuple[bytes, ...]:
    """Return a FINISHED record of requests that ended, each an id and a reason of vLLM's."""
    reasons = [int(reason) for _, reason in ended]
    return (FINISHED.pack(ordinal, time_ns, len(ended), 0), _ints(reasons), _join(each for each, _ in ended))


def ended_in(result: Any) -> list[tuple[str, Any]]:
    """Return the requests that ended in a step, of what vLLM's `update_from_output` returned, with their reasons."""
    return [
        (each.request_id, each.finish_reason)
        for outputs in result.values()
        for each in outputs.outputs
        if each.finish_reason is not None
    ]


def _member_hash(output: Any) -> int:
    """Return the hash by which the ranks' rows are paired with the scheduler's: CRC-32 of ids and token counts."""
    known = _LATEST.get(id(output))
    if known is not None and known[0] is output:
        return crc32(known[2], crc32(known[1]))
    ids, amounts = _members(output)
    return crc32(_ints(amounts), crc32(_join(ids)))


def _join(ids: Iterable[str]) -> bytes:
    return "\0".join(ids).encode("utf-8", "replace")
