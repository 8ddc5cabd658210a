"""Agents over real TLS: what Hubble, Relay and Tetragon ask of a client, and a sentence for each way in which it fails."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from collectors import hubble, tetragon
from collectors.wire.hubble_pb2 import GetFlowsResponse
from collectors.wire.tetragon_pb2 import GetEventsResponse
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running
from tests.waiting import until
from warpline.settings import Settings

NAME = "agent.test"
AGENTS = pytest.mark.parametrize("agent", [hubble, tetragon], ids=["hubble", "tetragon"])
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def pem(self) -> tuple[bytes, bytes]:
        return self.key.read_bytes(), self.certificate.read_bytes()


def made(directory: Path, name: str, signer: Pair | None = None) -> Pair:
    """A certificate for `name`, made now: an authority's own, or signed by one."""
    pair = Pair(directory / f"{name}.pem", directory / f"{name}.key")
    ask = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    more = ["-CA", str(signer.certificate), "-CAkey", str(signer.key)] if signer else []
    basic = "critical,CA:FALSE" if signer else "critical,CA:TRUE"
    more += ["-addext", f"subjectAltName=DNS:{name}", "-addext", f"basicConstraints={basic}"]
    command = [*ask, "-subj", f"/CN={name}", *more, "-keyout", str(pair.key), "-out", str(pair.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return pair


@dataclass(frozen=True)
class Certificates:
    """An authority, what it signed for a server and for a client, and an authority that nobody trusts."""

    authority: Pair
    server: Pair
    client: Pair
    stranger: Pair

    def settings(self, agent: ModuleType, address: str, **other: str) -> dict[str, str]:
        told = {
            "address": address,
            "tls_ca": str(self.authority.certificate),
            "tls_certificate": str(self.client.certificate),
            "tls_key": str(self.client.key),
            "tls_name": NAME,
        }
        return {f"{_name(agent)}_{key}": value for key, value in {**told, **other}.items()}


def _name(agent: ModuleType) -> str:
    return agent.__name__.rpartition(".")[2]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    authority = made(directory, "authority.test")
    signed = [made(directory, name, authority) for name in (NAME, "collector.test")]
    return Certificates(authority, *signed, made(directory, "stranger.test"))


@pytest.fixture(scope="module")
def agents_double(certificates: Certificates) -> Iterator[str]:
    """Hubble and Tetragon behind one door that asks for a client's certificate."""

    def flows(request: bytes, call: Any) -> Iterator[bytes]:
        yield GetFlowsResponse(flow={"uuid": "a", "time": {"seconds": 1_700_000_000}}).SerializeToString()  # type: ignore[arg-type]

    def events(request: bytes, call: Any) -> Iterator[bytes]:
        yield GetEventsResponse(test={"arg0": 1}, time={"seconds": 1_700_000_000}).SerializeToString()  # type: ignore[arg-type]

    methods = {"/observer.Observer/GetFlows": flows, "/tetragon.FineGuidanceSensors/GetEvents": events}
    authority = certificates.authority.certificate.read_bytes()
    with grpc_double(methods, certificate=certificates.server.pem, clients_of=authority) as address:
        yield address


@AGENTS
def test_an_agent_that_asks_for_a_certificate_is_shown_ours(
    agent: Any, certificates: Certificates, agents_double: str, tmp_path: Path
) -> None:
    seen = Seen()
    where = context(tmp_path, seen, _name(agent), **certificates.settings(agent, agents_double))
    assert agent.check(where.settings) is None
    with running(agent, where, seen):
        until(lambda: bool(seen.rows(agent.TABLES[-1].name)))


@AGENTS
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"tls_certificate": "", "tls_key": ""}, "hangs up after TLS's handshake: it may want a client's certificate"),
        ({"tls_name": "other.test"}, "has a certificate that is not accepted (Hostname mismatch, certificate"),
        ({"tls_ca": "stranger"}, "has a certificate that is not accepted (unable to get local issuer certificate)"),
        ({"tls_ca": "", "tls_certificate": "", "tls_key": "", "tls_name": ""}, "does not speak plain gRPC"),
    ],
)
def test_each_way_in_which_tls_fails_is_a_sentence(
    agent: Any, wrong: dict[str, str], reason: str, certificates: Certificates, agents_double: str
) -> None:
    wrong = {
        key: str(certificates.stranger.certificate) if value == "stranger" else value for key, value in wrong.items()
    }
    told = agent.check(Settings(**certificates.settings(agent, agents_double, **wrong)))  # type: ignore[arg-type]
    assert told is not None
    assert told.startswith(f"{agents_double}: {_name(agent).capitalize()} {reason}")
    assert f"or set {_name(agent)}_address or {_name(agent)}_file" in told


@AGENTS
def test_tls_settings_that_cannot_be_meant_are_refused(agent: Any, certificates: Certificates, tmp_path: Path) -> None:
    without = certificates.settings(agent, "127.0.0.1:1", tls_ca="")
    assert agent.check(Settings(**without)) == (  # type: ignore[arg-type]
        "127.0.0.1:1: a certificate, key or name without an authority; set its tls_ca too"
    )
    absent = certificates.settings(agent, "127.0.0.1:1", tls_key=f"{tmp_path}/none")
    assert agent.check(Settings(**absent)) == (  # type: ignore[arg-type]
        f"{tmp_path}/none: No such file or directory; give a readable PEM file"
    )


@AGENTS
def test_a_peer_that_speaks_tls_to_none_is_told_apart(agent: Any, certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    told = agent.check(Settings(**certificates.settings(agent, address)))  # type: ignore[arg-type]
    assert told.startswith(f"{address}: {_name(agent).capitalize()} does not answer; ")
