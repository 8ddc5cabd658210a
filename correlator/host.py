"""Why a thread of those that served a request did not run, in sentences: no core was free, or the disk was slow.

Rows are those of view `request_host`. That the thread stood in the request's way is not known, only that it was kept from
running while the request lasted; of a process that launches kernels only the threads that do so are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from correlator.around import Cause, Row, counted, milliseconds

_METHOD = "the Linux scheduler's switches and wake-ups"
_WHY = {
    "no_core": "could have run, and no core was free",
    "disk": "waited for the disk",
    "page_fault": "waited for a page of memory",
}


def causes(rows: Sequence[Row]) -> list[Cause]:
    """Return for how long the thread that was kept longest did not run, by process and reason."""
    kept = [row for row in rows if row["kind"] in _WHY]
    return [Cause(_sentence(row), int(row["kept_ns"]), "derived", _METHOD, kind="event") for row in kept]


def watched(rows: Sequence[Row]) -> bool:
    """Return whether the scheduler was watched for any process that served the request."""
    return bool(rows)


def _sentence(row: Row) -> str:
    who = "launches kernels" if row["launches"] else "was kept longest"
    times = counted(row["times"], "time")
    return (
        f"the thread of {row['what']} that {who} ({row['thread_id']}) {_WHY[row['kind']]}, for"
        f" {milliseconds(row['kept_ns'])} of it in all, {times}"
    )
