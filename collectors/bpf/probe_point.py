"""Where in a function a uprobe is cheap: by its first instruction.

The Linux kernel emulates a few instructions under a uprobe (arch/x86/kernel/uprobes.c): push, nop, call, jump; these cost
0.4 to 0.7 µs. All others it runs on a page of their own with a trap behind them: 11 µs in a virtual machine. An entry probe
may stand behind a first `endbr64` or `sub $n, %rsp`, where arguments are still in their registers; a return probe has to
stand at the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from collectors.bpf import elf

_CHEAP = re.compile(
    rb"[\x50-\x57]|\x41[\x50-\x57]|\x90|\x66\x90|\x0f\x1f\x44\0\0|\xe8|\xe9|\xeb|[\x70-\x7f]|\x0f[\x80-\x8f]", re.DOTALL
)
_SKIPPED = re.compile(rb"\xf3\x0f\x1e\xfa|\x48\x83\xec.|\x48\x81\xec....", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Point:
    """A file offset for an entry probe, and whether a return probe at the function's start is as cheap."""

    offset: int
    returns: bool
    emulated: bool = True


def choose(path: Path, offset: int, stepped: bool = False) -> Point | None:
    """Return where to probe the function at file `offset` of `path`; None where every place is dear. Raises OSError.

    `stepped` says that single-stepping can be paid for here (see uprobe_price.py).
    """
    return point(elf.first_bytes(path, offset), offset, stepped)


def point(code: bytes, offset: int, stepped: bool = False) -> Point | None:
    """Return where to probe a function that begins with `code` at `offset`; None where every place is dear."""
    if is_emulated(code):
        return Point(offset, True)
    if stepped:
        return Point(offset, True, False)
    skipped = _SKIPPED.match(code)
    if skipped and _CHEAP.match(code, skipped.end()):
        return Point(offset + skipped.end(), False)
    return None


def is_emulated(code: bytes) -> bool:
    """Return whether the instruction that `code` begins with is emulated under a uprobe."""
    return bool(_CHEAP.match(code))
