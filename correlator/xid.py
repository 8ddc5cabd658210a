"""NVIDIA's XID codes in words, after its catalogue (docs.nvidia.com/deploy/xid-errors): those that are met most."""

from __future__ import annotations

_SAID = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    32: "invalid or corrupted push buffer stream",
    43: "GPU stopped processing",
    45: "preemptive cleanup, due to previous errors",
    48: "double bit ECC error",
    63: "ECC page retirement or row remapping recorded",
    64: "ECC page retirement or row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high single-bit ECC error rate",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "GSP RPC timeout",
    120: "GSP error",
}


def said(code: float) -> str:
    """Return a code with its meaning in brackets, where the catalogue's is known here: XID 94 (contained ECC error)."""
    meaning = _SAID.get(int(code))
    return f"XID {code:.0f}" + (f" ({meaning})" if meaning else "")
