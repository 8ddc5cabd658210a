"""Access logs of proxies: every real line goes through, and a real Envoy's with retries."""

from __future__ import annotations

import http.client
import http.server
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import envoy_log
from correlator.joins import ids
from demo.loopback import served
from tests.collectors.telemetry_doubles import Seen, context, running
from tests.waiting import until
from warpline.settings import Settings

LOGS = "envoy/access-logs"
ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


def read(block: bytes) -> tuple[list[dict[str, Any]], dict[str, int]]:
    rows, lost = envoy_log.decode(block, "node-a", "proxy")
    return rows.to_pylist(), lost


def test_every_real_line_becomes_a_hop(shared_data: Path) -> None:
    for file in (shared_data / LOGS).iterdir():
        block = file.read_bytes()
        rows, lost = read(block)
        assert (len(rows), lost) == (sum(bool(line.strip()) for line in block.splitlines()), {}), file.name


def test_envoy_gateways_typed_keys_are_read_as_by_hand(shared_data: Path) -> None:
    rows, _ = read((shared_data / LOGS / "envoy-gateway-aibrix-vllm-2025-08.jsonl").read_bytes())
    first, second = rows
    assert first["start_ns"] == 1755732118_905000000
    assert first["end_ns"] - first["start_ns"] == 6_000_000
    assert (first["path"], first["method"], first["status"]) == ("/v1/chat/completions", "POST", 200)
    assert (first["request_id"], first["authority"]) == ("4000a69d-3db6-404c-8892-4f8023e008f0", "localhost:8888")
    assert (first["upstream_address"], first["upstream_ns"]) == ("10.244.0.19:8000", None)
    assert (first["request_bytes"], first["response_bytes"]) == (73, 302)
    assert (first["response_flags"], second["response_flags"], second["status"]) == (None, "UH", 503)
    assert orjson.loads(second["details"])["response_code_details"] == "no_healthy_upstream"


def test_istios_texts_are_numbers_and_one_request_is_three_hops(shared_data: Path) -> None:
    rows, _ = read((shared_data / LOGS / "istio-1.7-json-all-strings-2020.jsonl").read_bytes())
    assert len({row["request_id"] for row in rows}) == 1
    assert [row["upstream_ns"] for row in rows] == [1_000_000, 13_000_000, 25_000_000]
    assert [row["status"] for row in rows] == [200, 200, 200]
    assert rows[2]["upstream_cluster"] == "inbound|9080|http|productpage.default.svc.cluster.local"
    assert rows[0]["route"] is None


def test_istios_default_text_is_read_as_by_hand(shared_data: Path) -> None:
    rows, _ = read((shared_data / LOGS / "istio-text-default-2020.log").read_bytes())
    assert (rows[0]["status"], rows[0]["path"], rows[0]["response_bytes"]) == (418, "/status/418", 135)
    assert rows[0]["end_ns"] - rows[0]["start_ns"] == 3_000_000
    assert rows[0]["upstream_ns"] == 1_000_000
    assert rows[0]["request_id"] == "84961386-6d84-929d-98bd-c5aee93b5c88"
    assert (rows[0]["upstream_address"], rows[0]["downstream_address"]) == ("127.0.0.1:80", "10.44.1.23:37652")


def test_a_pods_log_in_cris_form_with_lines_of_other_kinds(tmp_path: Path) -> None:
    line = b'{"start_time":"2025-01-01T00:00:00.001Z","duration":2,"path":"/a?key=secret","cookie":"x","traceparent":'
    line += b'"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
    rows, lost = read(
        b"2025-01-01T00:00:00.1Z stdout F " + line + b"\n"
        b"2025-01-01T00:00:00.1Z stderr F 2025-01-01T00:00:00.0Z\tinfo\tEnvoy proxy is ready\n"
        b"[2025-01-01T00:00:00.1Z] broken\n{broken\n"
        b'{"path":"/no-time"}\n'
    )
    assert lost == {"line of no access log": 1, "malformed line": 2, "hop without a time": 1}
    assert [(row["path"], str(row["trace_id"])) for row in rows] == [("/a", "0af76519-16cd-43dd-8448-eb211c80319c")]
    assert "secret" not in str(rows)
    path = Path("/var/log/pods/llm_gateway-0_9a15d2b5-c152-46b9-96e0-d57032629e1f/istio-proxy/0.log")
    assert envoy_log.proxy(path) == "llm/gateway-0"


@settings(deadline=None, max_examples=40)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(envoy_log._KEYS), st.text() | st.integers(-9, 9)).map(orjson.dumps)
)
def test_random_lines_never_fail(noise: bytes) -> None:
    read(noise)


@contextmanager
def backend(failures: dict[str, int]) -> Iterator[int]:
    """A small model server: fails a path as often as `failures` says, then answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            failures[path] = failures.get(path, 0) - 1
            self.send_response(503 if failures[path] >= 0 else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            pass

    with served(Handler) as port:
        yield port


def configuration(port: int, json_log: Path, text_log: Path) -> dict[str, Any]:
    keys = {
        "start_time": "%START_TIME%",
        "duration": "%DURATION%",
        ":method": "%REQ(:METHOD)%",
        "x-envoy-origin-path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "x-request-id": "%REQ(X-REQUEST-ID)%",
        "traceparent": "%REQ(TRACEPARENT)%",
        "upstream_request_attempt_count": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "upstream_host": "%UPSTREAM_HOST%",
        "upstream_cluster": "%UPSTREAM_CLUSTER%",
    }
    file = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"}
    logs = [{**file, "path": str(json_log), "log_format": {"json_format": keys}}, {**file, "path": str(text_log)}]
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "access_log": [{"name": "log", "typed_config": each} for each in logs],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "model", "retry_policy": {"retry_on": "5xx", "num_retries": 2}},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    local = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    there = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "admin": {"address": local},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": local,
                    "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "model",
                    "load_assignment": {"cluster_name": "model", "endpoints": [{"lb_endpoints": [there]}]},
                }
            ],
        },
    }


@contextmanager
def envoy(directory: Path, configured: dict[str, Any]) -> Iterator[int]:
    """A real Envoy; yields the port that it listens on."""
    config, admin = directory / "envoy.json", directory / "admin"
    config.write_text(json.dumps(configured))
    command = [
        str(ENVOY),
        "-c",
        str(config),
        "--admin-address-path",
        str(admin),
        "--disable-hot-restart",
        "--file-flush-interval-msec",
        "100",
    ]
    with (directory / "out").open("wb") as out:
        running_envoy = subprocess.Popen([*command, "--concurrency", "1"], stdout=out, stderr=out)
    try:
        until(lambda: (admin.exists() and bool(admin.read_text())) or running_envoy.poll() is not None)
        assert running_envoy.poll() is None, (directory / "out").read_text()[-2000:]
        yield _listener(admin.read_text())
    finally:
        running_envoy.terminate()
        running_envoy.wait(20)


def _listener(admin: str) -> int:
    found: list[int] = []

    def ask() -> bool:
        connection = http.client.HTTPConnection(admin)
        connection.request("GET", "/listeners?format=json")
        told = json.loads(connection.getresponse().read())
        connection.close()
        found.extend(
            each["local_address"]["socket_address"]["port_value"] for each in told.get("listener_statuses", [])
        )
        return bool(found)

    until(ask)
    return found[0]


def test_envoys_rewriting_of_a_request_id_does_not_part_two_hops() -> None:
    sampled, first = "9bab4f77-f271-9d8b-9cf7-127055663144", "9bab4f77-f271-4d8b-9cf7-127055663144"
    rows, _ = read(
        b"".join(
            orjson.dumps({"start_time": "2025-01-01T00:00:00Z", "request_id": each}) + b"\n"
            for each in (sampled, first)
        )
    )
    told = ids.masked(pa.array([row["request_id"] for row in rows]))
    assert told[0] == told[1]
    assert ids.masked(pa.array([sampled[:-1] + "5"]))[0] != told[0]


@pytest.mark.skipif(ENVOY is None, reason="no envoy beside this Python")
def test_a_real_envoys_requests_are_hops_with_their_retries(tmp_path: Path) -> None:
    seen, json_log, text_log = Seen(), tmp_path / "access.json", tmp_path / "access.log"
    asked = {f"/v1/completions/{each}": str(uuid.uuid4()) for each in range(23)}
    failures = {path: each % 4 for each, path in enumerate(asked)}
    known = dict(failures)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with backend(failures) as port, envoy(tmp_path, configuration(port, json_log, text_log)) as front:
        connection = http.client.HTTPConnection("127.0.0.1", front)
        statuses = {}
        for path, request_id in asked.items():
            headers = {"X-Request-Id": request_id, "traceparent": trace}
            connection.request("POST", f"{path}?secret=1", body=b"prompt", headers=headers)
            answer = connection.getresponse()
            answer.read()
            statuses[path] = answer.status
        connection.close()
        where = context(tmp_path, seen, "envoy_log", envoy_log_files=f"{tmp_path}/access.*")
        until(lambda: json_log.exists() and text_log.exists())
        assert envoy_log.check(where.settings) is None
        with running(envoy_log, where, seen):
            until(lambda: len(seen.rows("hop")) >= 46)
    hops = [row for row in seen.rows("hop") if row["proxy"] == str(json_log)]
    assert len(hops) == 23
    assert len(seen.rows("hop")) == 46
    assert seen.lost() == {}
    for row in hops:
        assert row["status"] == statuses[row["path"]]
        assert row["attempts"] == min(known[row["path"]], 2) + 1
        assert row["request_bytes"] == 6
        assert ids.masked(pa.array([row["request_id"]])) == ids.masked(pa.array([asked[row["path"]]]))
        assert str(row["trace_id"]).replace("-", "") == trace[3:35]
        assert row["end_ns"] >= row["start_ns"]
    texts = [row for row in seen.rows("hop") if row["proxy"] == str(text_log)]
    assert [(row["path"], row["status"]) for row in texts] == [(row["path"], row["status"]) for row in hops]


def test_a_node_without_access_logs_says_so_in_a_line(tmp_path: Path) -> None:
    assert envoy_log.check(Settings(envoy_log_files=f"{tmp_path}/*.log")) == (
        f"no file matches {tmp_path}/*.log; set envoy_log_files to the proxies' access logs"
    )
