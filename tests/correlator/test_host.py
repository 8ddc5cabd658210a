"""What kept the threads of a request from running: rows of the scheduler's probe, and the sentence that must come out."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from correlator.explain import Explanation, explain
from tests.correlator.served import BASE, MS, Place, Row, Served, stored
from warpline import schema
from warpline.batch import Batch

PLACE = Place()
SERVER = f"{PLACE.node}:1:9"


def away(thread: int, start_ms: float, length_ms: float, reason: str, runqueue_ms: float, process: str) -> Row:
    start = BASE + int(start_ms * MS)
    return {
        "start_ns": start,
        "end_ns": start + int(length_ms * MS),
        "node": PLACE.node,
        "process_uid": process,
        "thread_id": thread,
        "reason": reason,
        "runqueue_ns": int(runqueue_ms * MS),
    }


def explained(directory: Path, more: dict[str, list[Row]]) -> Explanation:
    """What is told of a request that lasts from 0 to 100 ms, where these rows are stored too."""
    with closing(stored(directory, [Served(PLACE, 0, 100)])) as store:
        for name, rows in more.items():
            columns: dict[str, list[Any]] = {c: [row[c] for row in rows] for c in (rows[0] if rows else ())}
            if rows:
                store.write([Batch(schema.table(name), schema.table(name).batch(columns), f"more/{name}")])
        return explain(lambda name, **asked: store.view(name, asked).read_all(), "cmpl-0")


def told(directory: Path, off_cpu: list[Row], launching: tuple[int, ...] = ()) -> list[tuple[str, int]]:
    """Sentences about threads, with their ns, of a request that lasts from 0 to 100 ms."""
    run = {"node": PLACE.node, "process_uid": PLACE.engine, "session": 1, "api": "cudaLaunchKernel"}
    launches = [
        run | {"start_ns": BASE + MS, "end_ns": BASE + MS + 500, "correlation_id": n, "thread_id": thread}
        for n, thread in enumerate(launching)
    ]
    found = explained(directory, {"off_cpu": off_cpu, "launch": launches})
    return [(cause.sentence, cause.ns) for cause in found.causes if cause.sentence.startswith("the thread of")]


def test_a_thread_without_a_core_is_told_for_as_long_as_it_lies_within_the_request(tmp_path: Path) -> None:
    rows = [
        away(7, -20, 30, "futex", 15, PLACE.engine),  # Woken at -5 ms: 10 of its 15 ms without a core lie within.
        away(7, 50, 20, "runqueue", 20, PLACE.engine),
        away(7, 95, 45, "runqueue", 45, PLACE.engine),  # 5 ms.
        away(8, 20, 25, "runqueue", 25, PLACE.engine),  # Another thread was kept for less.
        away(9, 200, 50, "runqueue", 50, PLACE.engine),  # After it.
    ]
    ((sentence, ns),) = told(tmp_path, rows)
    assert sentence == (
        f"the thread of a process pid {PLACE.engine.split(':')[-1]} that was kept longest (7) could have run, and no core"
        " was free, for 35 ms of it in all, 3 times"
    )
    assert ns == 35 * MS


def test_of_a_process_that_launches_kernels_only_the_threads_that_do_so_are_told(tmp_path: Path) -> None:
    rows = [away(7, 10, 60, "runqueue", 60, PLACE.engine), away(8, 20, 25, "runqueue", 25, PLACE.engine)]
    ((sentence, ns),) = told(tmp_path, rows, launching=(8,))
    assert "that launches kernels (8) could have run, and no core was free, for 25 ms of it in all, 1 time" in sentence
    assert ns == 25 * MS


def test_the_disk_is_told_of_the_server_and_waits_that_are_a_servers_work_are_not(tmp_path: Path) -> None:
    rows = [
        away(3, 10, 40, "disk", 10, SERVER),
        away(3, 55, 20, "page_fault", 0, SERVER),
        *(away(4, 0, 100, reason, 0, SERVER) for reason in ("futex", "poll", "network", "sleep", "other")),
    ]
    assert [(sentence.partition("(3) ")[2], ns) for sentence, ns in told(tmp_path, rows)] == [
        ("waited for the disk, for 30 ms of it in all, 1 time", 30 * MS),
        ("waited for a page of memory, for 20 ms of it in all, 1 time", 20 * MS),
        ("could have run, and no core was free, for 10 ms of it in all, 1 time", 10 * MS),
    ]


def test_a_wait_too_short_to_matter_is_not_told(tmp_path: Path) -> None:
    assert told(tmp_path, [away(7, 10, 1, "runqueue", 1, PLACE.engine)]) == []


@pytest.mark.parametrize("watched", [False, True])
def test_a_late_host_without_the_schedulers_rows_is_told_as_not_recorded(tmp_path: Path, watched: bool) -> None:
    each = {"node": PLACE.node, "process_uid": PLACE.engine, "start_ns": BASE, "end_ns": BASE + 1000 * MS}
    sums = [each | {"reason": "futex", "intervals": 5, "total_ns": 9 * MS}] if watched else []
    found = explained(tmp_path, {"off_cpu_total": sums})
    assert any("the host did not launch in time" in cause.sentence for cause in found.causes)
    why = "why its host was late: watch the scheduler there (source sched)"
    assert found.unwatched == ([] if watched else [why])
    assert found.missing == ["the client's end of the connection: run a collector on the client's node"]
