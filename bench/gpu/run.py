"""All figures that need a real GPU, in one command: `python -m bench.gpu.run [--quick] [--sample DIRECTORY]`.

Needs a Python with torch and transformers: this one, or that of GPU_PYTHON. (a) launch ids against execution ids,
counted by kind; (b) throughput and time per output token at each level and at concurrency 1, 8 and 64, levels in turn, so
that the GPU's moods meet all alike; (c) sample traces; (d) whether times stay valid over 25 million records.

With `--tiny` the server's parts run on a CPU: that tries the script, it measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow as pa

from bench.gpu import sample
from collectors import cuda_kernel
from collectors.inject.build import build
from warpline.batch import Batch
from warpline.children import free_port
from warpline.clock import NodeClock
from warpline.errors import WarplineError
from warpline.settings import Settings
from warpline.source import Context

_ROOT = Path(__file__).resolve().parents[2]
_PYTHON = os.environ.get("GPU_PYTHON", sys.executable)
_LEVELS = ("absent", "none", "callbacks", "graph", "node")
_CONCURRENCY = (1, 8, 64)
_PEER_STRIATRACE, _PEER_PARCAGPU = 0.052, 0.64
_PARTS = ("counts", "sample", "prefill", "levels", "graphs", "large", "many")
_ON_A_CPU = ("sample", "prefill", "levels")


@dataclass(frozen=True)
class Load:
    """What one load gave."""

    tokens_per_s: float
    ms_per_token: float

    def told(self) -> str:
        """Return both in a line's words."""
        return f"{self.tokens_per_s:.0f} tokens/s, {self.ms_per_token:.2f} ms a token"


@dataclass(frozen=True)
class Size:
    """Of one load: tokens that each request asks for, and how often each client asks."""

    tokens: int
    waves: int


def main() -> None:
    """Run all parts; those that fail say so, and the others go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short loads, a hundredth of the records")
    parser.add_argument("--rounds", type=int, default=3, help="how often each level has its turn (default: 3)")
    parser.add_argument("--tiny", action="store_true", help="only the server's parts, on a CPU where there is no GPU")
    parser.add_argument("--sample", type=Path, help="where the sample traces go (default: none is kept)")
    parser.add_argument("--parts", type=_names, default=_PARTS, help=f"some of {','.join(_PARTS)} (default: all)")
    args = parser.parse_args()
    first, large = ("tiny", "tiny") if args.tiny else ("small", "large")
    size = Size(8, 1) if args.tiny else Size(32, 2) if args.quick else Size(128, 3)
    parts: dict[str, Callable[[], None]] = {
        "counts": _counts,
        "sample": lambda: _sample(first, _kept(args.sample, "real_gpu"), sample.ordinary, sample.ORDINARY),
        "prefill": lambda: _sample(large, _kept(args.sample, "real_prefill"), sample.long_prefill, sample.LONG_PREFILL),
        "levels": lambda: _levels(first, size, args.rounds),
        "graphs": lambda: _levels("graphs", size, args.rounds),
        "large": lambda: _levels("large", size, args.rounds),
        "many": lambda: _many(250_000 if args.quick else 25_000_000),
    }
    for name in args.parts:
        if args.tiny and name not in _ON_A_CPU:
            continue
        try:
            parts[name]()
        except (WarplineError, OSError, RuntimeError, httpx.HTTPError, subprocess.SubprocessError) as error:
            print(f"# failed: {type(error).__name__}: {error}", flush=True)


def _kept(directory: Path | None, name: str) -> Path | None:
    return directory and directory / name


def _names(text: str) -> tuple[str, ...]:
    unknown = set(text.split(",")) - set(_PARTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    return tuple(text.split(","))


@contextmanager
def _collected(directory: Path) -> Iterator[list[Batch]]:
    """Run the source over the rings in `directory`, keeping only what is counted."""
    settings = Settings(ring_dir=str(directory / "rings"), state_dir=str(directory / "state"))
    seen: list[Batch] = []
    context = Context("cuda_kernel", "gpu-bench", settings, NodeClock(directory / "state"), seen.append)
    obstacle = cuda_kernel.check(settings)
    if obstacle:
        raise SystemExit(f"bench.gpu: {obstacle}")
    thread = threading.Thread(target=lambda: seen.extend(cuda_kernel.run(context)), daemon=True)
    thread.start()
    yield seen
    context.stop.set()
    thread.join(60)


def _environment(directory: Path, level: str) -> dict[str, str]:
    found = {**os.environ, "PYTHONPATH": str(_ROOT), "WARPLINE_RING_DIR": str(directory / "rings")}
    if level != "absent":
        found |= {"CUDA_INJECTION64_PATH": str(build()), "WARPLINE_GPU_LEVEL": level, "WARPLINE_GPU_EAGER_STEPS": "1/1"}
    return found


def _column(seen: list[Batch], table: str, name: str) -> list[object]:
    return [each for batch in list(seen) if batch.table.name == table for each in batch.rows[name].to_pylist()]


def _losses(seen: list[Batch]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for batch in list(seen):
        if batch.table.name == "loss":
            found.update({row["reason"]: row["lost"] for row in batch.rows.to_pylist()})
    return dict(found)


def _counts() -> None:
    """(a): each execution's correlation id is that of one launch, for every kind of launch."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with _collected(directory) as seen:
            command = [_PYTHON, "-m", "bench.gpu.ids", "counts"]
            done = subprocess.run(command, env=_environment(directory, "graph"), check=False)
        launched = Counter(_column(seen, "launch", "correlation_id"))
        executed = list(
            zip(_column(seen, "gpu_kernel", "kind"), _column(seen, "gpu_kernel", "correlation_id"), strict=True)
        )
        for kind in ("kernel", "graph", "memcpy", "memset"):
            ids = [each for found, each in executed if found == kind]
            matched = sum(launched[each] == 1 for each in ids)
            label = f"kind={kind} executions={len(ids)} rc={done.returncode}"
            print(f"FIGURE gpu.real.matched_ratio {matched / len(ids) if ids else 0:.6f} 1 {label}", flush=True)
        print(
            f"# launches by call: {dict(Counter(_column(seen, 'launch', 'api')))}; losses: {_losses(seen)}", flush=True
        )


def _levels(model: str, size: Size, rounds: int) -> None:
    """(b): a server at every level, all at once; they are under load in turn, for the GPU is idle in those that are not."""
    found: dict[tuple[str, int], list[Load]] = {}
    with ExitStack() as opened:
        servers = {each: _Served(opened, model, each) for each in _LEVELS}
        for level, each in servers.items():
            each.until_up()
            asyncio.run(_load(each.port, 8, 8, size.tokens))
            print(f"# {model} {level}: up and warm", flush=True)
        for turn, concurrency in itertools.product(range(rounds), _CONCURRENCY):
            for level in _LEVELS[turn % 5 :] + _LEVELS[: turn % 5]:
                load = asyncio.run(_load(servers[level].port, concurrency, size.waves * concurrency, size.tokens))
                found.setdefault((level, concurrency), []).append(load)
                print(f"# {model} {level} concurrency={concurrency} turn {turn + 1}: {load.told()}", flush=True)
        for (level, concurrency), loads in found.items():
            _say(model, level, concurrency, loads, found["absent", concurrency])
        for level, each in servers.items():
            each.stop()
            rows = {table: len(_column(each.seen, table, "start_ns")) for table in ("launch", "gpu_kernel")}
            steps = sum(one is not None for one in _column(each.seen, "gpu_kernel", "step_ordinal"))
            print(f"# {model} {level}: {rows}, {steps} executions with a step, losses {_losses(each.seen)}", flush=True)


def _say(model: str, level: str, concurrency: int, loads: list[Load], base: list[Load]) -> None:
    label = f"model={model} level={level} concurrency={concurrency}"
    if level == "absent":
        print(
            f"# {label}: {_median(base, 'tokens_per_s'):.0f} tokens/s, {_median(base, 'ms_per_token'):.2f} ms a token"
        )
        return
    throughput = statistics.median(a.tokens_per_s / b.tokens_per_s for a, b in zip(loads, base, strict=True))
    token = statistics.median(a.ms_per_token / b.ms_per_token for a, b in zip(loads, base, strict=True))
    print(f"FIGURE gpu.real.throughput_loss_ratio {1 - throughput:.4f} 1 {label} peer_parcagpu={_PEER_PARCAGPU}")
    print(f"FIGURE gpu.real.tpot_added_ratio {token - 1:.4f} 1 {label} peer_striatrace={_PEER_STRIATRACE}", flush=True)


def _median(loads: list[Load], name: str) -> float:
    return statistics.median(getattr(each, name) for each in loads)


class _Served:
    """One server at one level, on its way up, with the source that reads its rings."""

    def __init__(self, opened: ExitStack, size: str, level: str) -> None:
        self.directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        self.port, environment = free_port(), _environment(self.directory, level)
        self.inner = opened.enter_context(ExitStack())
        self.seen = self.inner.enter_context(_collected(self.directory))
        self.process = self.inner.enter_context(_server(self.port, size, environment))

    def until_up(self) -> None:
        _wait(f"http://127.0.0.1:{self.port}/health", self.process)

    def stop(self) -> None:
        self.inner.close()


@contextmanager
def _server(port: int, size: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen([_PYTHON, "-m", "bench.gpu.server", str(port), size], env=environment)
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()  # The generation's thread may hold it up.
            server.wait()


def _sample(size: str, into: Path | None, load: sample.Load, about: str) -> None:
    """(c): a sample trace, client to kernels, and how many of its requests are followed all the way."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        directory = Path(name)

        def start(port: int, variables: Mapping[str, str]) -> None:
            environment = _environment(directory, "graph") | variables
            _wait(f"http://127.0.0.1:{port}/health", opened.enter_context(_server(port, size, environment)))

        kept = into or directory / "sample"
        whole = sample.record(kept, directory, start, load, about, lambda line: print(line, flush=True))
        kilobytes = sum(path.stat().st_size for path in kept.iterdir()) / 1e3
        label = f"model={size} kilobytes={kilobytes:.0f} kept={into is not None}"
        print(f"FIGURE gpu.real.sample_followed {whole} {{request}} {label}", flush=True)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"bench.gpu: the server ended with code {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=60):
                return
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.5)
    raise RuntimeError("bench.gpu: the server did not come up within 300 s")


async def _load(port: int, concurrency: int, requests: int, tokens: int) -> Load:
    """Send streamed completions and time their tokens."""
    limit, gaps = asyncio.Semaphore(concurrency), list[float]()
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=concurrency)) as client:

        async def one(index: int) -> int:
            body = {"prompt": f"request {index} " * 64, "max_tokens": tokens, "stream": True}
            times: list[float] = []
            async with limit, client.stream("POST", f"http://127.0.0.1:{port}/v1/completions", json=body) as answer:
                times += [time.perf_counter() async for line in answer.aiter_lines() if line.startswith("data: {")]
            if len(times) > 1:
                gaps.append((times[-1] - times[0]) / (len(times) - 1) * 1000)
            return len(times)

        start = time.perf_counter()
        made = sum(await asyncio.gather(*(one(index) for index in range(requests))))
        return Load(made / (time.perf_counter() - start), statistics.median(gaps))


def _many(records: int) -> None:
    """(d): over millions of records, how many have times that may not be used, and were lost; only totals are kept."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with _collected(directory) as seen:
            command = [_PYTHON, "-m", "bench.gpu.ids", "many", str(records)]
            child = subprocess.Popen(command, env=_environment(directory, "node"))
            validity: Counter[object] = Counter()
            lost: Counter[str] = Counter()
            for looked in itertools.count():
                ended = child.poll() is not None
                validity.update(_drain(seen, lost))
                if looked % 50 == 0:
                    print(f"# {sum(validity.values())} of {records} records so far", flush=True)
                if ended:
                    break
                time.sleep(0.2)
        validity.update(_drain(seen, lost))
    total = sum(validity.values())
    bad = total - validity["ok"]
    label = f"records={total} launched={records} lost={sum(lost.values())} rc={child.returncode}"
    print(f"FIGURE gpu.real.invalid_time_ratio {bad / max(total, 1):.8f} 1 {label}", flush=True)
    print(f"# validity: {dict(validity)}; losses: {dict(lost)}", flush=True)


def _drain(seen: list[Batch], lost: Counter[str]) -> Counter[object]:
    """Count and forget the executions so far; add what was lost to `lost`."""
    taken, found = len(seen), Counter[object]()
    lost.update(_losses(seen[:taken]))
    for batch in seen[:taken]:
        if batch.table.name == "gpu_kernel":
            column = batch.rows["validity"].cast(pa.string())
            found.update({each["values"]: each["counts"] for each in column.value_counts().to_pylist()})
    del seen[:taken]
    return found


if __name__ == "__main__":
    main()
