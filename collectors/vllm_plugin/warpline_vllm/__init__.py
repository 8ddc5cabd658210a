"""Tells Warpline which requests each engine step computed. vLLM calls `register` in each of its processes.

It reads what the scheduler decided and changes nothing. Whatever fails switches it off, with the reason in the ring's
header: nothing is ever raised into the engine. Prompts, token ids and texts are not read, but for how many they are.
"""

from __future__ import annotations

__version__ = "0.1.0"


def register() -> None:
    """Wrap vLLM's scheduler and worker, now where they are loaded, else when they are."""
    try:
        from .hooks import install  # Even an import error must not reach vLLM.

        install()
    except Exception:  # Fail open.
        return
