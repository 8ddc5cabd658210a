"""Which attributes hold what people said, or their credentials: dropped at the door, and counted.

The names are those of the GenAI semantic conventions (today's and the earlier ones), OpenLLMetry's and OpenInference's for
messages, prompts and completions, and any HTTP body. Sizes of bodies and counts of tokens are not content.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CONTENT = re.compile(
    r"""^(?:
      gen_ai\.(?:input|output)\.messages | gen_ai\.system_instructions | gen_ai\.(?:prompt|completion|event\.content)
    | gen_ai\.(?:prompt|completion)\.\d+\..*(?:content|arguments)
    | gen_ai\.(?:user|system|assistant|tool)\.message(?:\.content)? | gen_ai\.choice
    | gen_ai\.tool\.(?:definitions|call\.arguments|call\.result)
    | gen_ai\..*\.message\.content | gen_ai\.evaluation\.explanation | gen_ai\.retrieval\.(?:documents|query\.text)
    | llm\.(?:prompts|completions|input_messages|output_messages|prompt_template\.variables)(?:\..*)?
    | (?:input|output)\.value | traceloop\.entity\.(?:input|output)
    | (?:http|rpc)\.(?:request|response)\.(?:body|content)(?:\.(?:content|text|raw))?
    | (?:http|rpc)\.(?:request|response)_?body | message\.content
    )$""",
    re.VERBOSE,
)
_SECRET = re.compile(
    r"^http\.(?:request|response)\.header\."
    r"(?:authorization|proxy-authorization|cookie|set-cookie|.*(?:api[-_]?key|token|secret).*)$"
)
_CONTENT_EVENT = re.compile(r"^gen_ai\.(?:.*\.message|choice|content\..*|client\.inference\.operation\.details)$")


@lru_cache(maxsize=4096)
def is_content(key: str, keep: bool = False) -> bool:
    """Say whether the attribute `key` must be dropped; with `keep`, only where it is a credential."""
    name = key.lower()
    return _SECRET.match(name) is not None or (not keep and _CONTENT.match(name) is not None)


@lru_cache(maxsize=1024)
def is_content_event(name: str, keep: bool = False) -> bool:
    """Say whether the body of a log record with this event name is content."""
    return not keep and _CONTENT_EVENT.match(name.lower()) is not None
