"""The messages between vLLM's API server and its engine, as far as they tell of time and counts: never of content.

They are msgpack arrays, one position a field (vllm/v1/engine/__init__.py); maps inside them go by name. A layout is known by
the number of elements, of a message and of each output in it: positions are only read where both fit one of `LAYOUTS`.
Token ids, stop texts and log probabilities stay undecoded; of a list of token ids only its msgpack header is read, for the
length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
EVENT_KINDS = {1: "queued", 2: "scheduled", 3: "preempted"}
ADD, ABORT = b"\x00", b"\x01"
DEAD = b"ENGINE_CORE_DEAD"
"""Not msgpack: the engine's last word."""


class Event(msgspec.Struct, gc=False):
    """A change of a request's state (1 queued, 2 scheduled, 3 preempted), at s of the engine's CLOCK_MONOTONIC."""

    type: int
    timestamp: float


class Prefill(msgspec.Struct, gc=False):
    """How a prompt was computed, told with the first token."""

    num_prompt_tokens: int = 0
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0


class Output(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What one step gave one request: 19 elements in vLLM 0.33."""

    request_id: str
    new_token_ids: Raw
    _logprobs: Raw
    _prompt_logprobs: Raw
    _pooling: Raw
    finish_reason: int | None
    _stop_reason: Raw
    events: list[Event] | None
    _kv_transfer: Raw
    _encoder_transfer: Raw
    trace_headers: dict[str, str] | None
    prefill_stats: Prefill | None
    _experts: Raw
    _nans: Raw
    _cache_misses: Raw
    _sampling_mask: Raw
    _speculation: Raw
    _token_logprobs: Raw
    _error: Raw


class Details(msgspec.Struct, gc=False):
    """Totals of a step, where the engine logs them (--enable-logging-iteration-details)."""

    iteration_index: int | None = None
    num_ctx_tokens: int | None = None
    num_generation_tokens: int | None = None


class CacheStats(msgspec.Struct, gc=False):
    """What resumed requests looked up in the prefix cache and found there, in tokens."""

    preempted_requests: int = 0
    preempted_queries: int = 0
    preempted_hits: int = 0


class DraftStats(msgspec.Struct, gc=False):
    """How many requests of a step had drafts, and how many tokens these were, accepted or not."""

    num_drafts: int = 0
    num_draft_tokens: int = 0


class Stats(msgspec.Struct, gc=False):
    """The scheduler's queues after a step."""

    num_running_reqs: int | None = None
    num_waiting_reqs: int | None = None
    kv_cache_usage: float | None = None
    iteration_details: Details | None = None
    prefix_cache_stats: CacheStats | None = None
    spec_decoding_stats: DraftStats | None = None


class Outputs(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What one step gave all requests of one API server: 9 elements in vLLM 0.33."""

    engine_index: int
    outputs: list[Output]
    scheduler_stats: Stats | None
    timestamp: float
    utility_output: Raw
    finished_requests: Raw
    wave_complete: Raw
    start_wave: Raw
    weight_version: Raw


class Transfer(msgspec.Struct, gc=False):
    """The request's part in a disaggregated pair."""

    do_remote_prefill: bool = False
    do_remote_decode: bool = False
    remote_request_id: Any = None
    transfer_id: Any = None


class _Extra(msgspec.Struct, gc=False):
    kv_transfer_params: Transfer | None = None


class _Sampling(msgspec.Struct, gc=False):
    extra_args: _Extra | None = None


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One request on its way to the engine: 22 elements in vLLM 0.33."""

    request_id: str
    prompt_token_ids: Raw
    _features: Raw
    sampling_params: _Sampling | None
    _pooling: Raw
    _arrival: Raw
    _lora: Raw
    _salt: Raw
    _rank: Raw
    _embeddings: Raw
    _is_token: Raw
    _client: Raw
    _wave: Raw
    _priority: Raw
    trace_headers: dict[str, str] | None
    _resumable: Raw
    external_req_id: str | None
    _reasoning_ended: Raw
    _reasoning: Raw
    _abort: Raw
    _session: Raw
    _hints: Raw


_Type = TypeVar("_Type")


@dataclass(frozen=True)
class Layout(Generic[_Type]):
    """How messages of some versions are laid out."""

    versions: str
    decoder: msgspec.msgpack.Decoder[_Type]


OUTPUTS = (Layout("vLLM 0.33", msgspec.msgpack.Decoder(Outputs)),)
REQUESTS = (Layout("vLLM 0.33", msgspec.msgpack.Decoder(Request)),)
"""Every layout that is known, newest first. A new version gets a line here, and a recording in the tests."""
_IDS = msgspec.msgpack.Decoder(list[str])
_SHAPE = msgspec.msgpack.Decoder(list[Raw])


class UnknownLayoutError(Exception):
    """A message is of no layout that is known; its text tells the numbers of elements."""


def read_outputs(body: bytes) -> Outputs:
    """Return a message from an engine; raise UnknownLayoutError."""
    return _first(OUTPUTS, body)


def read_request(body: bytes) -> Request:
    """Return a request to an engine; raise UnknownLayoutError."""
    return _first(REQUESTS, body)


def read_aborts(body: bytes) -> list[str]:
    """Return the ids of requests that an API server gives up; raise UnknownLayoutError."""
    try:
        return _IDS.decode(body)
    except msgspec.MsgspecError:
        raise UnknownLayoutError(fingerprint(body)) from None


def length(array: Raw) -> int | None:
    """Return how many elements a msgpack array has, by its header alone; None where it is no array (nil, a tensor)."""
    view = memoryview(array)
    first = view[0] if len(view) else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first in (0xDC, 0xDD):
        return int.from_bytes(view[1 : 3 if first == 0xDC else 5], "big")
    return None


def fingerprint(body: bytes) -> str:
    """Return the numbers of elements by which a layout is known: none of the elements themselves."""
    try:
        elements = _SHAPE.decode(body)
        inner = {length(each) for part in elements[1:2] if length(part) for each in _SHAPE.decode(part)}
    except msgspec.MsgspecError:
        return f"no msgpack array, {len(body)} bytes"
    return f"{len(elements)} elements, its outputs {sorted(each for each in inner if each is not None) or 'none'}"


def finish_reason(code: int | None) -> str | None:
    """Return the word for a finish reason's number; None while the request goes on."""
    if code is None:
        return None
    return FINISH_REASONS[code] if 0 <= code < len(FINISH_REASONS) else "other"


def _first(layouts: tuple[Layout[_Type], ...], body: bytes) -> _Type:
    for each in layouts:
        try:
            return each.decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    raise UnknownLayoutError(fingerprint(body))
