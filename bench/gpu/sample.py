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

from bench.gpu import nvml_page
from demo.addresses import Addresses
from warpline import recording
from warpline.children import Children, answers, free_port
from warpline.client import Client
from warpline.settings import Settings

_TOKENS = 11
Load = Callable[[str], None]
"""Sends requests to the server at an address, and returns once they are answered."""
_QUIET_S, _MOST_S = 5.0, 120.0
_NODE, _SOURCES = "gpu-node-0", "clock,cuda_kernel,engine_step,http_exchange,process,tcp"
_REAL = "by transformers' continuous batching, a Llama of random weights, on a real GPU; all of it as it was"
ORDINARY = f"23 completions {_REAL}"
LONG_PREFILL = f"13 completions, and while they are under way one with a prompt of 7,919 tokens, {_REAL}"


def record(
    into: Path,
    workplace: Path,
    start_server: Callable[[int, Mapping[str, str]], object],
    load: Load,
    about: str,
    say: Callable[[str], None],
) -> int:
    """Write a sample trace of `load` to `into`; return how many of its requests are followed to their GPU executions.

    `start_server(port, variables)` starts the server, and returns once it serves; who calls ends it.
    """
    with ExitStack() as opened:
        children = Children(workplace / "logs")
        opened.callback(children.stop)
        addresses = Addresses(*(f"127.0.0.1:{free_port()}" for _ in range(6)))
        page = opened.enter_context(nvml_page.served(_NODE, free_port()))
        sources = f"{_SOURCES},dcgm" if page else _SOURCES
        environment = addresses.environment(workplace) | {
            "WARPLINE_NODE": _NODE,
            "WARPLINE_COLLECTOR_SOURCES": sources,
            "WARPLINE_DCGM_URLS": page or "",
        }
        children.start("correlator", ["-m", "warpline.cli", "correlate"], environment)
        children.wait_until("correlator", lambda: answers(f"http://{addresses.query}/healthz"), 120)
        start_server(int(addresses.server.rpartition(":")[2]), {"WARPLINE_RING_DIR": environment["WARPLINE_RING_DIR"]})
        children.start("collector", ["-m", "warpline.cli", "collect"], environment)
        metrics = f"http://{environment['WARPLINE_COLLECTOR_METRICS_ADDRESS']}/metrics"
        children.wait_until("collector", lambda: answers(metrics), 120)
        client = Client(Settings(query_url=f"http://{addresses.query}"))
        down = _until_up(metrics, sources)
        say(f"# sources: {sources}; not up: {', '.join(sorted(down)) or 'none'}")
        _ask(addresses.server, "warm", 1)
        _until_quiet(client)
        began_ns = time.time_ns()
        load(addresses.server)
        _until_quiet(client)
        recording.record(client, into, began_ns, time.time_ns(), about, public=True)
        paths = client.view("request_path", since_ns=began_ns, limit=10_000).to_pylist()
        missing = Counter(path["missing"] for path in paths)
        say(f"# {len(paths)} requests seen; missing: {dict(missing)}")
        return missing[None]


def ordinary(server: str) -> None:
    """23 short prompts, 7 in flight."""
    with ThreadPoolExecutor(7) as pool:
        list(pool.map(lambda number: _ask(server, f"request {number} " * (1 + number % 5)), range(23)))


def long_prefill(server: str) -> None:
    """13 requests of 23 tokens each; while they decode, one comes with 7,919 tokens of prompt."""
    with ThreadPoolExecutor(14) as pool:
        short = [pool.submit(_ask, server, f"request {number}", 23) for number in range(13)]
        time.sleep(0.7)
        short.append(pool.submit(_ask, server, "word " * 7919))
        for each in short:
            each.result()


def _ask(server: str, prompt: str, tokens: int = _TOKENS) -> None:
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True}
    trace = {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}
    httpx.post(f"http://{server}/v1/completions", json=body, headers=trace, timeout=120).raise_for_status()


def _until_quiet(client: Client) -> None:
    """Wait until executions have come, and no more come."""
    until, known, since = time.monotonic() + _MOST_S, -1, time.monotonic()
    while time.monotonic() < until and time.monotonic() - since < _QUIET_S:
        now = int(client.table("gpu_kernel", limit=1_000_000).num_rows)
        if now != known:
            known, since = now, time.monotonic()
        time.sleep(0.5)


def _until_up(metrics: str, sources: str) -> set[str]:
    """Wait until the sources are up; return those that are not after a minute: `warpline check` says why."""
    until = time.monotonic() + 60
    while True:
        page = httpx.get(metrics, timeout=10).text
        down = {each for each in sources.split(",") if f'warpline_source_up{{source="{each}"}} 1.0' not in page}
        if not down or time.monotonic() > until:
            return down
        time.sleep(0.5)
