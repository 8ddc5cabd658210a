"""What an incident is played on: the model server's double, watched by a collector and a correlator of its own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from collectors.inject.build import build as build_library
from demo import envoy, hubble_double, service_double
from demo.addresses import Addresses
from demo.cluster_double import ApiServerDouble, ClusterDouble
from demo.cuda_double import driver
from demo.cuda_double.build import build as build_double
from demo.cuda_double.build import compiler
from demo.engine import MODEL, launch
from demo.service_double import Service
from warpline.children import Children, answers, free_port
from warpline.client import Client
from warpline.errors import WarplineError
from warpline.settings import Settings

NODE = "gpu-node-0"
_SOURCES = "clock,cuda_kernel,dcgm,engine_metrics,engine_step,http_exchange,process,tcp"
_IN_FLIGHT = 256
SECOND_HOST = "127.0.0.2"
_FAR = {"do_remote_decode": True}
_CLOCK_SOURCE = Path(__file__).resolve().parent / "clock_step.c"


class _Clock:
    """The collector's wall clock, which a scene may step; its other clocks, and everybody else's, stay."""

    def __init__(self, directory: Path) -> None:
        """Build what is preloaded into the collector; raise WarplineError where that fails."""
        library, self._file = directory / "clock_step.so", directory / "clock_ahead"
        self._file.write_bytes(bytes(8))
        command = [compiler() or "cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(_CLOCK_SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise WarplineError(f"demo: {_CLOCK_SOURCE.name} cannot be built: {error}") from None
        self.environment = {"LD_PRELOAD": str(library), "DEMO_CLOCK_FILE": str(self._file)}

    def step(self, seconds: int) -> None:
        """Put the wall clock ahead by so much from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("<q", seconds))


@dataclass
class Stage:
    """Everything that a scene may change or ask."""

    server: launch.Handle
    children: Children
    collector: subprocess.Popen[bytes]
    environment: dict[str, str]
    web: httpx.AsyncClient
    client: Client
    clock: _Clock
    stack: ExitStack
    """What ends with the stage."""
    front: str
    """Where clients send: Envoy's address, where there is one on their way."""
    cluster: ClusterDouble | None = None
    second: launch.Handle | None = None
    """Another engine on a GPU of its own."""
    service: Service | None = None
    """The name that all engines of the cluster have in common."""
    hubble: hubble_double.Agent | None = None

    async def ask(self, prompt_tokens: int, output_tokens: int, stream: bool = True, url: str = "") -> int:
        """Send one completion, streamed or not, and return its HTTP status; 0 where the connection broke."""
        body = {"model": MODEL, "prompt": "word " * prompt_tokens, "max_tokens": output_tokens, "stream": stream}
        return (await self._post(f"{url}/v1/completions", body, _names()))[0]

    async def ask_apart(self, prompt_tokens: int, output_tokens: int) -> int:
        """Send one completion to the prefill pool, and then with the KV cache that it offers to the decode pool."""
        names = _names()
        body = {"model": MODEL, "prompt": "word " * prompt_tokens, "max_tokens": 1}
        status, answer = await self._post("/v1/completions", body | {"kv_transfer_params": _FAR}, names)
        if status != 200 or self.second is None:
            return status
        offered = {"kv_transfer_params": json.loads(answer)["kv_transfer_params"]}
        body |= offered | {"max_tokens": output_tokens, "stream": True}
        return (await self._post(f"{self.second.url}/v1/completions", body, names))[0]

    async def ask_from(self, client: str, seconds: float = 10) -> int:
        """Send one completion from an address of the client's own, and give up after `seconds`."""
        apart = httpx.AsyncHTTPTransport(local_address=client)
        async with httpx.AsyncClient(base_url=self.front, transport=apart, timeout=seconds) as web:
            try:
                return (
                    await web.post("/v1/completions", json={"model": MODEL, "prompt": "word", "max_tokens": 1})
                ).status_code
            except httpx.TransportError:
                return 0

    async def _post(self, url: str, body: dict[str, Any], names: dict[str, str]) -> tuple[int, bytes]:
        try:
            async with self.web.stream("POST", url, json=body, headers=names) as answer:
                return answer.status_code, b"".join([piece async for piece in answer.aiter_raw()])
        except httpx.TransportError:
            return 0, b""

    def start_second(self) -> launch.Handle:
        """Start the second engine, and return when it serves. Raises WarplineError where it does not."""
        rings = {"WARPLINE_RING_DIR": self.environment["WARPLINE_RING_DIR"], "WARPLINE_DOUBLE_GPU": "1"}
        directory = Path(self.environment["WARPLINE_STATE_DIR"]) / "second"
        self.second = self.stack.enter_context(launch.start(directory, self.server.port, rings, host=SECOND_HOST))
        if self.service is not None:
            self.service.add(self.second.url)
        return self.second

    async def begin_second(self) -> launch.Handle:
        """Start the second engine while clients go on."""
        # A child dies with the thread that started it: one of asyncio's own would end before the recording does.
        lasting = self.stack.enter_context(ThreadPoolExecutor(1))
        return await asyncio.get_running_loop().run_in_executor(lasting, self.start_second)

    async def arrive(self, per_second: float, seconds: float, prompt_tokens: int, output_tokens: int) -> None:
        """Send requests at a steady rate, whatever becomes of those before, and wait for all."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < end:
                tasks.create_task(self.ask(prompt_tokens, output_tokens))
                await asyncio.sleep(1 / per_second)

    async def converse(
        self, clients: int, seconds: float, prompt_tokens: int, output_tokens: int, stream: bool = True
    ) -> None:
        """Let clients send one request after the other for a while."""
        end = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < end:
                await self.ask(prompt_tokens, output_tokens, stream)

        await asyncio.gather(*(one() for _ in range(clients)))

    async def fault(self, **values: float) -> None:
        """Change the double; raise WarplineError where it refuses."""
        answer = await self.web.post("/demo/fault", json=values)
        if answer.status_code != 200:
            raise WarplineError(f"demo engine: fault {values} was refused: {answer.text}")

    async def stopped(self, pid: int, seconds: float) -> None:
        """Stop a process for a while (SIGSTOP), and let it go on."""
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def neighbour(self) -> Iterator[None]:
        """Have a second process work on the GPU, watched as the engine is."""
        rings = Path(self.environment["WARPLINE_RING_DIR"])
        # Without step numbers the library records one stretch in eight; busy time would be an eighth too.
        every = {"WARPLINE_GPU_EAGER_STEPS": "1/1"}
        variables = self.environment | driver.environment(build_double(), build_library(), rings) | every
        child = self.children.start("neighbour", ["-m", "demo.neighbour"], variables)
        try:
            yield
        finally:
            child.terminate()
            child.wait()

    @contextmanager
    def denied(self, client: str) -> Iterator[None]:
        """Drop every packet that comes from a client's address, by the kernel's packet filter, as a policy does.

        Raises WarplineError where nftables is not there or may not be used.
        """
        port = httpx.URL(self.front).port or 0
        name, drop = _denied(port), f"ip saddr {client} tcp dport {port} counter drop;"
        _nft(f"table inet {name} {{ chain denied {{ type filter hook input priority 0; {drop} }}\n}}")
        try:
            yield
        finally:
            _nft(f"delete table inet {name}")

    @contextmanager
    def lossy_path(self, percent: int) -> Iterator[None]:
        """Drop a share of all packets from and to the server, by the kernel's packet filter: where Envoy is, behind it.

        Raises WarplineError where nftables is not there or may not be used.
        """
        name, port = f"warpline_demo_{self.server.port}", self.server.port
        drop = f"numgen random mod 100 < {percent} drop"
        chain = f"type filter hook input priority 0; tcp dport {port} {drop}; tcp sport {port} {drop};"
        _nft(f"table inet {name} {{ chain lossy {{ {chain} }}\n}}")
        try:
            yield
        finally:
            _nft(f"delete table inet {name}")


def _denied(port: int) -> str:
    """Return the nftables table of what is denied on the way to a port."""
    return f"warpline_denied_{port}"


def _names() -> dict[str, str]:
    """Return the headers that name one request."""
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return {"x-request-id": secrets.token_hex(12), "traceparent": trace}


def _nft(commands: str) -> None:
    try:
        subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise WarplineError(f"nft: {error}; packet loss needs nftables and root") from None


@contextmanager
def opened(pods: Sequence[str] = (), together: bool = False, hubble: bool = False) -> Iterator[Stage]:
    """Give a stage on which everything runs and one request has gone through; nothing of it stays behind.

    Clients send by way of Envoy where there is one. With `pods`, the command lines of pods, there is a cluster in which they
    are: the first is the server's. With `together` the second engine runs from the start, in the second pod, and both are
    asked without Envoy; with `hubble` a double of Hubble tells of drops. Raises WarplineError where a part does not come up.
    """
    state_dir = Path(tempfile.mkdtemp(prefix="warpline-incident-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, state_dir, ignore_errors=True)
        children = Children(state_dir / "logs")
        stack.callback(children.stop)
        addresses = Addresses(
            *(f"127.0.0.1:{free_port()}" for _ in range(6))
        )  # Never the usual ones: others send there.
        environment = addresses.environment(state_dir) | {
            "WARPLINE_NODE": NODE,
            "WARPLINE_COLLECTOR_SOURCES": _SOURCES,
        }
        children.start("correlator", ["-m", "warpline.cli", "correlate"], environment)
        children.wait_until("correlator", lambda: answers(f"http://{addresses.query}/healthz"), 60)
        rings = {"WARPLINE_RING_DIR": environment["WARPLINE_RING_DIR"]}
        server = stack.enter_context(launch.start(state_dir / "engine", _port(addresses.server), rings))
        front = addresses.server if together else _front(children, state_dir / "envoy", addresses, environment)
        agent = stack.enter_context(hubble_double.served(_denied(_port(front)), NODE, "engine-0")) if hubble else None
        if agent is not None:
            environment["WARPLINE_HUBBLE_ADDRESS"] = agent.address
            environment["WARPLINE_COLLECTOR_SOURCES"] += ",hubble"
        service, arguments = None, ["-m", "warpline.cli", "collect"]
        if pods:
            service = _service(stack, state_dir, server, environment)
            arguments = service.arguments(["collect"])
        clock = _Clock(state_dir)
        collector = children.start("collector", arguments, environment | clock.environment)
        client = Client(Settings(query_url=f"http://{addresses.query}"))
        web = httpx.AsyncClient(
            base_url=f"http://{front}", timeout=120, limits=httpx.Limits(max_connections=_IN_FLIGHT)
        )
        stage = Stage(server, children, collector, environment, web, client, clock, stack, f"http://{front}")
        stage.service, stage.hubble = service, agent
        if together:
            stage.start_second()
        if pods:
            _cluster(stage, stack, pods)
        children.wait_until("collector", lambda: _sees(stage), 120)
        yield stage


def _front(children: Children, directory: Path, addresses: Addresses, environment: dict[str, str]) -> str:
    """Put Envoy before the server, and have its log read; return where clients send: to the server where there is none."""
    if envoy.why_not():
        return addresses.server
    envoy.start(children, directory, addresses.front, addresses.server)
    children.wait_until("envoy", lambda: answers(f"http://{addresses.front}/health"), 60)
    environment["WARPLINE_COLLECTOR_SOURCES"] += ",envoy_log"
    return addresses.front


def _service(stack: ExitStack, state_dir: Path, server: launch.Handle, environment: dict[str, str]) -> Service:
    """Have a name for all engines, the first among them, and an exporter of their GPUs; have both watched."""
    service = Service(state_dir)
    service.add(server.url)
    environment["WARPLINE_ENGINE_URLS"] = f"dns+{service_double.NAME}:{server.port}"
    environment["WARPLINE_DCGM_URLS"] = stack.enter_context(service_double.exporter(service))
    return service


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _cluster(stage: Stage, stack: ExitStack, pods: Sequence[str]) -> None:
    """Have a cluster with the pods that run, and a collector that watches it."""
    api = ApiServerDouble()
    url = stack.enter_context(api.served())
    stage.cluster = ClusterDouble(api, NODE)
    hosts = ("127.0.0.1", SECOND_HOST)
    for number, (arguments, host) in enumerate(zip(pods, hosts, strict=False)):
        stage.cluster.serving(f"engine-{number}", host, arguments.split())
    state_dir = Path(stage.environment["WARPLINE_STATE_DIR"]) / "cluster"
    variables = {
        "WARPLINE_NODE": "cluster-0",
        "WARPLINE_COLLECTOR_SCOPE": "cluster",
        "WARPLINE_COLLECTOR_SOURCES": "clock,cluster_state",
        "WARPLINE_KUBERNETES_API": url,
        "WARPLINE_STATE_DIR": str(state_dir),
        "WARPLINE_COLLECTOR_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    stage.children.start("cluster", ["-m", "warpline.cli", "collect"], stage.environment | variables)
    stage.children.wait_until("cluster", lambda: _rows(stage, "pod") > 0, 60)


def _sees(stage: Stage) -> bool:
    """Send a request and say whether those before came through to the store, from the socket to the GPU."""
    body = {"model": MODEL, "prompt": "are you there", "max_tokens": 2}
    httpx.post(f"{stage.front}/v1/completions", json=body, timeout=30)
    time.sleep(0.5)
    tables = ["http_exchange", "gpu_kernel", "step_member", "gpu_sample"]
    tables += ["hop"] if "envoy_log" in stage.environment["WARPLINE_COLLECTOR_SOURCES"] else []
    return all(_rows(stage, table) for table in tables)


def _rows(stage: Stage, table: str) -> int:
    return int(stage.client.table(table, limit=1).num_rows)


__all__: list[str] = ["NODE", "SECOND_HOST", "Stage", "opened"]
