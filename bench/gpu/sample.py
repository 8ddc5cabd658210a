"""A sample trace of a real GPU: one load on the batching server, watched by a collector and a correlator as anywhere.

What cannot be watched on the machine (BPF, say) is said, and is missing from the sample; nothing is made up for it. Kept
small: few requests of few tokens, a model of a few layers.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx

from demo.addresses import Addresses
from warpline import recording
from warpline.children import Children, answers, free_port
from warpline.client import Client
from warpline.settings import Settings

_REQUESTS, _IN_FLIGHT, _TOKENS = 23, 7, 11
_QUIET_S, _MOST_S = 5.0, 120.0
_SOURCES = "clock,cuda_kernel,engine_step,http_exchange,process,tcp"
_ABOUT = (
    "23 completions by transformers' continuous batching, a Llama of random weights, on a real GPU; clients, server, "
    "sockets and GPU executions as they were"
)


def record(
    into: Path,
    workplace: Path,
    start_server: Callable[[int, Mapping[str, str]], object],
    say: Callable[[str], None],
) -> int:
    """Write a sample trace to `into`; return how many of its requests are followed to their GPU executions.

    `start_server(port, variables)` starts the server, and returns once it serves; who calls ends it.
    """
    with ExitStack() as opened:
        children = Children(workplace / "logs")
        opened.callback(children.stop)
        addresses = Addresses(*(f"127.0.0.1:{free_port()}" for _ in range(6)))
        environment = addresses.environment(workplace) | {
            "WARPLINE_NODE": "gpu-node-0",
            "WARPLINE_COLLECTOR_SOURCES": _SOURCES,
        }
        children.start("correlator", ["-m", "warpline.cli", "correlate"], environment)
        children.wait_until("correlator", lambda: answers(f"http://{addresses.query}/healthz"), 120)
        start_server(int(addresses.server.rpartition(":")[2]), {"WARPLINE_RING_DIR": environment["WARPLINE_RING_DIR"]})
        children.start("collector", ["-m", "warpline.cli", "collect"], environment)
        metrics = f"http://{environment['WARPLINE_COLLECTOR_METRICS_ADDRESS']}/metrics"
        children.wait_until("collector", lambda: answers(metrics), 120)
        client = Client(Settings(query_url=f"http://{addresses.query}"))
        down = _until_up(metrics)
        say(f"# sources: {_SOURCES}; not up: {', '.join(sorted(down)) or 'none'}")
        _ask(addresses.server, 1)
        _until_quiet(client)
        began_ns = time.time_ns()
        _ask(addresses.server, _REQUESTS)
        _until_quiet(client)
        recording.record(client, into, began_ns, time.time_ns(), _ABOUT, public=True)
        paths = client.view("request_path", since_ns=began_ns, limit=10_000).to_pylist()
        missing = Counter(path["missing"] for path in paths)
        say(f"# {len(paths)} requests seen; missing: {dict(missing)}")
        return missing[None]


def _ask(server: str, count: int) -> None:
    def one(number: int) -> None:
        body = {"prompt": f"request {number} " * (1 + number % 5), "max_tokens": _TOKENS, "stream": True}
        trace = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
        httpx.post(f"http://{server}/v1/completions", json=body, headers=trace, timeout=120).raise_for_status()

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        list(pool.map(one, range(count)))


def _until_quiet(client: Client) -> None:
    """Wait until executions have come, and no more come."""
    until, known, since = time.monotonic() + _MOST_S, -1, time.monotonic()
    while time.monotonic() < until and time.monotonic() - since < _QUIET_S:
        now = int(client.table("gpu_kernel", limit=1_000_000).num_rows)
        if now != known:
            known, since = now, time.monotonic()
        time.sleep(0.5)


def _until_up(metrics: str) -> set[str]:
    """Wait until the sources are up; return those that are not after a minute: `warpline check` says why."""
    until = time.monotonic() + 60
    while True:
        page = httpx.get(metrics, timeout=10).text
        down = {each for each in _SOURCES.split(",") if f'warpline_source_up{{source="{each}"}} 1.0' not in page}
        if not down or time.monotonic() > until:
            return down
        time.sleep(0.5)
