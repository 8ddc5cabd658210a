"""HTTP under TLS, read at the doors of OpenSSL."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors import http_exchange
from collectors.bpf import tls as tls_libraries
from collectors.bpf.tls import linked_in
from collectors.http_exchange import Probe
from tests.collectors import tls_files
from tests.collectors.conftest import WAYS, Caught, http_probe
from tests.waiting import until
from warpline.settings import Settings

pytestmark = pytest.mark.needs_bpf
ROOT = Path(__file__).parent.parent.parent
CONFIGURATION = "{admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}"
CLIENT = """
import sys, asyncio, httpx
url, mode = sys.argv[1:]
ask = dict(json={"model": "m", "messages": [{"role": "user", "content": "SECRET"}], "stream": True})
def headers(number):
    return {"traceparent": f"00-{number:032x}-{1:016x}-01", "x-demo-chunks": "5"}
def one_after_the_other():
    with httpx.Client(verify=False) as client:
        for number in range(1, 24):
            client.post(url, headers=headers(number), **ask).raise_for_status()
async def together():
    async with httpx.AsyncClient(verify=False, http2=mode == "http2") as client:
        asks = [client.post(url, headers=headers(number), **ask) for number in range(1, 24)]
        for answer in await asyncio.gather(*asks):
            answer.raise_for_status()
one_after_the_other() if mode == "sync" else asyncio.run(together())
"""


@pytest.fixture(scope="module", params=WAYS)
def probe(bpf: None, caught: Caught, request: pytest.FixtureRequest) -> Iterator[Probe]:
    with http_probe(caught, request.param) as found:
        yield found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return tls_files.certificate(tmp_path_factory.mktemp("tls"))


UVICORN = (sys.executable, "-m", "uvicorn", "demo.server:app", "--log-level", "warning", "--port")
SERVERS = {
    "uvloop": ((*UVICORN, "{port}", "--loop", "uvloop"), "--ssl-keyfile", "--ssl-certfile"),
    "asyncio": ((*UVICORN, "{port}", "--loop", "asyncio"), "--ssl-keyfile", "--ssl-certfile"),
    "hypercorn": (
        (sys.executable, "-m", "hypercorn", "demo.server:app", "--bind", "127.0.0.1:{port}", "--log-level", "warning"),
        "--keyfile",
        "--certfile",
    ),
}


@pytest.mark.parametrize(
    ("server", "mode", "protocol"),
    [
        ("uvloop", "sync", "http/1.1"),
        ("uvloop", "async", "http/1.1"),
        ("asyncio", "async", "http/1.1"),
        ("hypercorn", "http2", "http/2"),
    ],
)
def test_23_requests_under_tls_are_23_rows_on_each_side(
    probe: Probe, caught: Caught, certificate: tuple[str, str], server: str, mode: str, protocol: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    probe.targets.watch_ports([port])
    command, key, chain = SERVERS[server]
    tls = [key, certificate[0], chain, certificate[1]]
    process = subprocess.Popen([*(part.format(port=port) for part in command), *tls], cwd=ROOT)
    try:
        wait_for(port, probe)
        url = f"https://127.0.0.1:{port}/v1/chat/completions"
        subprocess.run([sys.executable, "-c", CLIENT, url, mode], check=True)
        rows = gather(probe, 46)
    finally:
        process.terminate()
        process.wait()
    sides = {side: [row for row in rows if row["side"] == side] for side in ("client", "server")}
    assert {side: len(found) for side, found in sides.items()} == {"client": 23, "server": 23}
    for found in sides.values():
        assert sorted(int(row["trace_id"]) for row in found) == list(range(1, 24))
        told = {(row["tls"], row["protocol"], row["status"], row["ended_by"]) for row in found}
        assert told == {("openssl", protocol, 200, "complete")}
        assert all(row["response_id"].startswith("chatcmpl-") for row in found)
    if protocol == "http/1.1":  # 5 chunks of the model, and the one that says [DONE].
        assert {row["chunks"] for row in sides["server"]} == {6}
    else:  # What a client reads at once are still the frames that the server wrote.
        frames = [{(int(row["trace_id"]), row["ordinal"], row["chunks"]) for row in found} for found in sides.values()]
        assert frames[0] == frames[1]
    ports = [{(int(row["trace_id"]), row["local_port"], row["peer_port"]) for row in sides["client"]}]
    ports.append({(int(row["trace_id"]), row["peer_port"], row["local_port"]) for row in sides["server"]})
    assert ports[0] == ports[1]
    assert "SECRET" not in str(rows)
    assert not {"tls data without a socket", "tls connections not read"} & caught.losses().keys()


def test_a_session_has_its_own_socket_whatever_the_order_of_calls(
    probe: Probe, caught: Caught, certificate: tuple[str, str]
) -> None:
    command = [sys.executable, str(Path(__file__).parent / "held_back_tls.py"), *certificate, "23"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        port = int(process.stdout.readline())
        probe.targets.watch(process.pid)
        begin = time.monotonic()
        until(lambda: probe.poll() and time.monotonic() > begin + 3 * tls_libraries.LOOK_AGAIN_S)
        print(file=process.stdin, flush=True)
        rows = gather(probe, 46)
    finally:
        process.kill()
        process.communicate()
    for side, here, there in (("client", "local_port", "peer_port"), ("server", "peer_port", "local_port")):
        mine = [row for row in rows if row["side"] == side]
        assert sorted(int(row["trace_id"]) for row in mine) == list(range(1, 24))
        assert all(row["response_id"] == f"chatcmpl-{int(row['trace_id'])}" for row in mine)
        assert {row[there] for row in mine} == {port} and len({row[here] for row in mine}) == 23
    ends = {side: {(row["trace_id"], row[port]) for row in rows if row["side"] == side}
            for side, port in (("client", "local_port"), ("server", "peer_port"))}  # fmt: skip
    assert ends["client"] == ends["server"]
    assert not {"tls data without a socket", "tls connections not read"} & caught.losses().keys()


def test_tls_that_is_a_part_of_a_watched_program_is_told_of() -> None:
    program = Path(sys.executable).parent / "envoy"
    if not program.exists():
        pytest.skip("no Envoy, whose TLS is BoringSSL linked in")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    command = [program, "--config-yaml", CONFIGURATION % port, "--log-level", "off", "--disable-hot-restart"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 30
        while linked_in(Path(f"/proc/{process.pid}/exe")) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        said = http_exchange.limits(Settings(http_executables=f"port_value: {port}"))
    finally:
        process.kill()
        process.wait()
    assert said == "not seen: HTTP/2 that HTTP/1 is upgraded to, TLS inside of envoy (BoringSSL, 1 running)"
    assert linked_in(Path("/bin/sh")) is None


def wait_for(port: int, probe: Probe) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        probe.poll()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
            continue
        looked = (
            time.monotonic() + 3 * tls_libraries.LOOK_AGAIN_S
        )  # It listens now, so the next look finds its library.
        while time.monotonic() < looked:
            probe.poll()
            time.sleep(0.05)
        return
    raise AssertionError("the server did not start")


def gather(probe: Probe, count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + 10
    while len(rows) < count and time.monotonic() < deadline:
        time.sleep(0.05)
        rows += probe.poll().rows.to_pylist()
    return rows + probe.poll().rows.to_pylist()
