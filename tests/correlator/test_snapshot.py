"""Rules on a snapshot say what they say on the store itself, whatever they read and however far they look back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from correlator.alerting import alert_rule
from correlator.alerting.alert_rule import Rule
from correlator.storage import snapshot
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.errors import StoreError
from warpline.settings import Settings

SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND
RULES = alert_rule.load()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Exchanges, GPU readings and clocks of three hours on two days' files."""
    state = tmp_path_factory.mktemp("state")
    made = Store(Settings(state_dir=str(state), correlator_disk_reserve_mb=1))
    times = [NOW - second * SECOND for second in range(0, 3 * 3600, 7)]
    ends = [start + (1 + at % 5) * SECOND for at, start in enumerate(times)]
    paths = ["/v1/completions" if at % 3 else "/v1/models" for at in range(len(times))]
    exchange = {
        "start_ns": times, "end_ns": ends, "first_body_ns": ends, "node": "n1", "side": "server", "method": "POST",
        "connection_id": list(range(len(times))), "ordinal": 0, "path": paths, "retransmits": 3, "process_uid": "n1:1:2",
    }  # fmt: skip
    sample = {"time_ns": times, "node": "n1", "gpu_uuid": "GPU-1", "metric": "warpline.gpu.xid.last", "value": 0.0}
    clocks = dict.fromkeys(("monotonic_ns", "boottime_ns", "realtime_ns", "half_width_ns"), 1)
    clock = {"time_ns": times, "node": "n1", "boot_id": "b", **clocks}
    for name, columns in (("http_exchange", exchange), ("gpu_sample", sample), ("clock_pair", clock)):
        table = schema.table(name)
        made.write([Batch(table, table.batch(columns, len(times)), f"{name}/1")])
    yield made
    made.close()


def rows(query: snapshot.Query, rule: Rule, now_ns: int) -> list[str]:
    return sorted(str(row) for row in query(rule.sql, rule.parameters(now_ns, {})).to_pylist())


@pytest.mark.parametrize("ago", [0, 45, 3601, 2 * 3600])
def test_every_shipped_rule_says_the_same_on_a_snapshot_as_on_the_store(store: Store, ago: int) -> None:
    now = NOW - ago * SECOND
    spoken = 0
    with snapshot.opened(store, snapshot.inputs(tuple(rule.sql for rule in RULES)), now, now) as query:
        for rule in RULES:
            said = rows(query, rule, now)
            assert said == rows(store.query, rule, now), rule.name
            spoken += len(said)
    assert spoken >= 4


def test_one_snapshot_serves_every_moment_of_its_stretch(store: Store) -> None:
    of = snapshot.inputs(tuple(rule.sql for rule in RULES))
    with snapshot.opened(store, of, NOW - 600 * SECOND, NOW) as query:
        for now in range(NOW - 600 * SECOND, NOW + 1, 120 * SECOND):
            assert all(rows(query, rule, now) == rows(store.query, rule, now) for rule in RULES)


def test_what_looks_back_further_than_a_snapshot_reaches_is_left_to_the_store(store: Store) -> None:
    far = "SELECT COUNT(*) AS value, true AS firing FROM clock_pair WHERE time_ns > $now_ns - 10800000000000"
    near = far.replace("10800000000000", "60000000000")
    assert (snapshot.fits(far), snapshot.fits(near), snapshot.fits("SELECT 1")) == (False, True, False)
    with snapshot.opened(store, snapshot.inputs((far, near)), NOW, NOW) as query:
        found = [query(sql, {"now_ns": NOW})["value"][0].as_py() for sql in (far, near)]
    assert found[0] > 1500 > 10 > found[1] > 5


def test_a_table_that_is_too_large_to_copy_is_read_where_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_MOST_ROWS", 3)
    with snapshot.opened(store, snapshot.inputs(tuple(rule.sql for rule in RULES)), NOW, NOW) as query:
        assert all(rows(query, rule, NOW) == rows(store.query, rule, NOW) for rule in RULES)


@pytest.mark.parametrize("most_rows", [3, 1_000_000])
def test_no_rule_sees_rows_that_no_rule_looks_back_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, most_rows: int
) -> None:
    monkeypatch.setattr(snapshot, "_MOST_ROWS", most_rows)
    careless = "SELECT MIN(time_ns) AS value FROM clock_pair WHERE $now_ns - 60000000000 > 0"
    with snapshot.opened(store, snapshot.inputs((careless,)), NOW, NOW) as query:
        assert query(careless, {"now_ns": NOW})["value"][0].as_py() == NOW - 56 * SECOND


def test_a_rule_that_is_wrong_says_so(store: Store) -> None:
    wrong = "SELECT nothing FROM clock_pair WHERE time_ns > $now_ns - 60000000000"
    with (
        snapshot.opened(store, snapshot.inputs((wrong,)), NOW, NOW) as query,
        pytest.raises(StoreError, match="nothing"),
    ):
        query(wrong, {"now_ns": NOW})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM clock_pair",
        "SELECT node, * EXCLUDE (node) FROM clock_pair",
        "SELECT c.* FROM clock_pair c",
        "FROM clock_pair",
        "SELECT half_width_ns FROM (FROM clock_pair)",
        "SELECT MAX(COLUMNS('_ns$')) FROM clock_pair",
    ],
)
def test_what_is_read_without_being_named_is_copied_too(store: Store, sql: str) -> None:
    sql += " WHERE time_ns > $now_ns - 60000000000 AND time_ns <= $now_ns"
    with snapshot.opened(store, snapshot.inputs((sql,)), NOW, NOW) as query:
        found, whole = query(sql, {"now_ns": NOW}), store.query(sql, {"now_ns": NOW})
    assert found.column_names == whole.column_names
    assert sorted(map(str, found.to_pylist())) == sorted(map(str, whole.to_pylist()))


def test_only_columns_that_some_rule_reads_are_copied(store: Store) -> None:
    reads = [
        "SELECT node, COUNT(*) AS value FROM clock_pair WHERE time_ns > $now_ns - 60000000000 GROUP BY ALL",
        "SELECT MAX(half_width_ns) AS value FROM clock_pair WHERE time_ns > $now_ns - 30000000000",
    ]
    copies = snapshot.inputs(tuple(reads)).statements(NOW, NOW)
    found = {name: store.query(sql, bound).column_names for name, sql, bound in copies}
    assert found == {"clock_pair": ["time_ns", "node", "half_width_ns"]}
