"""A request is found by any of its ids, with the stretch of time that it lasts: also while it goes on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from correlator.explain import explain
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests.correlator.storing import NOON, small
from warpline import schema
from warpline.batch import Batch

EXCHANGE = schema.table("http_exchange")
UID = f"n1/server/n1:1:2/7/0/{NOON}"
HOUR = 3_600_000_000_000


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("ended", [False, True])
def test_a_request_is_found_and_explained_by_its_ids_before_it_is_joined_and_before_it_ends(
    tmp_path: Path, joined: bool, ended: bool
) -> None:
    row = {"start_ns": NOON, "node": "n1", "process_uid": "n1:1:2", "side": "server", "connection_id": 7, "ordinal": 0}
    row |= {"method": "POST", "request_id": "mine", "response_id": "cmpl-mine"}
    last = row | {"end_ns": NOON + 50_000_000, "status": 200}
    with closing(Store(small(tmp_path))) as store:
        for number, each in enumerate([row, last] if ended else [row]):
            store.write([Batch(EXCHANGE, EXCHANGE.batch(each, 1), f"x/{number}")])
        if joined:
            Joins(store.settings, store).rebuild()
        for name in ("mine", "cmpl-mine", UID):
            (when,) = store.view("request_when", {"id": name}).read_all().to_pylist()
            assert when["since_ns"] == NOON
            assert when["until_ns"] == NOON + 50_000_000 if ended else when["until_ns"] > NOON + 24 * HOUR
            told = explain(lambda view, **asked: store.view(view, asked).read_all(), name)
            assert (told.request["request_uid"], told.request["open"]) == (UID, not ended)
        assert store.view("request_when", {"id": "another"}).read_all().num_rows == 0
