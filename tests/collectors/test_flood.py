"""A hundred times the usual volume of everything at once: all of it told or counted, in bounded memory, and healed after."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from collectors import dcgm, engine_metrics
from collectors.wire import prometheus
from collectors.wire.runtime_pb2 import ContainerEventResponse
from tests.collectors.api_server_double import ApiServerDouble, Kind, api_server, pod
from tests.collectors.killed import killed
from tests.collectors.telemetry_doubles import grpc_double, text_server_double
from tests.waiting import until
from tests.warpline.test_export import Receiver

TIMES = 100
MOST_MB = 384
"""What the chart lets a collector have."""
LINES, EVENTS = 150, 100
DCGM = "dcgm/metrics/h100-8gpu-dynamo-vllm-pods-580.prom"
ENGINE = "vllm/metrics/vllm-v0-opt125m-1request-2024-06.prom"


def count(door: Receiver, table: str) -> int:
    """Rows of a table that have arrived so far."""
    return sum(batch.rows.num_rows for batch in list(door.batches) if batch.table.name == table)


def of_one_scrape(door: Receiver, table: str) -> set[int]:
    """How many rows the scrapes that have arrived so far gave."""
    times = [batch.rows["time_ns"] for batch in list(door.batches) if batch.table.name == table]
    return {each["counts"] for each in pc.value_counts(pa.chunked_array(times, pa.int64())).to_pylist()}


def peak_mb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) >> 10


class Pages:
    """What exporter and engine answer: their page, and while it floods a hundred of it with labels that differ."""

    def __init__(self, shared_data: Path) -> None:
        usual = {"/dcgm": (shared_data / DCGM).read_text(), "/engine": (shared_data / ENGINE).read_text()}
        self.usual, self.flood = usual, {path: self._times(text) for path, text in usual.items()}
        self.flooding = False

    def _times(self, text: str) -> str:
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        marked = [line.replace("GPU-", "GPU-{n}-").replace('model_name="', 'model_name="{n}') for line in lines]
        return "".join(line.replace("{n}", str(number)) + "\n" for number in range(TIMES) for line in marked)

    def answer(self, path: str) -> tuple[int, str]:
        return 200, (self.flood if self.flooding else self.usual)[path]

    def rows(self) -> dict[str, tuple[int, int]]:
        """Rows that a usual page and a flooding one give, by table."""
        gpu, engine = ([prometheus.parse(pages[path]) for pages in (self.usual, self.flood)] for path in self.usual)
        return {
            "gpu_sample": tuple(dcgm.Node("n").samples(1, page)[0].rows.num_rows for page in gpu),
            "engine_sample": tuple(engine_metrics.Server("t").samples(1, page)[0].rows.num_rows for page in engine),
        }  # type: ignore[return-value]


def hops(first: int, number: int) -> bytes:
    told = [{"start_time": "2025-01-01T00:00:00Z", "request_id": str(each)} for each in range(first, first + number)]
    return b"".join(orjson.dumps(each) + b"\n" for each in told)


def event(number: int) -> dict[str, Any]:
    metadata = {"name": str(number), "uid": f"uid-{number}", "namespace": "llm", "resourceVersion": str(100 + number)}
    about = {"kind": "Pod", "name": "a", "uid": "uid-a"}
    return {"type": "ADDED", "object": {"metadata": metadata, "involvedObject": about, "reason": str(number)}}


def test_a_hundred_times_the_usual_of_all_sources_at_once_is_told_or_counted(shared_data: Path, tmp_path: Path) -> None:
    pages, floods, calms = Pages(shared_data), threading.Event(), threading.Event()
    log = tmp_path / "access.log"
    log.write_bytes(hops(0, LINES))

    def container_events(request: bytes, call: Any) -> Iterator[bytes]:
        yield from (life(each) for each in range(EVENTS))
        floods.wait(60)
        yield from (life(each) for each in range(EVENTS, EVENTS + TIMES * EVENTS))
        calms.wait(60)
        yield life(EVENTS + TIMES * EVENTS)
        ended = threading.Event()
        if call.add_callback(ended.set):
            ended.wait(60)

    def life(number: int) -> bytes:
        told = ContainerEventResponse(container_id=str(number), created_at=10**18 + number)
        return bytes(told.SerializeToString())

    cluster = ApiServerDouble([[pod("a", 1)]], [])
    script = [*map(event, range(EVENTS)), floods, *map(event, range(EVENTS, EVENTS + TIMES * EVENTS)), calms]
    cluster.kinds["/api/v1/events"] = Kind([[]], [[*script, event(EVENTS + TIMES * EVENTS)]])
    socket = f"{tmp_path}/crio.sock"
    with (
        closing(Receiver()) as door,
        text_server_double(pages.answer) as exporter,
        grpc_double({"/runtime.v1.RuntimeService/GetContainerEvents": container_events}, f"unix:{socket}"),
        api_server(cluster) as address,
        killed(
            "dcgm,engine_metrics,envoy_log,container_events,cluster_state",
            tmp_path,
            collector_endpoint=door.url,
            dcgm_urls=f"http://{exporter}/dcgm",
            dcgm_interval_s="0.5",
            engine_urls=f"http://{exporter}/engine",
            engine_interval_s="0.5",
            envoy_log_files=str(log),
            container_sockets=socket,
            kubernetes_api=address,
            kubelet_pod_resources_socket="/nowhere",
        ) as pid,
    ):
        try:
            until(lambda: all(count(door, each) for each in ("gpu_sample", "engine_sample")), 60)
            until(lambda: count(door, "hop") >= LINES and count(door, "container_state") >= EVENTS, 60)
            until(lambda: count(door, "cluster_event") >= EVENTS, 60)
            wanted = pages.rows()
            assert all(flood == TIMES * usual > 0 for usual, flood in wanted.values())
            pages.flooding = True
            floods.set()
            with log.open("ab") as out:
                out.write(hops(LINES, TIMES * LINES))
            until(lambda: all(of_one_scrape(door, table) >= {*counts} for table, counts in wanted.items()), 60)
            until(lambda: count(door, "hop") >= LINES + TIMES * LINES, 60)
            until(lambda: count(door, "container_state") >= EVENTS + TIMES * EVENTS, 60)
            until(lambda: count(door, "cluster_event") >= EVENTS + TIMES * EVENTS, 60)
            pages.flooding = False
            calms.set()
            with log.open("ab") as out:
                out.write(hops(LINES + TIMES * LINES, 1))
            until(lambda: count(door, "cluster_event") > EVENTS + TIMES * EVENTS, 60)
            until(lambda: count(door, "container_state") > EVENTS + TIMES * EVENTS, 60)
            until(lambda: count(door, "hop") > LINES + TIMES * LINES, 60)
            until(lambda: all(of_one_scrape(door, table) == {*counts} for table, counts in wanted.items()), 60)
            assert door.losses() == {}
            assert peak_mb(pid) < MOST_MB
        finally:
            floods.set()
            calms.set()
