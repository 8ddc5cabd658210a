from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correlator.explain import Explanation, explain, lines, milliseconds
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests import golden
from tests.simulator.score import toy
from warpline import schema
from warpline.batch import Batch
from warpline.errors import StoreError
from warpline.settings import Settings


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory: Path = tmp_path_factory.mktemp("explain")
    made = Store(Settings(state_dir=str(directory / "state"), correlator_disk_reserve_mb=0))
    seen, _ = toy(directory, seconds=6, rate=10, most_requests=8)
    for name, rows in seen.items():
        made.write([Batch(schema.table(name), rows.combine_chunks().to_batches()[0], name)])
    Joins(made.settings, made).catch_up()
    yield made
    made.close()


@pytest.fixture(scope="module")
def view(store: Store) -> Callable[..., pa.Table]:
    return lambda name, **parameters: store.view(name, parameters).read_all()


@pytest.fixture(scope="module")
def explained(store: Store, view: Callable[..., pa.Table]) -> list[tuple[dict[str, Any], Explanation]]:
    """25 requests of a server, each with what is told of it."""
    requests = store.query("SELECT * FROM request WHERE side = 'server' ORDER BY start_ns").to_pylist()
    assert len(requests) > 30
    return [(row, explain(view, row["response_id"])) for row in requests[:25]]


def waited_most(store: Store) -> dict[str, Any]:
    row: dict[str, Any] = store.query("SELECT * FROM request ORDER BY queue_ns DESC LIMIT 1").to_pylist()[0]
    return row


def test_the_parts_of_a_request_fill_its_wall_time(explained: list[tuple[dict[str, Any], Explanation]]) -> None:
    for row, found in explained:
        assert found.wall_ns == row["client_end_ns"] - row["client_start_ns"]
        assert found.coverage == row["coverage_ratio"] == 1.0
        assert next(p.name for p in found.parts) == "network to the server"


def test_a_wait_in_the_queue_is_the_first_finding_and_names_who_was_served(store: Store, view: Any) -> None:
    row = waited_most(store)
    found = explain(view, row["response_id"])
    queue = next(p for p in found.parts if p.name == "queue")
    assert queue.ns == row["queue_ns"] > 50_000_000
    said = next(c for c in found.causes if "waited in the queue" in c.sentence)
    assert 0.5 * queue.ns < said.ns <= queue.ns + 20_000_000
    assert "chatcmpl-" in said.sentence
    assert found.causes == sorted(found.causes, key=lambda c: -c.ns)


def test_every_request_is_followed_from_the_clients_socket_to_its_gpu_executions(
    explained: list[tuple[dict[str, Any], Explanation]], view: Any
) -> None:
    for row, found in explained:
        ways = {(r["from_kind"], r["to_kind"]) for r in view("request_edge", request=row["internal_id"]).to_pylist()}
        assert {
            ("http_exchange", "http_exchange"),
            ("attempt", "http_exchange"),
            ("attempt", "engine_request"),
            ("engine_request", "engine_step"),
            ("engine_step", "gpu_kernel"),
        } <= ways
        assert found.missing == []


def test_any_id_of_a_request_finds_it(store: Store, view: Any) -> None:
    row = waited_most(store)
    for key in ("request_uid", "response_id", "internal_id"):
        assert explain(view, row[key]).request["request_uid"] == row["request_uid"]


def test_an_unknown_id_is_told_with_what_to_do(view: Any) -> None:
    with pytest.raises(StoreError, match="request 'nobody': none is known by this id; `warpline query request"):
        explain(view, "nobody")


def test_what_was_not_recorded_is_named(tmp_path: Path) -> None:
    store = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=0))
    exchange = {
        "start_ns": 10**18,
        "end_ns": 10**18 + 5_000_000,
        "node": "n",
        "side": "server",
        "connection_id": 1,
        "ordinal": 0,
    }
    row = schema.table("http_exchange").batch({**exchange, "response_id": "cmpl-1", "status": 200}, 1)
    store.write([Batch(schema.table("http_exchange"), row, "one")])
    Joins(store.settings, store).catch_up()
    found = explain(lambda name, **p: store.view(name, p).read_all(), "cmpl-1")
    store.close()
    assert [m.split(":")[0] for m in found.missing] == [
        "the client's end of the connection",
        "the engine's request",
        "the engine steps that it was in",
        "its GPU executions",
    ]
    assert found.coverage == found.request["coverage_ratio"] == 0.0
    text = "\n".join(lines(found))
    assert "5 ms of wall time" in text
    assert "What was not recorded" in text


def test_the_view_and_the_explanation_agree_on_the_coverage(tmp_path: Path) -> None:
    store = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=0))
    random, rows = np.random.default_rng(8), []
    for number in range(12):
        begin, length, received, early, late = (int(x) for x in random.integers(0, 50_000_000, 5))
        known = {"ordinal": 0, "response_id": f"cmpl-{number}", "protocol": "http/1.1", "connection_id": number}
        one, other = ({"address": f"10.0.0.{n}", "port": number} for n in (1, 2))
        for side, mine, theirs in (("client", one, other), ("server", other, one)):
            ends = {f"local_{k}": v for k, v in mine.items()} | {f"peer_{k}": v for k, v in theirs.items()}
            wider = (early, late) if side == "client" else (0, 0)
            times = {"start_ns": 10**18 + begin - wider[0], "end_ns": 10**18 + begin + length + wider[1]}
            times["request_end_ns"] = 10**18 + begin + received if number % 3 else None
            node = "here" if side == "server" or number % 2 else "there"
            rows.append(known | ends | times | {"node": node, "side": side})
    names = {name for row in rows for name in row}
    batch = schema.table("http_exchange").batch({name: [row[name] for row in rows] for name in names})
    store.write([Batch(schema.table("http_exchange"), batch, "all")])
    Joins(store.settings, store).catch_up()
    found = [explain(lambda name, **p: store.view(name, p).read_all(), f"cmpl-{n}") for n in range(12)]
    store.close()
    assert [f.request["coverage_ratio"] for f in found] == pytest.approx([f.coverage for f in found])
    assert len({round(f.coverage, 6) for f in found}) > 4


def test_a_cold_start_is_told_with_the_image_that_it_pulled(tmp_path: Path) -> None:
    store = golden.stored(golden.SAMPLES / "cold_start", tmp_path)
    view = lambda name, **asked: store.view(name, asked).read_all()  # noqa: E731
    slowest = store.query("SELECT request_uid FROM request WHERE method = 'POST' ORDER BY duration_ns DESC LIMIT 1")
    found = explain(view, slowest["request_uid"][0].as_py())
    start, image = (each for each in [*found.causes, *found.around] if "llm/engine-1" in each.sentence)
    store.close()
    assert start == found.causes[0] and start.kind == "event"
    assert start.sentence.endswith("; it did not serve this request, but started on its node")
    assert start.sentence.startswith("a cold start: pod llm/engine-1 was created ")
    assert image.sentence.startswith("pod llm/engine-1 began to pull its image ")
    assert image.sentence.endswith(" before it began and had it after 8 s")
    assert (image.evidence, image.method) == ("estimated", "kubelet's Events, in whole seconds")


def test_times_are_told_with_the_digits_that_count() -> None:
    assert [milliseconds(x) for x in (1_234, 56_789_000, 2_500_000_000)] == ["0.00123 ms", "56.8 ms", "2.5 s"]


def test_a_wait_for_a_kv_cache_is_a_part_of_its_own_and_nobody_elses_fault(store: Store, view: Any) -> None:
    row = store.query("SELECT * FROM request ORDER BY queue_ns DESC LIMIT 1 OFFSET 1").to_pylist()[0]
    window = {"since_ns": row["start_ns"], "until_ns": row["end_ns"]}
    (engine,) = view("request_served", id=row["attempt_uid"], **window).to_pylist()
    low, high = engine["start_ns"], engine["scheduled_ns"]
    before, third = explain(view, row["response_id"]), (high - low) // 3
    waits = (  # Two that overlap, one that is sent, and one of another engine's request under the same id.
        (low + third // 2, low + 2 * third, "received", engine["process_uid"], "failed"),
        (low + third, high - third // 2, "received", engine["process_uid"], "done"),
        (low, high, "sent", engine["process_uid"], None),
        (low, high, "received", "n:1:1", "done"),
    )
    names = ("start_ns", "end_ns", "direction", "process_uid", "outcome")
    columns = dict(zip(names, map(list, zip(*waits, strict=True)), strict=True))
    table = schema.table("kv_transfer")
    same = {"node": row["node"], "internal_id": engine["internal_id"], "transfer_id": "cmpl-far-1"}
    store.write([Batch(table, table.batch({**columns, **same}, 4), "transfers")])
    found = explain(view, row["response_id"])
    was, now = ({p.name: p.ns for p in each.parts} for each in (before, found))
    assert now.pop("KV transfer") == high - third // 2 - (low + third // 2)
    assert now.pop("queue") == was.pop("queue") - (high - low) + third // 2 + third // 2
    assert now == was and found.wall_ns == before.wall_ns
    assert [p.name for p in found.parts][2:4] == ["API server before the engine", "queue"]
    said = {c.sentence: c.ns for c in found.causes}
    assert any("for its KV cache to come from elsewhere (cmpl-far-1)" in each for each in said)
    assert any("its KV cache did not come whole" in each for each in said)
    queue = next(p.ns for p in found.parts if p.name == "queue")
    assert max((ns for each, ns in said.items() if "waited in the queue" in each), default=0) <= queue
    assert any("waited in the queue" in c.sentence and c.ns > queue for c in before.causes)
