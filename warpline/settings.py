"""One frozen Settings object: defaults < warpline.toml < WARPLINE_* variables < flags.

A setting's name begins with the part that reads it and ends in its unit. In `warpline.toml` a table's name and a key
join with an underscore: `[correlator] memory_limit_mb = 512` is `correlator_memory_limit_mb`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from warpline.errors import SettingsError, plain

PREFIX = "WARPLINE_"


def _setting(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Settings:
    """All settings, each with its default and its text."""

    node: str = _setting("", "Name of this node; empty means the host's name.")
    state_dir: str = _setting(
        "/var/lib/warpline", "Directory for what must survive a restart: clock anchor, spools, database."
    )
    log_level: str = _setting("info", "Least severity that is logged: debug, info, warning, error.")

    collector_sources: str = _setting("", "Sources to run, comma-separated; empty runs every one that can.")
    collector_scope: str = _setting(
        "node", "What this collector speaks for: node (a DaemonSet's pod) or cluster (one for all)."
    )
    collector_endpoint: str = _setting("http://127.0.0.1:4318", "Where batches go: an OTLP/HTTP address.")
    collector_token_file: str = _setting("", "File with the bearer token to show at the endpoint, in its first line.")
    collector_tls_ca: str = _setting("", "PEM authority of the endpoint's certificate; empty takes the system's.")
    collector_tls_certificate: str = _setting("", "PEM certificate to show at the endpoint (mTLS).")
    collector_tls_key: str = _setting("", "PEM key of that certificate.")
    collector_batch_rows: int = _setting(65536, "Rows that leave in one batch, at most.")
    collector_batch_delay_s: float = _setting(0.2, "Longest time that a row waits for its batch.")
    collector_queue_mb: int = _setting(1024, "Size on disk of the collector's export queue, at most.")
    collector_recorder_mb: int = _setting(
        256,
        "Size on disk of the flight recorder: the last minutes of what ordinary detail leaves out; 0 records nothing.",
    )
    collector_metrics_address: str = _setting(
        "127.0.0.1:9464", "Where the collector's own /metrics is served; empty serves none."
    )
    collector_gpu_metrics_endpoint: str = _setting(
        "", "OTLP/HTTP address that readings of GPUs also go to, as metrics for any backend; empty sends none."
    )
    collector_gzip: bool = _setting(
        False, "Requests are compressed as a whole, for a thin link; their columns are in any case."
    )
    collector_metrics_delta: bool = _setting(
        False, "Counters leave as OTLP metrics of delta temporality: what was added since they were last taken."
    )
    collector_query_url: str = _setting(
        "", "Query API to ask which detail is wanted; empty derives it from the endpoint's host."
    )
    collector_budget_ratio: float = _setting(
        0.05, "Share of one core that each source may cost before it steps down its detail."
    )
    collector_nice: int = _setting(
        10,
        "How far the collector stands behind the workload that shares its cores (nice); in a pod its CPU request counts.",
    )
    collector_detail: int = _setting(
        2, "Detail level that sources keep when nobody asks for another: 1 least, 2 ordinary, 3 all."
    )

    correlator_grpc_address: str = _setting("127.0.0.1:4317", "OTLP gRPC door.")
    correlator_http_address: str = _setting("127.0.0.1:4318", "OTLP HTTP door.")
    correlator_query_address: str = _setting("127.0.0.1:4320", "Query API and /metrics.")
    correlator_token_file: str = _setting(
        "", "File with the bearer tokens that the doors accept, one a line; empty asks for none."
    )
    correlator_tls_certificate: str = _setting("", "PEM certificate of the doors; empty speaks plain text.")
    correlator_tls_key: str = _setting("", "PEM key of the doors.")
    correlator_tls_client_ca: str = _setting("", "PEM authority that clients' certificates must come from (mTLS).")
    correlator_memory_limit_mb: int = _setting(
        2048, "Memory that DuckDB may use; the doors' own bound is a quarter of it."
    )
    correlator_spool_mb: int = _setting(
        4096, "Size on disk of the correlator's spool, at most; beyond it the doors answer 'retry later'."
    )
    correlator_disk_reserve_mb: int = _setting(256, "Free disk space below which writes stop.")
    correlator_store_delay_s: float = _setting(
        0.5, "Longest time that an acknowledged batch waits to become queryable."
    )
    correlator_join_delay_s: float = _setting(0.5, "How long the joins wait before they look for new rows again.")
    correlator_token_budget: int = _setting(
        0, "Tokens that one engine step may schedule (vLLM's max_num_batched_tokens); 0 finds it from the engine wire."
    )
    correlator_upkeep_s: float = _setting(
        30.0, "Time between two rounds of upkeep: old days dropped, small segments merged, finished days sorted."
    )
    correlator_own_metrics: bool = _setting(
        True, "Store what the correlator says of itself, as it stores others' metrics; /metrics says it in any case."
    )
    correlator_retention_days: int = _setting(7, "Days that are kept; 0 keeps all.")
    correlator_retention_gb: float = _setting(
        0.0, "Size of the store beyond which the oldest day goes; 0 sets no bound."
    )
    correlator_gpu_price: str = _setting(
        "",
        "Price of a GPU hour, in any one currency: a number for all, or model=price, comma-separated: the first that is "
        "part of the GPU's model or MIG profile holds; empty tells no cost.",
    )
    correlator_max_request_mb: int = _setting(20, "Largest OTLP request, after decompression.")
    correlator_keep_content: bool = _setting(
        False, "Keep prompt and completion text found in foreign telemetry; off drops and counts it."
    )

    alerts_every_s: float = _setting(2.0, "How often the alert rules are evaluated, at most; 0 never.")
    alerts_lateness_s: float = _setting(1.0, "How far behind now they are evaluated, so that late rows are in.")
    alerts_thresholds: str = _setting(
        "", "Thresholds that differ from the rules' own: rule.threshold=number, comma-separated."
    )
    alerts_off: str = _setting("", "Rules that are not evaluated, comma-separated.")
    alerts_edge_nodes: str = _setting(
        "",
        "Nodes at the edge, whose users are promised answers within 50 ms (rule edge_latency), comma-separated, with "
        "wildcards; empty: none.",
    )
    alerts_alertmanager_urls: str = _setting("", "Alertmanagers to tell (v2 API), comma-separated.")
    alerts_webhook_urls: str = _setting("", "Webhooks to tell, in Slack's form, comma-separated.")
    alerts_dashboard_url: str = _setting("http://127.0.0.1:8501", "Dashboard's address in the links of alerts.")

    recorder_before_s: float = _setting(
        60.0, "Time before an alert or a slow request of which collectors are asked for all that they recorded."
    )
    recorder_after_s: float = _setting(60.0, "Time after it that is kept too, and for which their detail is raised.")
    recorder_slow_ttft_ms: float = _setting(
        2000.0, "Time to first token beyond which a request has its window kept; 0 keeps none for slow requests."
    )
    recorder_pause_s: float = _setting(
        600.0,
        "Time after a kept window before the same rule, or a slow request, has another one kept on the same node.",
    )

    query_url: str = _setting("http://127.0.0.1:4320", "Query API that `warpline query` and the dashboard read.")
    query_token_file: str = _setting("", "File with the bearer token for the query API.")

    dashboard_address: str = _setting("127.0.0.1:8501", "Where the dashboard is served.")
    dashboard_auth: str = _setting(
        "",
        "Who may look: empty lets everyone who reaches the address, oidc asks for Streamlit's login, header trusts a proxy.",
    )
    dashboard_user_header: str = _setting(
        "X-Forwarded-User",
        "Header in which the trusted proxy names the user; the proxy must strip it from what it receives.",
    )
    dashboard_secrets_file: str = _setting("", "Streamlit secrets file with the [auth] section that oidc needs.")
    dashboard_logs_url: str = _setting(
        "",
        "Address of a request's logs, in which {request_id}, {response_id}, {trace_id}, {pod}, {namespace}, {node}, "
        "{start_ms} and {end_ms} are filled in; empty offers none.",
    )
    dashboard_perfetto_url: str = _setting(
        "",
        "A Perfetto UI that traces may be opened in, such as one hosted in the cluster; empty offers the file alone.",
    )

    http_ports: str = _setting(
        "", "Server ports whose HTTP is traced, comma-separated; empty traces by executable alone."
    )
    http_executables: str = _setting("", "Parts of command lines whose processes are traced, comma-separated.")
    http_cgroups: str = _setting(
        "", "Parts of cgroup paths (a container or pod id) whose processes are traced, comma-separated."
    )
    http_head_bytes: int = _setting(4096, "Bytes of a request's head that are read, at most.")

    engine_wire_executables: str = _setting(
        "VLLM::EngineCore",
        "Parts of command lines of model engines whose messages with their API servers are read, comma-separated.",
    )

    cuda_launch_executables: str = _setting(
        "VLLM::,sglang::,tritonserver",
        "Parts of command lines of processes whose CUDA calls are probed where no library is injected, comma-separated.",
    )

    sched_threshold_us: int = _setting(
        1000,
        "Times off the CPU from here on are rows of their own at ordinary detail; shorter ones are summed up only.",
    )

    dcgm_urls: str = _setting(
        "127.0.0.1:9400", "GPU exporters of this node (dcgm-exporter, AMD's device-metrics-exporter), comma-separated."
    )
    dcgm_interval_s: float = _setting(10.0, "Time between two scrapes of the GPU exporters.")
    kubelet_pod_resources_socket: str = _setting(
        "/var/lib/kubelet/pod-resources/kubelet.sock", "The kubelet's PodResources socket: which pod has which GPU."
    )
    kubelet_checkpoint: str = _setting(
        "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
        "The kubelet's device checkpoint, which knows the pods' UIDs; may be absent.",
    )

    engine_urls: str = _setting(
        "",
        "Metrics addresses of model servers, comma-separated; `dns+` before one means every address of its name.",
    )
    engine_interval_s: float = _setting(5.0, "Time between two scrapes of the model servers.")

    process_arguments: bool = _setting(False, "Keep processes' command lines, with what looks like a secret masked.")

    hubble_address: str = _setting(
        "unix:///var/run/cilium/hubble.sock", "Hubble's gRPC address: the node's agent, or Relay for the cluster."
    )
    hubble_file: str = _setting("", "File of Hubble's exporter to follow instead of the address.")
    hubble_tls_ca: str = _setting("", "PEM authority of Hubble's certificate; empty speaks plain text.")
    hubble_tls_certificate: str = _setting("", "PEM certificate to show to Hubble (mTLS).")
    hubble_tls_key: str = _setting("", "PEM key of that certificate.")
    hubble_tls_name: str = _setting("", "Name to expect in Hubble's certificate where it is not the address.")

    tetragon_address: str = _setting("unix:///var/run/tetragon/tetragon.sock", "Tetragon's gRPC address on this node.")
    tetragon_file: str = _setting("", "File of Tetragon's exporter to follow instead of the address.")
    tetragon_tls_ca: str = _setting("", "PEM authority of Tetragon's certificate; empty speaks plain text.")
    tetragon_tls_certificate: str = _setting("", "PEM certificate to show to Tetragon (mTLS).")
    tetragon_tls_key: str = _setting("", "PEM key of that certificate.")
    tetragon_tls_name: str = _setting("", "Name to expect in Tetragon's certificate where it is not the address.")

    envoy_log_files: str = _setting(
        "/var/log/pods/*/istio-proxy/*.log,/var/log/pods/*/envoy/*.log",
        "Access logs of Envoy and Istio to follow, comma-separated, with wildcards.",
    )

    kubernetes_api: str = _setting(
        "", "Address of the Kubernetes API; empty takes the pod's service account, else a kubeconfig."
    )

    container_sockets: str = _setting(
        "/run/containerd/containerd.sock,/run/k3s/containerd/containerd.sock,"
        "/var/snap/microk8s/common/run/containerd.sock,/run/crio/crio.sock",
        "Sockets of container runtimes, comma-separated; those that are there are listened to.",
    )

    ring_dir: str = _setting(
        "/run/warpline/rings",
        "Directory that engine pods share with the collector, for the rings of injected libraries.",
    )
    gpu_budget_ratio: float = _setting(
        0.01, "Share of a CUDA process's time that the injected library may cost before it steps down its detail."
    )


_KNOWN = {f.name: f for f in fields(Settings)}


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Return the settings; `flags` holds values from the command line, None meaning not given.

    Raises SettingsError that names the key, where it stands and, where there is one, the name that was likely meant.
    """
    values: dict[str, Any] = {}
    for origin, key, raw in _raw(path, os.environ if environ is None else environ, flags):
        if key not in _KNOWN:
            near = difflib.get_close_matches(key, _KNOWN, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`warpline settings` lists all"
            raise SettingsError(f"{origin}: unknown setting {key!r}; {hint}")
        values[key] = _typed(origin, key, raw)
    return Settings(**values)


def _raw(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    if path is not None:
        yield from _from_toml(path)
    for key in sorted(environ):
        if key.startswith(PREFIX):
            yield key, key.removeprefix(PREFIX).lower(), environ[key]
    for key, value in flags.items():
        if value is not None:
            yield f"--{key.replace('_', '-')}", key, value


def _from_toml(path: Path) -> Iterator[tuple[str, str, Any]]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {plain(error)}; give a readable TOML file") from None
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from ((str(path), f"{key}_{inner}", each) for inner, each in value.items())
        else:
            yield str(path), key, value


def _typed(origin: str, key: str, raw: Any) -> Any:
    wanted: type[bool | int | float | str] = type(getattr(Settings, key))
    if wanted is bool:
        words = {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }
        found = words.get(str(raw).strip().lower())
        if found is not None:
            return found
    elif isinstance(raw, str | int | float) and not isinstance(raw, bool):
        try:
            return wanted(raw)
        except ValueError:
            pass
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    raise SettingsError(f"{origin}: {key} is {raw!r}; give {names[wanted]}")


def describe() -> str:
    """Return all settings with their defaults and texts, in the form of a warpline.toml."""
    lines = ["# Every setting of Warpline with its default. The variable of `a_b` is WARPLINE_A_B."]
    for each in fields(Settings):
        shown = f'"{each.default}"' if isinstance(each.default, str) else str(each.default).lower()
        lines += ["", f"# {each.metadata['doc']}", f"{each.name} = {shown}"]
    return "\n".join(lines) + "\n"
