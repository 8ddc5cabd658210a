"""The model of a request that its engine does not name: that of its pod or of its address, where one alone is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

BASE = 1_700_000_000_000_000_000
Row = dict[str, Any]


def models(directory: Path, tables: dict[str, list[Row]]) -> dict[int, str | None]:
    """Return the model of each request in the view `request`, by its connection."""
    store = Store(Settings(state_dir=str(directory), correlator_disk_reserve_mb=0))
    for name, rows in tables.items():
        columns = {c: [row.get(c) for row in rows] for c in {c for row in rows for c in row}}
        store.write([Batch(schema.table(name), schema.table(name).batch(columns), name)])
    Joins(store.settings, store).rebuild()
    found = {row["connection_id"]: row["model"] for row in store.query("FROM request").to_pylist()}
    store.close()
    return found


def exchange(connection: int, **more: Any) -> Row:
    common = {"node": "a", "side": "server", "method": "POST", "path": "/v1/completions", "status": 200, "ordinal": 0}
    return common | {"start_ns": BASE + connection, "end_ns": BASE + 10**8, "connection_id": connection, **more}


def reading(target: str, model: str | None, **more: Any) -> Row:
    told = {"engine": "vllm", "metric": "requests.waiting", "statistic": "value", "value": 0.0, "monotonic": False}
    return {"time_ns": BASE, "target": target, "model": model, **told, **more}


def at(address: str, port: int) -> Row:
    return {"local_address": address, "local_port": port}


def nodes(*names: str) -> list[Row]:
    return [{"time_ns": BASE, "node": name, "boot_id": name} for name in names]


def test_the_model_of_an_address_is_what_its_engine_tells_and_scrapes_have_none(tmp_path: Path) -> None:
    tables = {
        "http_exchange": [
            exchange(1, **at("10.0.0.7", 8000)),
            exchange(2, **at("10.0.0.7", 9000)),
            exchange(3, **at("10.0.0.7", 8000), method="GET", path="/metrics"),
            exchange(4, **at("10.0.0.8", 8000)),
        ],
        "engine_sample": [
            reading("10.0.0.7:8000", "llama"),
            reading("10.0.0.7:8000", None),
            reading("10.0.0.8:8000", "llama"),
            reading("10.0.0.8:8000", "llama-sql"),
        ],
    }
    assert models(tmp_path, tables) == {1: "llama", 2: None, 3: None, 4: None}, "of two that an address serves, neither"


def test_a_loopback_address_is_that_of_its_node_alone(tmp_path: Path) -> None:
    both = [exchange(1, **at("127.0.0.1", 8000)), exchange(2, **at("127.0.0.1", 8000), node="b")]
    told = [reading("127.0.0.1:8000", "llama", node="a")]
    assert models(tmp_path / "told", {"http_exchange": both, "engine_sample": told}) == {1: "llama", 2: None}
    untold = {"http_exchange": both, "engine_sample": [reading("127.0.0.1:8000", "llama")]}
    assert models(tmp_path / "untold", untold | {"node": nodes("a", "b")}) == {1: None, 2: None}
    one = {"http_exchange": both[:1], "engine_sample": untold["engine_sample"], "node": nodes("a")}
    assert models(tmp_path / "one", one) == {1: "llama"}


def test_the_model_of_a_pod_is_what_its_engine_tells_else_what_the_cluster_does(tmp_path: Path) -> None:
    pod = {"time_ns": BASE, "namespace": "ml", "pod": "p"}
    tables = {
        "http_exchange": [exchange(1, pod_uid="u1"), exchange(2, process_uid="a:1:2"), exchange(3, pod_uid="u3")],
        "process": [{"start_ns": BASE, "node": "a", "process_uid": "a:1:2", "pod_uid": "u2", "pod": "p"}],
        "pod": [pod | {"pod_uid": "u1", "model": "of the cluster"}, pod | {"pod_uid": "u2", "model": "of the cluster"}],
        "engine_sample": [reading("10.0.0.1:8000", "of the engine", pod_uid="u1")],
    }
    assert models(tmp_path, tables) == {1: "of the engine", 2: "of the cluster", 3: None}


def test_what_an_engine_says_of_a_request_holds(tmp_path: Path) -> None:
    engine = {
        "node": "a",
        "process_uid": "a:1:3",
        "engine_index": 0,
        "internal_id": "cmpl-1-0a0a0a0a",
        "external_id": "cmpl-1",
    }
    tables = {
        "http_exchange": [exchange(1, **at("10.0.0.7", 8000), response_id="cmpl-1")],
        "engine_request": [engine | {"start_ns": BASE + 1, "end_ns": BASE + 2, "model": "an adapter of it"}],
        "engine_sample": [reading("10.0.0.7:8000", "llama")],
    }
    assert models(tmp_path, tables) == {1: "an adapter of it"}
