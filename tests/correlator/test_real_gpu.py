"""What the recording of a real GPU says: the joins hold on it as they do on the double, and its clocks are one clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from correlator.storage.store import Store
from tests import golden

CASE = golden.SAMPLES / "real_gpu"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = golden.stored(CASE, Path(tmp_path_factory.mktemp("real_gpu")))
    yield opened
    opened.close()


def only(store: Store, statement: str) -> tuple[int, ...]:
    (row,) = store.query(statement).to_pylist()
    return tuple(row.values())


def test_every_request_is_followed_from_the_clients_socket_to_its_kernels(store: Store) -> None:
    paths = store.view("request_path").read_all().to_pylist()
    assert len(paths) == 23
    for path in paths:
        assert path["missing"] is None and path["server"] and path["client"]
        assert path["steps"] == path["executed_steps"] == 11, "one step a token"
        assert path["launches"] == path["executions"] > 8000


def test_gpu_time_is_conserved_to_the_nanosecond(store: Store) -> None:
    (measured,) = only(store, "SELECT sum(busy_ns) FROM gpu_busy")
    account = {row["went_to"]: row for row in store.view("gpu_account").read_all().to_pylist()}
    assert account["requests"]["share_ns"] + account["unattributed"]["share_ns"] == measured
    assert sum(row["time_ns"] for row in account.values()) == account["requests"]["watched_ns"]
    assert account["requests"]["requests"] == 23 and account["requests"]["evidence"] == "exact"


def test_each_execution_has_one_launch_and_begins_after_it(store: Store) -> None:
    pairs, least, executions = only(
        store,
        "SELECT count(*), min(k.start_ns - l.start_ns), (SELECT count(*) FROM gpu_kernel) FROM gpu_kernel k"
        " JOIN launch l USING (process_uid, session, correlation_id)",
    )
    assert pairs == executions == 42_487
    assert 0 < least < 10_000, "ns; CUPTI's clock is the node's"


def test_nothing_of_it_is_simulated_or_of_doubtful_time(store: Store) -> None:
    assert only(store, "SELECT count(*) FROM gpu_kernel WHERE simulated OR validity <> 'ok'") == (0,)
    assert store.view("loss_total").read_all().num_rows == 0
