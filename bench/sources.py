"""The telemetry sources on real recordings, repeated: rows per second of one core, and the time of one GPU scrape.

The recordings are looked for beside the checkout; a source whose recording is not there is left out, with a line that
says so.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message import Message

from collectors import cluster_state, container_events, dcgm, engine_metrics, envoy_log, hubble, tetragon
from collectors.cluster.memory import Memory
from collectors.cluster.watch import Change
from collectors.wire import prometheus, protojson, runtime_pb2
from collectors.wire.hubble_pb2 import GetFlowsResponse
from collectors.wire.prometheus import Target
from collectors.wire.runtime_pb2 import Envelope
from tests.collectors.telemetry_doubles import text_server_double
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_SECONDS = 1.0
_SCRAPE_LIMIT_MS = 25
_FIELDS = 40
_GPUS = 8
_ENVELOPES: dict[str, type[Message]] = {
    "/containers/create": runtime_pb2.ContainerCreate,
    "/images/update": runtime_pb2.ImageUpdate,
    "/tasks/create": runtime_pb2.TaskCreate,
    "/tasks/start": runtime_pb2.TaskStart,
    "/tasks/exit": runtime_pb2.TaskExit,
}


def run() -> None:
    """Print the figures."""
    for name, measure in (
        ("hubble.file", _hubble_file),
        ("hubble.grpc", _hubble_grpc),
        ("tetragon", _tetragon),
        ("envoy_log", _envoy),
        ("dcgm", _dcgm),
        ("engine_metrics", _engine),
        ("cluster_state", _cluster),
        ("container_events", _containers),
    ):
        try:
            rows, seconds = measure()
        except FileNotFoundError as error:
            print(f"# {name}: no recording at {error.filename}")
            continue
        print(f"FIGURE sources.{name}.rows_per_core_s {rows / seconds:.0f} {{row}}/s", flush=True)
    _scrape()


def _repeat(once: Callable[[], int]) -> tuple[int, float]:
    """Run `once` for about a second of CPU; return rows and CPU seconds."""
    once()
    rows, start = 0, time.process_time()
    while time.process_time() - start < _SECONDS:
        rows += once()
    return rows, time.process_time() - start


def _hubble_file() -> tuple[int, float]:
    block = (DATA / "hubble/hubble-otel/basic-sample-348-http-flows.json").read_bytes() * 8
    return _repeat(lambda: int(hubble.decode(block).flows.num_rows))


def _hubble_grpc() -> tuple[int, float]:
    lines = (DATA / "hubble/hubble-otel/basic-sample-348-http-flows.json").read_text().splitlines()
    parsed = [json_format.Parse(line, GetFlowsResponse(), ignore_unknown_fields=True) for line in lines]
    messages = [each.SerializeToString() for each in parsed] * 8

    def once() -> int:
        told = b"".join(protojson.line(GetFlowsResponse.FromString(message)) for message in messages)
        return int(hubble.decode(told).flows.num_rows)

    return _repeat(once)


def _tetragon() -> tuple[int, float]:
    block = (DATA / "tetragon/events/book-events.jsonl").read_bytes() * 64
    decoder = tetragon.Decoder("bench")
    return _repeat(lambda: sum(batch.rows.num_rows for batch in decoder.decode(block)[0]))


def _envoy() -> tuple[int, float]:
    block = (DATA / "envoy/access-logs/istio-1.7-json-all-strings-2020.jsonl").read_bytes() * 512
    return _repeat(lambda: envoy_log.decode(block, "n", "p")[0].num_rows)


def _dcgm() -> tuple[int, float]:
    text, node = _page(), dcgm.Node("bench")
    return _repeat(lambda: node.samples(0, prometheus.parse(text))[0].rows.num_rows)


def _engine() -> tuple[int, float]:
    text = (DATA / "vllm/metrics/vllm-qwen2.5-0.5b-l4-idle-2026-03.prom").read_text()
    server = engine_metrics.Server("bench")
    return _repeat(lambda: server.samples(0, prometheus.parse(text))[0].rows.num_rows)


def _cluster() -> tuple[int, float]:
    """Real Events, from the object as it was sent to the rows, with what is kept of them on disk."""
    file = DATA / "k8s/troubleshoot/message-container-creating-failed-mount.json"
    changes = [Change("/api/v1/events", "ADDED", each) for each in json.loads(file.read_text())["items"]] * 8
    with tempfile.TemporaryDirectory() as directory:
        context = Context("cluster_state", "bench", Settings(), NodeClock(Path(directory)), lambda batch: None)
        with Memory(Path(directory) / "cluster.sqlite", context) as memory:

            def once() -> int:
                state = cluster_state.State()
                batches = list(state.batches(changes, 0))
                memory.write(changes, state.remembered(changes), batches)
                memory.told()
                return sum(batch.rows.num_rows for batch in batches)

            return _repeat(once)


def _containers() -> tuple[int, float]:
    """The real events of two runtimes as containerd sends them, from the message on."""
    messages = []
    for file in sorted((DATA / "container/ctr-events").glob("*.log")):
        for line in file.read_text().splitlines():
            head, _, content = line.partition(" {")
            kind = _ENVELOPES.get(head.split()[-1])
            if kind is None:
                continue
            event = Envelope(namespace="k8s.io", topic=head.split()[-1], timestamp={"seconds": 1_700_000_000})
            event.event.type_url = f"containerd.events.{kind.DESCRIPTOR.name}"
            told = json_format.Parse("{" + content, kind(), ignore_unknown_fields=True)
            event.event.value = told.SerializeToString()
            messages.append(event.SerializeToString())
    if not messages:
        raise FileNotFoundError(2, "no recording", str(DATA / "container/ctr-events"))

    def once() -> int:
        runtime = container_events.Containerd()
        rows = [runtime.row(*container_events._opened(message)) for message in messages * 8]
        return int(container_events.batch([row for row in rows if row is not None], "bench").rows.num_rows)

    return _repeat(once)


def _page() -> str:
    """A page of 8 GPUs with 40 fields each, with the labels of a real one."""
    labels = (
        'gpu="{gpu}",UUID="GPU-c4529c8d-69c4-b61d-e0bc-7b246009600{gpu}",pci_bus_id="00000000:5{gpu}:00.0",'
        'device="nvidia{gpu}",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-node-1",'
        'DCGM_FI_DRIVER_VERSION="580.105.08",container="main",namespace="llm",pod="vllm-{gpu}",pod_uid=""'
    )
    from collectors.wire.gpu_fields import DCGM

    lines = []
    for field in list(DCGM)[:_FIELDS]:
        lines += [f"# HELP DCGM_FI_{field} As the exporter says.", f"# TYPE DCGM_FI_{field} gauge"]
        lines += [f"DCGM_FI_{field}{{{labels.format(gpu=gpu)}}} {17 + gpu}" for gpu in range(_GPUS)]
    return "\n".join(lines) + "\n"


def _scrape() -> None:
    """Print the time from the request of a page to the rows of a batch, over HTTP on loopback."""
    prometheus.labels.cache_clear()
    prometheus._labels.cache_clear()
    dcgm.series.cache_clear()
    first, times = 0.0, []
    page = _page()
    with text_server_double(lambda path: (200, page)) as address, tempfile.TemporaryDirectory() as directory:
        context = Context("dcgm", "bench", Settings(), NodeClock(Path(directory)), lambda batch: None)
        target, node = Target(f"http://{address}/metrics", context), dcgm.Node("bench")
        for number in range(101):
            start = time.perf_counter()
            scraped = target.scrape()
            assert scraped is not None
            rows = node.samples(*scraped)[0].rows.num_rows
            elapsed = (time.perf_counter() - start) * 1e3
            assert rows == _GPUS * _FIELDS
            if number:
                times.append(elapsed)
            else:
                first = elapsed
    p95 = statistics.quantiles(times, n=20)[-1]
    size = f"gpus={_GPUS} fields={_FIELDS} limit={_SCRAPE_LIMIT_MS}"
    print(f"FIGURE sources.dcgm.scrape_ms {statistics.median(times):.2f} ms p95={p95:.2f} first={first:.1f} {size}")
