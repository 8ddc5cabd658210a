"""What an incident is played on: the model server's double, watched by a collector and a correlator of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from collectors.inject.build import build as build_library
from demo.cuda_double import driver
from demo.cuda_double.build import build as build_double
from demo.cuda_double.build import compiler
from demo.engine import MODEL, launch
from demo.run import Addresses
from warpline.children import Children, answers, free_port
from warpline.client import Client
from warpline.errors import WarplineError
from warpline.settings import Settings

NODE = "gpu-node-0"
_SOURCES = "clock,cuda_kernel,dcgm,engine_metrics,engine_step,http_exchange,process,tcp"
_IN_FLIGHT = 256
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

    async def ask(self, prompt_tokens: int, output_tokens: int, stream: bool = True) -> int:
        """Send one completion, streamed or not, and return its HTTP status; 0 where the connection broke."""
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        headers = {"x-request-id": secrets.token_hex(12), "traceparent": trace}
        body = {"model": MODEL, "prompt": "word " * prompt_tokens, "max_tokens": output_tokens, "stream": stream}
        try:
            async with self.web.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
                async for _ in answer.aiter_raw():
                    pass
                return answer.status_code
        except httpx.TransportError:
            return 0

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
    def lossy_path(self, percent: int) -> Iterator[None]:
        """Drop a share of all packets from and to the server, by the kernel's packet filter.

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


def _nft(commands: str) -> None:
    try:
        subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise WarplineError(f"nft: {error}; packet loss needs nftables and root") from None


@contextmanager
def opened() -> Iterator[Stage]:
    """Give a stage on which everything runs and one request has gone through; nothing of it stays behind.

    Raises WarplineError where a part does not come up.
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
        port = int(addresses.server.rpartition(":")[2])
        rings = {"WARPLINE_RING_DIR": environment["WARPLINE_RING_DIR"]}
        server = stack.enter_context(launch.start(state_dir / "engine", port, rings))
        clock = _Clock(state_dir)
        collector = children.start("collector", ["-m", "warpline.cli", "collect"], environment | clock.environment)
        client = Client(Settings(query_url=f"http://{addresses.query}"))
        web = httpx.AsyncClient(base_url=server.url, timeout=120, limits=httpx.Limits(max_connections=_IN_FLIGHT))
        stage = Stage(server, children, collector, environment, web, client, clock)
        children.wait_until("collector", lambda: _sees(stage), 120)
        yield stage


def _sees(stage: Stage) -> bool:
    """Send a request and say whether those before came through to the store, from the socket to the GPU."""
    body = {"model": MODEL, "prompt": "are you there", "max_tokens": 2}
    httpx.post(f"{stage.server.url}/v1/completions", json=body, timeout=30)
    time.sleep(0.5)
    return all(_rows(stage, table) for table in ("http_exchange", "gpu_kernel", "step_member", "gpu_sample"))


def _rows(stage: Stage, table: str) -> int:
    return int(stage.client.table(table, limit=1).num_rows)


__all__: list[str] = ["NODE", "Stage", "opened"]
