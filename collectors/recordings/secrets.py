"""Secrets in recordings: environment dumps and tokens that a profiler wrote along.

Readers keep metadata by an allow-list only, so an environment never gets in; names and annotations pass `redact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

REMOVED = "[removed]"

_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|A[KS]IA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}"
    r"|nvapi-[A-Za-z0-9_-]{16,}|ey[A-Za-z0-9_-]{10,}\.ey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+)"
)
_ASSIGNED = re.compile(
    r"(?i)((?:[A-Z0-9_]*(?:token|secret|passw(?:or)?d|api_?key|access_?key|credential)[A-Z0-9_]*)\s*[=:]\s*|\bbearer\s+)"
    r"(?!\[removed\])(\"[^\"]*\"|'[^']*'|[^\s,;&'\")]+)"
)
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|api_?key|access_?key|credential|private|auth")
_ENVIRONMENT_NAME = re.compile(r"(?i)^env(?:iron(?:ment)?)?(?:_?var(?:iable)?s?)?$")
_HINT = re.compile(
    r"(?i)hf_|sk-|gh[pousr]_|github_pat|glpat|xox|a[ks]ia|aiza|nvapi|ey[a-z0-9_-]+\.ey"
    r"|token|secret|passw|key|credential|bearer"
)


def redact(text: str) -> tuple[str, int]:
    """Return `text` with what looks like a token, password or key replaced, and how many were."""
    if not _HINT.search(text):
        return text, 0
    text, tokens = _TOKEN.subn(REMOVED, text)
    text, assigned = _ASSIGNED.subn(lambda match: match[1] + REMOVED, text)
    return text, tokens + assigned


def redact_all(texts: Iterable[str | None]) -> tuple[list[str | None], int]:
    """Redact each text; return them and the number of secrets removed from all."""
    found, total = [], 0
    for text in texts:
        clean, count = redact(text) if text else (text, 0)
        found.append(clean)
        total += count
    return found, total


def in_metadata(metadata: Any) -> tuple[int, int]:
    """Return how many environment variables `metadata` holds, and how many of its values look like secrets."""
    variables = secrets = 0
    for path, value in _leaves(metadata, ()):
        variables += any(_ENVIRONMENT_NAME.match(part) for part in path[:-1])
        named = bool(path) and bool(_SECRET_NAME.search(path[-1])) and len(value) >= 8 and value != "REDACTED"
        secrets += bool(_TOKEN.search(value)) or named
    return variables, secrets


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif isinstance(value, str):
        yield path, value
