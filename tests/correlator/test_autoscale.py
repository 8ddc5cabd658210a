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
    assert ask(store) == (200, {"saturation": 1.0, "waiting": 2.0, "running": None})


def pod(store: Store, uid: str, model: str, role: str, address: str) -> None:
    table = schema.table("pod")
    row = {"time_ns": time.time_ns(), "node": "n", "pod_uid": uid, "pod": uid, "namespace": "llm", "phase": "Running"}
    row |= {"model": model, "role": role, "pod_ip": address, "service": f"{model}-service"}
    store.write([Batch(table, table.batch(row, rows=1), f"pod/{uid}")])


def busy(store: Store, number: int, pod_uid: str, uid: str) -> None:
    """A process of a pod that ran on a GPU."""
    now = time.time_ns()
    process, table = schema.table("process"), schema.table("gpu_busy")
    who = {"start_ns": now - 10**12, "node": "n", "process_uid": uid, "pod_uid": pod_uid}
    ran = {"start_ns": now - 10**9, "end_ns": now, "node": "n", "process_uid": uid, "gpu_uuid": f"GPU-{number}"}
    store.write([Batch(process, process.batch(who, rows=1), f"p/{uid}")])
    store.write([Batch(table, table.batch(ran | {"busy_ns": 1, "kernel_ns": 1, "executions": 1}, rows=1), f"b/{uid}")])


@pytest.fixture
def fleet(store: Store) -> Store:
    """One model with a pool for prefill and one for decode, told by address; one whose GPU the exporter knows by pod."""
    pod(store, "a-prefill", "a", "prefill", "10.0.0.1")
    pod(store, "a-decode", "a", "decode", "10.0.0.2")
    pod(store, "b-0", "b", "both", "10.0.0.3")
    for number, value in enumerate((0.9, 0.3)):
        gpu(store, number, "sm", value)
    busy(store, 0, "a-prefill", "n:1:1")
    busy(store, 1, "a-decode", "n:1:2")
    table = schema.table("gpu_sample")
    row = {
        "time_ns": time.time_ns(),
        "node": "n",
        "gpu_uuid": "GPU-2",
        "metric": "warpline.gpu.pipe.active",
        "part": "sm",
    }
    store.write([Batch(table, table.batch(row | {"value": 0.6, "namespace": "llm", "pod": "b-0"}, rows=1), "g/2")])
    for number, waiting in enumerate((7, 2, 1)):
        engine(store, f"10.0.0.{number + 1}:8000", "requests.waiting", waiting)
    return store


@pytest.mark.parametrize(
    ("asked", "saturation", "waiting"),
    [
        ("", 0.6, 10),
        ("?model=a", 0.6, 9),
        ("?model=a&pool=prefill", 0.9, 7),
        ("?model=a&pool=decode", 0.3, 2),
        ("?model=b", 0.6, 1),
        ("?pool=b-service&namespace=llm", 0.6, 1),
    ],
)
def test_a_model_or_a_pool_of_it_is_asked_for_alone(fleet: Store, asked: str, saturation: float, waiting: int) -> None:
    answer = TestClient(Starlette(routes=routes(fleet))).get(f"/api/saturation{asked}")
    assert answer.json() == {"saturation": pytest.approx(saturation), "waiting": waiting, "running": None}


def test_a_model_that_nobody_tells_of_has_no_number(fleet: Store) -> None:
    answer = TestClient(Starlette(routes=routes(fleet))).get("/api/saturation?model=c&pool=decode")
    assert answer.status_code == 503
    assert "no engine of model 'c' of pool 'decode'" in answer.json()["error"]


def test_a_model_is_known_by_the_name_that_its_engine_tells_too(fleet: Store) -> None:
    table = schema.table("engine_sample")
    row = {"time_ns": time.time_ns(), "target": "10.0.0.3:8000", "engine": "vllm", "metric": "requests.waiting"}
    row |= {"statistic": "value", "value": 1.0, "model": "served-b"}
    fleet.write([Batch(table, table.batch(row, rows=1), "e/b")])
    answer = TestClient(Starlette(routes=routes(fleet))).get("/api/saturation?model=served-b").json()
    assert answer["saturation"] == pytest.approx(0.6)


def test_a_queue_that_is_empty_says_nothing_of_a_gpu_that_nobody_reads(store: Store) -> None:
    engine(store, "a", "requests.waiting", 0)
    assert ask(store) == (200, {"saturation": None, "waiting": 0.0, "running": None})
