from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from correlator.joins import executions, made_of, stages
from correlator.joins.stages import Joins
from correlator.storage import pieces, segments, store, views
from correlator.storage.pieces import Piece, narrowed, near, within
from correlator.storage.store import Store
from tests.correlator.test_joins import SORTS, batches, results, told_by_plugin
from tests.simulator.score import toy
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

S = 1_000_000_000
SHARE = schema.table("share")
STORED = {"share": [Piece(f"'share.{n}'", ("time_ns",), n * 10 * S, (n + 1) * 10 * S - 1) for n in range(10)]}
QUERY = "-- One share.\n-- within: share 5 s\nSELECT time_ns FROM share ORDER BY time_ns"


def paths(sql: str) -> list[str]:
    return re.findall(r"'share\.(\d+)'", sql)


def test_a_query_reads_the_pieces_near_its_window_and_no_other() -> None:
    assert paths(narrowed(QUERY, {"since_ns": 45 * S, "until_ns": 55 * S}, STORED)) == ["4", "5", "6"]
    assert paths(narrowed(QUERY, {"since_ns": 46 * S, "until_ns": 54 * S}, STORED)) == ["4", "5"]
    assert paths(narrowed(QUERY, {"until_ns": 4 * S}, STORED)) == ["0"]
    assert narrowed(QUERY, {}, STORED) == QUERY


def test_a_window_without_rows_reads_nothing() -> None:
    found = narrowed(QUERY, {"since_ns": 1000 * S, "until_ns": 1001 * S}, STORED)
    assert not paths(found)
    assert "WHERE false" in found


def test_a_querys_own_with_clause_goes_on() -> None:
    sql = "-- within: share 5 s\nWITH mine AS (FROM share) FROM mine"
    found = narrowed(sql, {"since_ns": 0, "until_ns": S}, STORED)
    assert found.startswith("WITH share AS NOT MATERIALIZED (SELECT")
    assert found.count("WITH") == 1
    assert found.endswith("mine AS (FROM share) FROM mine")


def test_a_comment_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'share 5' is not of the form"):
        within("-- within: share 5")


def test_pieces_touch_a_window_with_their_first_and_last_moment() -> None:
    (piece,) = near(STORED["share"], 20 * S - 1, 20 * S - 1)
    assert piece.source == "'share.1'"
    assert [p.source for p in near(STORED["share"], 20 * S - 1, 20 * S)] == ["'share.1'", "'share.2'"]


QUERIES = {
    **{view.name: view.sql for view in views.load().values()},
    **{p.name[1:-4]: p.read_text() for p in (files("correlator") / "sql").iterdir() if p.name.startswith("_join_")},
    **{f"came {name}": sql for name, sql in made_of._STEPS.items()},
}
CUT = sorted(name for name, sql in QUERIES.items() if within(sql))


@pytest.mark.parametrize("name", CUT)
def test_what_a_query_cuts_is_a_table_that_it_reads_in_its_window(name: str) -> None:
    sql = QUERIES[name]
    code = re.sub(r"--[^\n]*", "", sql)
    words = set(re.findall(r"[a-z_]+", code)) | ({"launch", "gpu_kernel"} if "kernels_of_steps" in code else set())
    words |= {"alias"} if words & {"aliases_of", "internal_ids"} else set()
    made = {view.name for view in views.load().values() if within(view.sql, "parts")}
    assert within(sql).keys() <= words & ({table.name for table in schema.TABLES} | made)
    assert {"$since_ns", "$until_ns"} <= set(re.findall(r"\$[a-z_]+", code))
    most = max(max(each) for each in within(sql).values())
    looked = [int(n.replace("_", "")) for n in re.findall(r"\$(?:since|until)_ns(?:::BIGINT)? [-+] ([\d_]+)", code)]
    assert max(looked, default=0) <= most or name in ("request_around", "_join_batch")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, dict[str, pa.Table]]]:
    """A store in which rows of 200 ms lie in a segment of their own, with its results."""
    place = tmp_path_factory.mktemp("pieces")
    seen, truth = toy(place, seconds=6, rate=6, plugin=True)
    seen["step_member"] = pa.Table.from_batches([told_by_plugin(truth)])
    seen["off_cpu"] = kept_from_a_core(seen["launch"])
    seen["kv_transfer"] = fetched(seen["engine_request"])
    made = Store(Settings(state_dir=str(place / "state"), correlator_disk_reserve_mb=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "ROWS", 1)
        patch.setattr(stages, "_PIECES", 100)
        for name, rows in seen.items():
            stretch = np.asarray(rows[schema.table(name).time].to_numpy()) // (S // 5)
            for number in np.unique(stretch).tolist():
                part = rows.filter(pa.array(stretch == number))
                made.write([Batch(b.table, b.rows, f"{b.batch_id}/{number}") for b in batches({name: part})])
        joins = Joins(made.settings, made)
        joins.catch_up()
    yield made, results(made)
    made.close()


def kept_from_a_core(launches: pa.Table) -> pa.Table:
    """Return rows of `off_cpu`: the thread of each launch waits for a core for as long as that took."""
    rows = launches.select(["start_ns", "end_ns", "node", "process_uid", "thread_id"])
    rows = rows.append_column("runqueue_ns", pc.subtract(rows["end_ns"], rows["start_ns"]))
    return rows.append_column("reason", pa.repeat("runqueue", len(rows)))


def fetched(requests: pa.Table) -> pa.Table:
    """Return rows of `kv_transfer`: each request waits 5 ms for its KV cache."""
    rows = requests.select(["start_ns", "node", "process_uid", "internal_id"])
    rows = rows.append_column("end_ns", pc.add(rows["start_ns"], 5_000_000))
    return rows.append_column("direction", pa.repeat("received", len(rows)))


def test_results_are_the_same_where_all_pieces_are_read(
    small: tuple[Store, dict[str, pa.Table]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, found = small
    assert len(made._pieces["gpu_kernel"]) > 20
    assert len(made._pieces["share"]) > 4
    monkeypatch.setattr(store, "narrowed", lambda sql, *_: sql)
    Joins(made.settings, made).rebuild()
    whole = results(made)
    for name in SORTS:
        assert whole[name].equals(found[name]), name


def ordered(rows: pa.Table) -> pa.Table:
    """Return rows in one order, sums of floating numbers without what depends on the order in which they were added."""
    for at, field in enumerate(rows.schema):
        if pa.types.is_floating(field.type):
            rows = rows.set_column(at, field.name, pc.round(rows[field.name], 3))
    return rows.sort_by([(name, "ascending") for name in rows.column_names]).combine_chunks()


FILTERS = {
    "text": "*",
    "path": "*",
    "pod": "*",
    "outcome": "*",
    "least_ns": 0,
    "most_ns": 1 << 60,
    "interval_ns": S // 10,
}
OF_ONE = sorted(view.name for view in views.load().values() if view.when)


@pytest.mark.parametrize("name", [name for name in CUT if name in views.load() and name not in OF_ONE])
def test_a_view_says_the_same_where_all_pieces_are_read(
    small: tuple[Store, dict[str, pa.Table]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made, _ = small
    view = views.load()[name]
    bounds = made.query("SELECT min(start_ns) AS low, max(end_ns) AS high FROM gpu_kernel").to_pylist()[0]
    every = made.query("SELECT request_uid, attempt_uid, start_ns FROM request ORDER BY start_ns").to_pylist()
    uid = [each["request_uid"] for each in every]
    node, process = made.query("SELECT DISTINCT node, process_uid FROM off_cpu ORDER BY ALL").to_pylist()[0].values()
    ids = made.query("SELECT DISTINCT internal_id FROM step_member ORDER BY 1").column(0).to_pylist()
    rows = 0
    for low in range(bounds["low"] - S, bounds["high"], 2 * S):
        near_it = next((each for each in every if low <= each["start_ns"] < low + S), every[0])
        for one in ids[::7] if "request" in view.parameters else [ids[0]]:
            asked = FILTERS | {
                "request": one,
                "node": node,
                "process": process,
                "requests": " ".join(uid),
                "subjects": [one],
                "step_ordinal": 40,
                "request_uid": near_it["request_uid"],
                "id": near_it["attempt_uid"],
                "begun_ns": low + S,
                "since_ns": low,
                "until_ns": low + S,
            }
            asked = {key: value for key, value in asked.items() if key in view.parameters}
            cut = made.view(name, asked).read_all()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "narrowed", lambda sql, *_: sql)
                whole = made.view(name, asked).read_all()
            assert ordered(cut).equals(ordered(whole)), asked
            rows += len(cut)
    assert rows or name in ("request_around",)


@pytest.mark.parametrize("name", OF_ONE)
def test_a_view_about_one_thing_finds_when_it_was(small: tuple[Store, dict[str, pa.Table]], name: str) -> None:
    made, _ = small
    (parameter,) = (each for each in views.load()[name].parameters if each not in views.WINDOW)
    kinds = ["request_uid"] if parameter == "request_uid" else IDS
    rows = 0
    for kind in kinds:
        asked = made.query(f"SELECT DISTINCT {kind} AS id FROM request WHERE {kind} IS NOT NULL ORDER BY 1")[
            "id"
        ].to_pylist()
        for one in asked[:: max(len(asked) // 7, 1)]:
            cut = made.view(name, {parameter: one}).read_all()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "narrowed", lambda sql, *_: sql)
                whole = made.view(name, {parameter: one, **views.WINDOW}).read_all()
            assert ordered(cut).equals(ordered(whole)), (kind, one)
            rows += len(cut)
    assert rows
    assert not made.view(name, {parameter: "cmpl-unknown"}).read_all().num_rows


IDS = ["request_uid", "request_id", "response_id", "trace_id", "internal_id", "attempt_uid"]


def test_a_view_is_made_of_its_parts_near_the_window() -> None:
    views_ = {
        "span_named": "SELECT name FROM span",
        "spans": "-- parts: span 5 s\nSELECT * FROM span JOIN span_named USING (name)",
    }
    stored = {"span": [Piece(f"'span.{n}'", ("start_ns", "name"), n * 10 * S, (n + 1) * 10 * S - 1) for n in range(10)]}
    sql = "-- within: spans 0..10 s\nWITH RECURSIVE own AS (FROM spans) FROM own"
    found = narrowed(sql, {"since_ns": 41 * S, "until_ns": 44 * S}, stored, views_)
    assert re.findall(r"'span\.(\d+)'", found) == ["3", "4", "5"]
    assert f'"start_ns" BETWEEN {36 * S} AND {59 * S}' in found
    assert found.startswith("WITH RECURSIVE spans AS NOT MATERIALIZED (WITH span AS NOT MATERIALIZED (SELECT")
    assert "span_named AS NOT MATERIALIZED" in found
    assert found.endswith("own AS (FROM spans) FROM own")
    assert narrowed(sql, {}, stored, views_) == sql
    nearer = narrowed(f"-- parts: span 1 s\n{sql}", {"since_ns": 41 * S, "until_ns": 44 * S}, stored, views_)
    assert f'"start_ns" BETWEEN {40 * S} AND {55 * S}' in nearer


def test_a_querys_margins_are_looked_at_here() -> None:
    assert len(CUT) > 25
    assert executions.load("kernel") == QUERIES["join_kernel"]
    assert pieces.within(QUERIES["request_step"]) == {
        "alias": (3600 * S, 3600 * S),
        "share": (5 * S, 5 * S),
        "step_member": (0, 0),
    }
    assert pieces.within(QUERIES["request_search"]) == {"request": (0, 3600 * S)}
