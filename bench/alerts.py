"""How soon a load step is an alert at a webhook, by both ways, and what an evaluation of many rules costs.

The load step: requests for more than the model server's double can serve at once, after a while of quiet. One way is a
Prometheus that scrapes the engine and evaluates the shipped rule each second, and an Alertmanager; the other is a collector
that scrapes each second, and the built-in rule. Both rules hold for 2 s before they fire.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import httpx

from correlator.alerting import alert_rule
from correlator.alerting.alert_rule import Rule
from correlator.alerting.alert_watch import AlertWatch
from correlator.alerting.keep import Keeper
from correlator.process import Correlator
from correlator.storage.store import Store
from correlator.wanted import Wanted
from demo.engine import MODEL, launch
from tests.correlator import alert_chain
from tests.correlator.alert_chain import Webhook
from tests.waiting import until
from warpline import schema
from warpline.batch import Batch
from warpline.collector import Collector
from warpline.settings import Settings

_QUIET_S = 20.0
"""Longer than the 15 s that the rules compare with."""
_STEP = 300
_RULES = 200
_DAY_S = 86_000
_NOW = 20_500 * 86_400_000_000_000 + _DAY_S * 1_000_000_000


def run() -> None:
    """Print all figures of this group."""
    with tempfile.TemporaryDirectory() as folder:
        _latencies(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        _many_rules(Path(folder))


# From a load step to a webhook


def _latencies(folder: Path) -> None:
    reason = alert_chain.missing()
    if reason:
        print(f"# alerts.latency_s is left out: {reason}", flush=True)
        return
    built_in, metrics = Webhook(), Webhook()
    rules = alert_chain.shipped("QueueGrowing", for_="2s")
    with (
        launch.start(folder / "engine", watched=False) as server,
        _built_in(folder, server.port, built_in.url),
        alert_chain.alertmanager(folder, metrics.url) as manager,
        alert_chain.prometheus(folder, manager, f"127.0.0.1:{server.port}", rules),
    ):
        time.sleep(_QUIET_S)
        httpx.post(f"{server.url}/demo/fault", json={"max_num_seqs": 2}, timeout=10).raise_for_status()
        with _load(server.url) as stepped_s:
            until(lambda: bool(built_in.told and metrics.told), 120)
    keys = "limit=5 for=2s scrape=1s collection=1s"
    print(f"FIGURE alerts.latency_s {built_in.at_s[0] - stepped_s:.2f} s {keys} rule=built-in", flush=True)
    print(
        f"FIGURE alerts.prometheus_latency_s {metrics.at_s[0] - stepped_s:.2f} s {keys} rule=QueueGrowing", flush=True
    )
    for each in (built_in, metrics):
        each.close()


@contextmanager
def _built_in(folder: Path, port: int, webhook: str) -> Iterator[None]:
    """Run a correlator whose rule of the growing queue holds for 2 s, and a collector that scrapes each second."""
    door = dict.fromkeys(
        ("correlator_http_address", "correlator_grpc_address", "correlator_query_address"), "127.0.0.1:0"
    )
    off = ",".join(rule.name for rule in alert_rule.load() if rule.name != "queue_growing")
    watch = {"alerts_every_s": 0.5, "alerts_lateness_s": 0.5, "alerts_webhook_urls": webhook, "alerts_off": off}
    correlator = Correlator(Settings(state_dir=str(folder / "correlator"), **door, **watch))  # type: ignore[arg-type]
    correlator.alerts.alerts.rules = [_held(rule, 2.0) for rule in correlator.alerts.alerts.rules]
    correlator.start()
    collector = Collector(
        Settings(
            node="bench",
            state_dir=str(folder / "collector"),
            collector_sources="clock,engine_metrics",
            collector_endpoint=f"http://{correlator.receiver.http_address}",
            collector_query_url=f"http://{correlator.query.address}",
            collector_metrics_address="",
            engine_urls=f"127.0.0.1:{port}",
            engine_interval_s=1.0,
        )
    )
    collector.start()
    try:
        yield
    finally:
        collector.stop()
        correlator.stop()


def _held(rule: Rule, seconds: float) -> Rule:
    return dataclasses.replace(rule, for_ns=int(seconds * 1e9))


@contextmanager
def _load(url: str) -> Iterator[float]:
    """Send many requests at once, until the block ends; give when the first left (monotonic seconds)."""
    stop = threading.Event()

    async def ask(web: httpx.AsyncClient) -> None:
        body = {"model": MODEL, "prompt": "word " * 200, "max_tokens": 400}
        with suppress(httpx.HTTPError):
            await web.post("/v1/completions", json=body)

    async def play() -> None:
        limits = httpx.Limits(max_connections=_STEP)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as web:
            tasks = [asyncio.create_task(ask(web)) for _ in range(_STEP)]
            while not stop.is_set():
                await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(play()))
    began_s = time.monotonic()
    thread.start()
    try:
        yield began_s
    finally:
        stop.set()
        thread.join()


# Many rules over a day of data

_EXCHANGE = """
    SELECT {base} + i * 250000000 AS start_ns, start_ns + 900000000 + hash(i) % 200000000 AS end_ns,
        start_ns + 200000000 AS first_body_ns, start_ns + 800000000 AS last_chunk_ns, 20::BIGINT AS chunks,
        'n' || i % 8 AS node, 'n' || i % 8 || ':1:2' AS process_uid, 'server' AS side, 'POST' AS method,
        i AS connection_id, 0::BIGINT AS ordinal, 200::BIGINT AS status, '/v1/completions' AS path,
        'chatcmpl-' || i AS response_id, 'r-' || i AS request_id, 0::BIGINT AS retransmits, '10.0.0.1' AS local_address,
        80::BIGINT AS local_port, '10.0.0.2' AS peer_address, 1024 + i % 60000 AS peer_port
    FROM range({low} * 4, {high} * 4) a(i)"""
_REQUEST = """
    SELECT {base} + i * 250000000 AS start_ns, start_ns + 900000000 AS end_ns, 'n' || i % 8 AS node,
        'n' || i % 8 || ':3:4' AS process_uid, 'm' AS model, 'i-' || i AS internal_id, 'chatcmpl-' || i AS external_id,
        512::BIGINT AS prompt_tokens, 20::BIGINT AS output_tokens
    FROM range({low} * 4, {high} * 4) a(i)"""
_ALIAS = """
    SELECT {base} + i * 250000000 AS time_ns, kind, 'a-' || i AS attempt_uid, 'q-' || i AS request_uid, 'exact' AS evidence,
        CASE kind WHEN 'internal_id' THEN 'n' || i % 8 || ':3:4' END AS scope,
        CASE kind WHEN 'internal_id' THEN 'i-' || i ELSE 'n' || i % 8 || '/' || i || '/0/server' END AS value
    FROM range({low} * 4, {high} * 4) a(i), (VALUES ('internal_id'), ('exchange')) k(kind)"""
_GPU = """
    SELECT {base} + s * 10000000000 AS time_ns, 'n' || n AS node, 'GPU-' || n AS gpu_uuid, m.metric AS metric, m.part,
        0.5 + 0.1 * (hash(s + n) % 5) AS value
    FROM range({low} // 10, {high} // 10) a(s), range(8) c(n), (VALUES ('warpline.gpu.pipe.active', 'sm'),
        ('warpline.gpu.pipe.active', 'tensor'), ('warpline.gpu.pipe.active', 'memory'), ('warpline.gpu.xid.last', NULL),
        ('warpline.gpu.throttled', 'thermal'), ('hw.gpu.memory.usage', NULL), ('hw.gpu.memory.limit', NULL),
        ('warpline.gpu.pcie.throughput', 'transmit')) m(metric, part)"""
_ENGINE = """
    SELECT {base} + s * 5000000000 AS time_ns, 't' || n AS target, 'vllm' AS engine, 'm' AS model, metric,
        'value' AS statistic, 1.0 AS value
    FROM range({low} // 5, {high} // 5) a(s), range(8) c(n), (VALUES ('requests.waiting'), ('kv.used')) v(metric)"""
_CLOCK = """
    SELECT {base} + s * 1000000000 AS time_ns, 'n' || n AS node, 'b' AS boot_id, 1::BIGINT AS monotonic_ns,
        1::BIGINT AS boottime_ns, 1::BIGINT AS realtime_ns, 1::BIGINT AS half_width_ns
    FROM range({low}, {high}) a(s), range(8) c(n)"""
_STATE = """
    SELECT {base} + s * 60000000000 AS time_ns, 'n' || n AS node, 'source-' || k AS source, true AS up, 2::BIGINT AS detail
    FROM range({low} // 60, {high} // 60) a(s), range(8) c(n), range(15) d(k)"""
_FILLED = {
    "http_exchange": _EXCHANGE,
    "engine_request": _REQUEST,
    "alias": _ALIAS,
    "gpu_sample": _GPU,
    "engine_sample": _ENGINE,
    "clock_pair": _CLOCK,
    "source_state": _STATE,
}


def _many_rules(folder: Path) -> None:
    """Evaluate the shipped rules, and each again under other names until there are 200, on a day of eight nodes."""
    store = Store(Settings(state_dir=str(folder), correlator_memory_limit_mb=2000, correlator_disk_reserve_mb=0))
    rows = _fill(store)
    shipped = alert_rule.load()
    copies = [dataclasses.replace(shipped[at % len(shipped)], name=f"rule_{at}") for at in range(_RULES)]
    settings = Settings(recorder_slow_ttft_ms=0)
    watch = AlertWatch(settings, store, store.write, Keeper(settings, store.query, Wanted()))
    watch.alerts.rules = copies
    watch.look(_NOW)
    times = []
    for second in range(1, 6):
        wall, cpu = time.perf_counter(), time.process_time()
        watch.look(_NOW + second * 1_000_000_000)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = sorted(times)[len(times) // 2]
    keys = f"limit=1 rules={_RULES} rows={rows} hours={_DAY_S / 3600:.0f} cpu_s={cpu:.2f} broken={len(watch.alerts.errors)}"
    print(f"FIGURE alerts.evaluation_s {wall:.2f} s {keys}", flush=True)
    store.close()


def _fill(store: Store) -> int:
    database, rows = duckdb.connect(), 0
    base = _NOW - _DAY_S * 1_000_000_000
    for low in range(0, _DAY_S, 12_000):
        for name, sql in _FILLED.items():
            text = sql.format(base=base, low=low, high=min(low + 12_000, _DAY_S))
            found = database.sql(text).to_arrow_table()
            table = schema.table(name)
            columns = {c: found[c].combine_chunks() for c in found.column_names}
            store.write([Batch(table, table.batch(columns, len(found)), f"{name}/{low}")])
            rows += len(found)
    database.close()
    return rows


if __name__ == "__main__":
    run()
