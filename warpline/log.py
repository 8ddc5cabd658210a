"""Standard logging: one line on stderr per change of state, none per event."""

from __future__ import annotations

import logging
import sys

from warpline.errors import SettingsError

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def start(level: str) -> None:
    """Log to stderr from `level` on; raise SettingsError for a level that does not exist."""
    if level not in _LEVELS:
        raise SettingsError(f"log_level is {level!r}; give one of {', '.join(_LEVELS)}")
    logging.basicConfig(
        level=_LEVELS[level], stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # Libraries that speak of every request or retry; what they say that matters, Warpline says itself.
    for noisy in ("urllib3", "opentelemetry", "httpx", "httpx2", "httpcore", "asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
