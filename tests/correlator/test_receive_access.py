"""Who the doors let in."""

from __future__ import annotations

import http.client
import logging
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest

from correlator.doors.access import is_loopback
from correlator.doors.receive import Receiver
from tests.correlator.doors import Kept, open_doors, trace_request
from warpline.errors import SettingsError
from warpline.settings import Settings

BODY = trace_request(1).SerializeToString()
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def http_status(receiver: Receiver, authorization: str | None, context: ssl.SSLContext | None = None) -> int:
    made = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
    more = {} if context is None else {"context": context}
    connection = made(receiver.http_address, timeout=20, **more)
    headers = {"Content-Type": "application/x-protobuf"} | ({"Authorization": authorization} if authorization else {})
    try:
        connection.request("POST", "/v1/traces", BODY, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def grpc_code(channel: grpc.Channel, authorization: str | None) -> grpc.StatusCode:
    metadata = (("authorization", authorization),) if authorization else ()
    try:
        channel.unary_unary(EXPORT)(BODY, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[no-any-return]
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("authorization", "admitted"),
    [
        ("Bearer first-token", True),
        ("bearer second-token", True),
        ("Bearer third-token", False),
        ("Bearer first-toke", False),
        ("Basic first-token", False),
        ("Bearer ", False),
        (None, False),
    ],
)
def test_both_doors_take_only_the_tokens_of_the_file(tmp_path: Path, authorization: str | None, admitted: bool) -> None:
    file = tmp_path / "tokens"
    file.write_text("first-token\n\n second-token \n")
    with open_doors(correlator_token_file=str(file)) as (receiver, kept):
        assert http_status(receiver, authorization) == (200 if admitted else 401)
        with grpc.insecure_channel(receiver.grpc_address) as channel:
            wanted = grpc.StatusCode.OK if admitted else grpc.StatusCode.UNAUTHENTICATED
            assert grpc_code(channel, authorization) == wanted
        assert len(kept.rows("span")) == int(admitted)


def test_a_token_file_can_be_rotated_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("old\n")
    with open_doors(correlator_token_file=str(file)) as (receiver, _):
        file.write_text("newer\n")
        assert (http_status(receiver, "Bearer old"), http_status(receiver, "Bearer newer")) == (401, 200)
        file.write_text("")
        assert http_status(receiver, "Bearer newer") == 200


def test_without_token_or_mutual_tls_the_doors_bind_to_loopback_only_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everywhere = {"correlator_http_address": "0.0.0.0:0", "correlator_grpc_address": "0.0.0.0:0"}
    with caplog.at_level(logging.WARNING), open_doors(**everywhere) as (receiver, _):
        assert receiver.http_address.startswith("127.0.0.1:") and receiver.grpc_address.startswith("127.0.0.1:")
    assert [r.message.split(":")[0] for r in caplog.records] == ["http door", "grpc door"]
    file = tmp_path / "tokens"
    file.write_text("token")
    with open_doors(correlator_token_file=str(file), **everywhere) as (receiver, _):
        assert receiver.http_address.startswith("0.0.0.0:") and receiver.grpc_address.startswith("0.0.0.0:")


def test_loopback_is_known_in_all_its_spellings() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "::", "192.0.2.1", "no such host"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"correlator_token_file": "/nowhere/tokens"},
        {"correlator_tls_certificate": "/nowhere/cert.pem"},
        {"correlator_tls_certificate": "/nowhere/cert.pem", "correlator_tls_key": "/nowhere/key.pem"},
        {"correlator_tls_client_ca": "/nowhere/ca.pem"},
        {"correlator_http_address": "127.0.0.1"},
        {"correlator_grpc_address": "127.0.0.1:port"},
    ],
)
def test_settings_that_do_not_fit_are_a_sentence(wrong: dict[str, str]) -> None:
    free = {"correlator_http_address": "127.0.0.1:0", "correlator_grpc_address": "127.0.0.1:0"}
    with pytest.raises(SettingsError, match=r"; (give|free)"):
        Receiver(Settings(**(free | wrong)), Kept())


def test_an_address_that_is_taken_is_a_sentence() -> None:
    with open_doors() as (receiver, _):
        for taken in (
            {"correlator_http_address": receiver.http_address},
            {"correlator_grpc_address": receiver.grpc_address},
        ):
            free = {"correlator_http_address": "127.0.0.1:0", "correlator_grpc_address": "127.0.0.1:0"}
            with pytest.raises(SettingsError, match="free it, or set"):
                Receiver(Settings(**(free | taken)), Kept())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate each for server and client; another authority with a client of its own."""
    folder = tmp_path_factory.mktemp("pki")
    for authority, names in (("ca", ("server", "client")), ("other", ("stranger",))):
        new = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        subject = ["-subj", f"/CN=warpline test {authority}", "-addext", "keyUsage=critical,keyCertSign"]
        run([*new, *subject, "-keyout", f"{authority}.key", "-out", f"{authority}.pem"], folder)
        for name in names:
            request = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            run([*request, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"], folder)
            (folder / "alt").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            sign = ["openssl", "x509", "-req", "-days", "2", "-extfile", "alt", "-CAcreateserial"]
            files = [
                "-in",
                f"{name}.csr",
                "-CA",
                f"{authority}.pem",
                "-CAkey",
                f"{authority}.key",
                "-out",
                f"{name}.pem",
            ]
            run([*sign, *files], folder)
    return folder


def run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(("client", "admitted"), [("client", True), ("stranger", False), (None, False)])
def test_mutual_tls_takes_only_certificates_of_its_authority(
    certificates: Path, client: str | None, admitted: bool
) -> None:
    tls = {
        "correlator_tls_certificate": str(certificates / "server.pem"),
        "correlator_tls_key": str(certificates / "server.key"),
        "correlator_tls_client_ca": str(certificates / "ca.pem"),
    }
    with open_doors(**tls) as (receiver, kept):
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        pair: tuple[bytes | None, bytes | None] = (None, None)
        if client:
            context.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
            pair = (certificates / f"{client}.key").read_bytes(), (certificates / f"{client}.pem").read_bytes()
        if admitted:
            assert http_status(receiver, None, context) == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
                http_status(receiver, None, context)
        credentials = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes(), *pair)
        with grpc.secure_channel(receiver.grpc_address, credentials) as channel:
            wanted = grpc.StatusCode.OK if admitted else grpc.StatusCode.UNAVAILABLE
            assert grpc_code(channel, None) == wanted
        assert len(kept.rows("span")) == int(admitted)
