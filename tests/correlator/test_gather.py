"""Requests that wait at the same moment are taken together, and each of their senders is answered for its own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from correlator.doors.intake import Intake, Refused
from correlator.storage.ingest import Ingest
from correlator.storage.store import Store
from tests.correlator.doors import Kept, trace_request
from tests.correlator.storing import small
from tests.waiting import until
from warpline import otlp
from warpline.otlp import Decoded, Malformed, scanner
from warpline.settings import Settings

together = pytest.mark.skipif(not scanner.available(), reason="the scanner in C is not built: no compiler here")


def all_at_once(intake: Intake, kept: Kept, bodies: list[bytes]) -> list[Any]:
    """Return what each sender heard, or the error it met: the first is taken while the others come and wait."""
    answers: list[Any] = [None] * len(bodies)

    def send(number: int) -> None:
        try:
            answers[number] = intake.take("traces", bodies[number], otlp.PROTOBUF)
        except (Malformed, Refused) as error:
            answers[number] = error

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(bodies))]
    kept.gate.clear()
    threads[0].start()
    until(lambda: kept.asked == 1)
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(intake._gather._waiting) == len(bodies) - 1)
    kept.gate.set()
    for thread in threads:
        thread.join()
    return answers


class Asked(Kept):
    """Counts who has come to the gate."""

    asked = 0

    def accept(self, batches: Any) -> None:
        self.asked += 1
        super().accept(batches)


@together
def test_those_who_wait_are_one_batch() -> None:
    kept = Asked()
    bodies = [trace_request(3, seed=seed).SerializeToString() for seed in range(1, 24)]
    answers = all_at_once(Intake(Settings(node="n"), kept), kept, bodies)
    assert [answer.rejected for answer in answers] == [0] * 23
    assert len(kept.batches) == 2
    assert sorted(row["span_id"] for row in kept.rows("span")) == sorted(
        seed * 1_000_003 + i + 1 for seed in range(1, 24) for i in range(3)
    )


def test_each_is_told_of_its_own() -> None:
    kept = Asked()
    intake = Intake(Settings(node="n"), kept)
    refused = trace_request(3, seed=3)
    refused.resource_spans[0].scope_spans[0].spans[1].span_id = b"short"
    first, fine = (trace_request(3, seed=seed).SerializeToString() for seed in (1, 2))
    answers = all_at_once(intake, kept, [first, fine, b"\xff" * 20, refused.SerializeToString()])
    assert [isinstance(answer, Decoded) for answer in answers] == [True, True, False, True]
    assert isinstance(answers[2], Malformed)
    assert [answers[i].rejected for i in (0, 1, 3)] == [0, 0, 1]
    assert len(kept.rows("span")) == 3 + 3 + 2
    assert intake.losses["malformed request"] == 1
    assert intake.records["span"] == 8


def test_where_the_disk_is_full_all_hear_of_it() -> None:
    kept = Asked()
    intake = Intake(Settings(node="n"), kept)
    kept.busy = True
    answers = all_at_once(intake, kept, [trace_request(seed=seed).SerializeToString() for seed in (1, 2, 3)])
    assert [answer.retry_after_s for answer in answers] == [1.5] * 3
    kept.busy = False
    assert isinstance(intake.take("traces", trace_request(seed=4).SerializeToString(), otlp.PROTOBUF), Decoded)


@together
def test_requests_that_come_again_in_other_company_are_stored_once(tmp_path: Path) -> None:
    bodies = [trace_request(3, seed=seed).SerializeToString() for seed in range(1, 8)]
    settings = small(tmp_path)
    store = Store(settings)
    ingest = Ingest(settings, store)
    ingest.start()
    for company in ([0, 1, 2, 3], [4], [2, 3, 4, 5], [1], [6, 0, 5]):
        found = otlp.decode_together([bodies[i] for i in company])
        assert found is not None
        ingest.accept(found.batches)
    until(ingest.is_done)
    ids = store.query("SELECT span_id FROM span")["span_id"].to_pylist()
    assert ingest.close()
    store.close()
    assert sorted(ids) == sorted(seed * 1_000_003 + i + 1 for seed in range(1, 8) for i in range(3))
