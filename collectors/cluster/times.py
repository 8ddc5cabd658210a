"""Kubernetes' times."""

from __future__ import annotations

from datetime import datetime


def time_of(text: str | None) -> int | None:
    """Return ns since 1970 of a Kubernetes time (1 s or, as eventTime, 1 µs), or None."""
    if not text:
        return None
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(told.timestamp() * 1e6) * 1000
