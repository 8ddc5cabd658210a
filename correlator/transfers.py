"""KV transfers that a request waited for: what they took of its time, and what came of them, in sentences.

Rows are those of view `request_transfer`. Their times are what the engine's scheduler saw, so the wire moved for as long at
most; that the request waited for that long is true.
"""

from __future__ import annotations

from collections.abc import Sequence

from correlator.around import Cause, Row, milliseconds, weakest

PART = "KV transfer"
_METHOD = "what its engine's scheduler waited for"


def inside(rows: Sequence[Row], since_ns: int, until_ns: int) -> int:
    """Return for how long, in ns, any transfer was waited for between two moments."""
    total, reached = 0, since_ns
    for row in sorted(rows, key=lambda each: int(each["start_ns"])):
        start, end = max(row["start_ns"], reached), min(row["end_ns"], until_ns)
        if end > start:
            total, reached = total + end - start, end
    return total


def causes(rows: Sequence[Row], waited_ns: int) -> list[Cause]:
    """Say for how long the request waited, `waited_ns` of its time, and that what it waited for did not come whole."""
    if not rows:
        return []
    known, ids = weakest(rows), ", ".join(sorted({str(row["transfer_id"]) for row in rows if row["transfer_id"]}))
    text = f"it waited {milliseconds(waited_ns)} for its KV cache to come from elsewhere{f' ({ids})' if ids else ''}"
    found = [Cause(text, waited_ns, known, _METHOD)] if waited_ns else []
    if any(row["outcome"] == "failed" for row in rows):
        text = "its KV cache did not come whole: what was missing had to be computed, or it ended in an error"
        found.append(Cause(text, 0, known, "the word of its engine's workers", kind="event"))
    return found
