"""The grammar of request ids: what servers and proxies make of them, read here and nowhere else.

vLLM (v1/engine/input_processor.py, parallel_sampling.py, entrypoints/openai/completion/serving.py of 0.33):
`X-Request-Id` or a random UUID → response id `chatcmpl-<id>` or `cmpl-<id>` → external id, the same with `-<index>` for each
prompt of a completion → internal id `<external>-<8 hex digits>`, with `<index>_` before it for each of n > 1 samples.
Envoy's UUID extension rewrites the 14th digit of x-request-id to say why it traces (docs: uuid.v3).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_UUID = r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-)[0-9a-fA-F]([0-9a-fA-F]{3}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})$"
_SAMPLE = r"^[0-9]+_"
_SUFFIX = r"-[0-9a-f]{8}$"
_PROMPT = r"^(cmpl-.*[^-])-[0-9]+$"
_BATCH = r"^(chatcmpl-.*)_[0-9]+$"
_DASHED = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


def masked(request_ids: pa.Array) -> pa.Array:
    """Return x-request-ids in a form equal for all of Envoy's rewritings: digit 14 of a UUID is a dot."""
    return pc.replace_substring_regex(request_ids.cast(pa.string()), _UUID, r"\1.\2")


def external(internal_ids: pa.Array) -> pa.Array:
    """Return the external id that each of vLLM's internal ids was made from: sample index and random suffix removed."""
    return pc.replace_substring_regex(without_sample(internal_ids), _SUFFIX, "")


def without_sample(internal_ids: pa.Array) -> pa.Array:
    """Return internal ids without the index of one of n samples."""
    return pc.replace_substring_regex(internal_ids.cast(pa.string()), _SAMPLE, "")


def response(external_ids: pa.Array) -> pa.Array:
    """Return the response id that each external id belongs to: the index of a prompt or of a batch's entry removed."""
    prompts = pc.replace_substring_regex(external_ids.cast(pa.string()), _PROMPT, r"\1")
    return pc.replace_substring_regex(prompts, _BATCH, r"\1")


def of_header(response_ids: pa.ChunkedArray, request_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return True for response ids that a server made of what it was sent: of the request's x-request-id, or of a UUID with
    dashes, as proxies write it and no engine's server does. NULL where there is no response id."""
    behind = pc.replace_substring_regex(response_ids, r"^[a-z]+-", "")
    same = pc.or_(pc.equal(behind, request_ids), pc.equal(response_ids, request_ids)).fill_null(False)
    return pc.or_(same, pc.match_substring_regex(response_ids, _DASHED))
