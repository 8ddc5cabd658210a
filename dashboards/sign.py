"""Signatures of the data routes.

Why: Streamlit's login guards pages and not routes beside them, so an address must prove that a page made it. It is signed
with a key that lives as long as the process, names what may be read and by whom, and holds for hours.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from urllib.parse import urlencode

KEYS = ("request", "recording", "from_ns", "to_ns")
"""What an address may name: the parts of the query that the signature covers, with `until` and `user`."""

_SECRET = secrets.token_bytes(32)
_HOUR_S = 3600


def signed(subject: Mapping[str, str], user: str, now_s: float | None = None) -> str:
    """Return the query string of `subject`, good for two to three hours: the same text for an hour, so that pages rerun
    without fetching anything again."""
    now = time.time() if now_s is None else now_s
    until = str((int(now) // _HOUR_S + 3) * _HOUR_S)
    fields = {**{key: subject[key] for key in KEYS if subject.get(key)}, "until": until, "user": user}
    return urlencode({**fields, "sig": _signature(fields)})


def refusal(query: Mapping[str, str], now_s: float | None = None) -> str | None:
    """Return why an address is refused, as a sentence, or None where a page of this process made it and it still holds."""
    now = time.time() if now_s is None else now_s
    fields = {key: query[key] for key in (*KEYS, "until", "user") if key in query}
    fields.setdefault("user", "")
    if not hmac.compare_digest(_signature(fields), query.get("sig", "")):
        return "the address is not signed by this dashboard; reload the page"
    if now >= int(fields.get("until", "0")):
        return "the address has expired; reload the page"
    return None


def _signature(fields: Mapping[str, str]) -> str:
    said = "\n".join(f"{key}={fields[key]}" for key in sorted(fields))
    return hmac.new(_SECRET, said.encode(), hashlib.sha256).hexdigest()
