"""The demo: a model server, a client load and all of Warpline on this machine, for as long as one looks at it.

Nothing is written into tables by the demo: real clients talk through a real Envoy to a real server, the Linux kernel sees
it, and what the screen shows came through collector, OTLP, spool and store. Where BPF cannot run, the newest sample trace is
replayed instead; where there is no Envoy, clients talk to the server itself, and give their requests an x-request-id.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import openai
import pyarrow as pa
import pyarrow.compute as pc

from collectors.bpf import loader
from demo import envoy, load
from demo.addresses import Addresses
from demo.engine import MODEL, launch
from warpline import recording, sample
from warpline.children import Children, answers
from warpline.client import Client
from warpline.errors import WarplineError
from warpline.settings import Settings

Say = Callable[[str], None]

_LAST_ROWS_S = 5.0
"""Time after the last request in which sources hand over what they gathered."""
_FIRST_LOAD = (23, 23)
_SECOND_LOAD = (997, 31)
_QUIET_LOAD = (7, 3)
_PATIENCE_S = 20.0
"""How long rows are waited for since the last that came: a busy machine is slow, not wrong."""
_ABOUT = "23 chat completions of the demo's model server: all real but for the GPU, which is simulated"
_SAMPLES = Path(__file__).resolve().parent.parent / "sample_traces"


def run(seconds: float, say: Say, record: Path | None = None) -> int:
    """Run the demo for `seconds` after its first loads (0: until interrupted); 0 when every request sent was found, and
    followed to its GPU executions.

    With `record`, the first load alone is run and kept there as a sample trace.
    """
    with ExitStack() as opened:
        interrupted = opened.enter_context(_interrupts())
        state_dir, children = opened.enter_context(_workplace())
        addresses = Addresses.free()
        environment = addresses.environment(state_dir)
        client = Client(Settings(query_url=f"http://{addresses.query}"))
        _start_correlator(children, environment, addresses)
        obstacle = loader.why_not()
        if obstacle:
            say(f"BPF cannot run here: {obstacle}")
            _replay_newest(children, environment, say)
            complete = True
        else:
            opened.enter_context(_model_server(state_dir, environment, addresses))
            addresses = _front(children, state_dir / "envoy", addresses, say)
            say(f"a model server runs, real but for its GPU (simulated): http://{addresses.front}/v1")
            _start_collector(children, environment)
            began_ns = time.time_ns()
            loads = (_FIRST_LOAD,) if record else (_FIRST_LOAD, _SECOND_LOAD)
            complete = all([_watched_load(client, addresses, *size, say) for size in loads])
            if record:
                time.sleep(_LAST_ROWS_S)
                recording.record(client, record, began_ns, time.time_ns(), _ABOUT, public=True)
                return 0 if complete else 1
        asked = f"WARPLINE_QUERY_URL=http://{addresses.query} {_command()}"
        say(f"ask it: {asked} query request --columns response_id,duration_ns --order=-duration_ns --limit 5")
        say(f"why was one slow: {asked} explain RESPONSE_ID")
        say(f"look at it: http://{addresses.dashboard}")
        more = "" if obstacle else "; until then a few requests a second go on"
        say(f"it ends after {seconds:g} s{more}" if seconds else f"Ctrl-C ends it, and removes what it stored{more}")
        _keep_serving(seconds, interrupted, None if obstacle else addresses)
    return 0 if complete else 1


def _command() -> str:
    """Return how a shell in the working directory calls the `warpline` that runs this."""
    beside = Path(sys.executable).with_name("warpline")
    if shutil.which("warpline") or not beside.exists():
        return "warpline"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


@contextmanager
def _workplace() -> Iterator[tuple[Path, Children]]:
    state_dir = Path(tempfile.mkdtemp(prefix="warpline-demo-"))
    children = Children(state_dir / "logs")
    try:
        yield state_dir, children
    finally:
        children.stop()
        shutil.rmtree(state_dir, ignore_errors=True)


def _start_correlator(children: Children, environment: dict[str, str], addresses: Addresses) -> None:
    children.start("correlator", ["-m", "warpline.cli", "correlate"], environment)
    children.wait_until("correlator", lambda: answers(f"http://{addresses.query}/healthz"), 120)
    children.start("dashboard", ["-m", "warpline.cli", "dashboard"], environment)
    children.wait_until("dashboard", lambda: answers(f"http://{addresses.dashboard}/_stcore/health"), 120)


def _model_server(state_dir: Path, environment: dict[str, str], addresses: Addresses) -> launch.Handle:
    """Start the model server's double: real HTTP, ZMQ and scheduling, CUDA calls on a double of the GPU."""
    rings = {"WARPLINE_RING_DIR": environment["WARPLINE_RING_DIR"]}
    return launch.start(state_dir / "engine", int(addresses.server.rpartition(":")[2]), rings)


def _front(children: Children, directory: Path, addresses: Addresses, say: Say) -> Addresses:
    """Put Envoy before the server; where there is none, say so and let clients send to the server itself."""
    obstacle = envoy.why_not()
    if obstacle:
        say(f"no Envoy between clients and server: {obstacle}")
        return dataclasses.replace(addresses, front=addresses.server)
    envoy.start(children, directory, addresses.front, addresses.server)
    children.wait_until("envoy", lambda: answers(f"http://{addresses.front}/health"), 60)
    return addresses


def _start_collector(children: Children, environment: dict[str, str]) -> None:
    children.start("collector", ["-m", "warpline.cli", "collect"], environment)
    metrics = f"http://{environment['WARPLINE_COLLECTOR_METRICS_ADDRESS']}/metrics"
    children.wait_until("collector", lambda: _is_up(metrics, "http_exchange"), 120)


def _is_up(metrics: str, source: str) -> bool:
    try:
        with urllib.request.urlopen(metrics, timeout=2) as page:
            return f'warpline_source_up{{source="{source}"}} 1.0'.encode() in page.read()
    except OSError:
        return False


def _send(addresses: Addresses, requests: int, in_flight: int) -> list[load.Sent]:
    try:
        named = addresses.front == addresses.server  # Envoy names the others.
        return asyncio.run(load.run(f"http://{addresses.front}", requests, in_flight, model=MODEL, named=named))
    except (httpx.HTTPError, openai.OpenAIError) as error:
        raise WarplineError(
            f"demo: the model server at {addresses.front} does not answer ({error!r}); start again"
        ) from None


def _watched_load(client: Client, addresses: Addresses, requests: int, in_flight: int, say: Say) -> bool:
    sent = _send(addresses, requests, in_flight)
    found = _found(client, sent)
    slowest = found.sort_by([("duration_ns", "descending")]).slice(0, 1).to_pylist()
    where = f"http://{addresses.dashboard}/request?id={slowest[0]['request_uid']}" if slowest else "nothing was found"
    slowest_ms = f"{slowest[0]['duration_ns'] / 1e6:.0f} ms" if slowest else "unknown"
    say(f"{requests} requests sent, {found.num_rows} found, slowest {slowest_ms}: {where}")
    whole, missing = _followed(client, found)
    for part, count in missing.items():
        say(f"not found of {count} requests: {part}")
    say(f"{whole} of {requests} followed from the client's socket to the GPU")
    complete = bool(found.num_rows == whole == requests)
    if not complete:
        for loss in client.view("loss_total").to_pylist():
            say(f"lost by {loss['source']}: {loss['lost']} × {loss['reason']}")
    return complete


def _found(client: Client, sent: list[load.Sent]) -> pa.Table:
    """Return the rows of the view `request` that are the requests sent: one each, once all are there."""
    wanted = pa.array(sorted(each.trace_id for each in sent), pa.string())
    since_ns = min(each.start_ns for each in sent) - 1_000_000_000

    def ask() -> tuple[pa.Table, bool]:
        rows = client.view("request", since_ns=since_ns, limit=100_000)
        rows = rows.filter(pc.is_in(rows["trace_id"], wanted))
        # A proxy's passage is no request of its own once both of its sides have come.
        return rows, rows.num_rows == len(wanted) == pc.count_distinct(rows["trace_id"]).as_py()

    return _patiently(ask, lambda rows: rows.num_rows)


def _followed(client: Client, found: pa.Table) -> tuple[int, dict[str, int]]:
    """Return how many requests are followed over unbroken edges, and of how many others which part is missing."""
    if not found.num_rows:
        return 0, {}
    since_ns = pc.min(found["start_ns"]).as_py()
    names = found["request_uid"].combine_chunks()

    def ask() -> tuple[Counter[str | None], bool]:
        rows = client.view("request_path", since_ns=since_ns, limit=100_000)
        missing = Counter(rows.filter(pc.is_in(rows["request_uid"], names))["missing"].to_pylist())
        return missing, missing[None] == len(names)

    missing = _patiently(ask, lambda counts: tuple(counts.items()))
    return missing.pop(None, 0), {str(part): count for part, count in missing.items()}


_Answer = TypeVar("_Answer")


def _patiently(ask: Callable[[], tuple[_Answer, bool]], state: Callable[[_Answer], object]) -> _Answer:
    """Ask until the answer is complete, or its state has not changed for a while; return the last answer."""
    known, since = None, time.monotonic()
    while True:
        answer, complete = ask()
        if state(answer) != known:
            known, since = state(answer), time.monotonic()
        if complete or time.monotonic() - since > _PATIENCE_S:
            return answer
        time.sleep(0.3)


def _replay_newest(children: Children, environment: dict[str, str], say: Say) -> None:
    manifests = sorted(_SAMPLES.glob("*/manifest.json"), key=lambda path: sample.load(path.parent).start_ns)
    if not manifests:
        raise WarplineError(f"demo: no sample trace under {_SAMPLES}; clone the project whole")
    newest = manifests[-1].parent
    say(f"replaying the sample trace {newest.name} instead")
    child = children.start("replay", ["-m", "warpline.cli", "replay", str(newest), "--now"], environment)
    if child.wait(120):
        raise WarplineError(f"demo: the replay ended with code {child.returncode}")


def _keep_serving(seconds: float, interrupted: threading.Event, addresses: Addresses | None) -> None:
    """Send a few requests each second to the server, where there is one, until the time is over or Ctrl-C came."""
    end = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < end and not interrupted.is_set():
        if addresses:
            _send(addresses, *_QUIET_LOAD)
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Remember that Ctrl-C came: asyncio takes it for itself, and forgets it where a load ends at that moment."""
    came = threading.Event()

    def note(*_: object) -> None:
        came.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
