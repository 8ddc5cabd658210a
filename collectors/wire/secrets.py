"""Command lines without what looks like a secret."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAMED = re.compile(
    r"(?i)(?P<name>(?:^|(?<=[\s,;&?\"'{]))-{0,2}[\w.-]*"
    r"(?:token|api[_-]?key|access[_-]?key|secret|password|passwd|credential|authorization|private[_-]?key)[\w.-]*)"
    r"(?P<join>\"?\s*[=:]\s*|\s+)"
    r"(?P<value>(?:bearer\s+|basic\s+)?(?:\"[^\"]*\"|'[^']*'|(?!-)[^\s,;&\"'}]+))"
)
_COUNTS = re.compile(r"(?i)tokens?(?:[_-]?(?:limit|per|budget|len)|s\b)|tokeni[sz]er")
"""Names that count tokens of text, or make them: no secret, and worth keeping."""
_KNOWN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|nvapi-[\w-]{16,}|AKIA[A-Z0-9]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)[^/\s:@]+(?::[^/\s@]*)?@")
MASK = "***"


def masked(text: str) -> str:
    """Return `text` with the values of secret-looking options, known token forms and credentials in URLs masked."""
    text = _URL.sub(rf"\g<scheme>{MASK}@", _KNOWN.sub(MASK, text))
    return _NAMED.sub(_mask_value, text)


def _mask_value(found: re.Match[str]) -> str:
    if _COUNTS.search(found["name"]) or ("token" in found["name"].lower() and found["value"].isdigit()):
        return found[0]
    return f"{found['name']}{found['join']}{MASK}"


def command_line(words: Sequence[str]) -> str:
    """Return the words of a command joined by spaces, without secrets."""
    return masked(" ".join(words))
