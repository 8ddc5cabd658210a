import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from correlator.alerting.autoscale import routes
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(state_dir=str(tmp_path), correlator_disk_reserve_mb=1))
    yield made
    made.close()


def ask(store: Store) -> tuple[int, dict[str, object]]:
    answer = TestClient(Starlette(routes=routes(store))).get("/api/saturation")
    return answer.status_code, answer.json()


def gpu(store: Store, number: int, part: str, value: float) -> None:
    table = schema.table("gpu_sample")
    row = {"time_ns": time.time_ns(), "node": "n", "gpu_uuid": f"GPU-{number}", "metric": "warpline.gpu.pipe.active"}
    store.write([Batch(table, table.batch({**row, "part": part, "value": value}, rows=1), f"g/{number}/{part}")])


def engine(store: Store, target: str, metric: str, value: float) -> None:
    table = schema.table("engine_sample")
    row = {"time_ns": time.time_ns(), "target": target, "engine": "vllm", "metric": metric, "statistic": "value"}
    store.write([Batch(table, table.batch({**row, "value": value}, rows=1), f"e/{target}/{metric}")])


def test_nothing_known_is_no_number_and_never_idle(store: Store) -> None:
    status, body = ask(store)
    assert status == 503
    assert "no GPU and no engine" in str(body["error"])


def test_saturation_is_the_mean_sm_activity_and_queues_add_up(store: Store) -> None:
    gpu(store, 0, "sm", 0.9)
    gpu(store, 1, "sm", 0.7)
    gpu(store, 1, "graphics", 1.0)
    engine(store, "a", "requests.waiting", 3)
    engine(store, "b", "requests.waiting", 4)
    engine(store, "b", "requests.running", 11)
    status, body = ask(store)
    assert (status, body["waiting"], body["running"]) == (200, 7, 11)
    assert body["saturation"] == pytest.approx(0.8)


def test_waiting_requests_without_any_gpu_reading_mean_full(store: Store) -> None:
    engine(store, "a", "requests.waiting", 2)
    assert ask(store) == (200, {"saturation": 1.0, "waiting": 2.0, "running": 0})
