"""Kubernetes' objects: every real Event and pod goes through; the API server is a double that speaks the watch protocol."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from collectors import cluster_state
from collectors.cluster import serving
from collectors.cluster.watch import Change
from tests.collectors.api_server_double import ApiServerDouble, Kind, api_server, pod
from tests.collectors.telemetry_doubles import Seen, context, running
from tests.waiting import until
from warpline.settings import Settings

NOW = 1_800_000_000_000_000_000


def rows(
    path: str, items: list[dict[str, Any]], state: cluster_state.State | None = None, kind: str = "ADDED"
) -> dict[str, Any]:
    changes = [Change(path, kind, each) for each in items]
    batches = (state or cluster_state.State()).batches(changes, NOW)
    return {batch.table.name: batch.rows.to_pylist() for batch in batches}


def items(file: Path) -> list[dict[str, Any]]:
    found = json.loads(file.read_text())["items"]
    assert isinstance(found, list)
    return found


def test_every_real_event_becomes_a_row_with_a_time(shared_data: Path) -> None:
    for file in sorted((shared_data / "k8s/troubleshoot").glob("*.json")):
        if json.loads(file.read_text())["kind"] != "EventList":
            continue
        told = rows("/api/v1/events", items(file))["cluster_event"]
        assert len(told) == len(items(file))
        assert all(row["time_ns"] < NOW for row in told)


def test_events_of_scheduler_and_kubelet_are_read_as_by_hand(shared_data: Path) -> None:
    found = items(shared_data / "k8s/troubleshoot/message-container-creating-failed-mount.json")
    told = rows("/api/v1/events", found)["cluster_event"]
    assert len(told) == 76
    scheduler = [row for row in told if row["reporter"] == "default-scheduler"]
    assert len(scheduler) == 13
    first = told[0]
    assert (first["reason"], first["time_ns"]) == ("Scheduled", 1688967099_694297000)
    assert (first["object"], first["object_uid"]) == ("crashpod-f9b59484-7828f", "8ffb51a6-6a35-456a-a566-cafb05f7d36a")
    pulled = next(row for row in told if row["reason"] == "Pulled")
    assert (pulled["node"], pulled["container"], pulled["reporter"]) == ("minikube", "crashpod", "kubelet")
    assert (pulled["time_ns"], pulled["occurrences"]) == (1688967105_000000000, 1)
    assert pulled["message"] == 'Successfully pulled image "bash" in 4.783086211s'


def test_the_newer_events_api_says_the_same() -> None:
    new = {
        "metadata": {"uid": "1", "namespace": "n", "creationTimestamp": "2025-01-01T00:00:00Z"},
        "eventTime": "2025-01-01T00:00:00.5Z",
        "series": {"count": 7, "lastObservedTime": "2025-01-01T00:01:00.000001Z"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "n", "uid": "u"},
        "reason": "FailedScheduling",
        "note": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "type": "Warning",
        "reportingController": "default-scheduler",
    }
    told = rows("/api/v1/events", [new])["cluster_event"][0]
    assert (told["time_ns"], told["start_ns_of_series"]) == (1735689660_000001000, 1735689600_500000000)
    assert (told["occurrences"], told["message"]) == (7, new["note"])


def test_a_killed_pod_is_read_as_by_hand(shared_data: Path) -> None:
    told = rows("/api/v1/pods", items(shared_data / "k8s/troubleshoot/message-oomkill-pod.json"))
    pod = told["pod"][0]
    assert (pod["pod"], pod["phase"], pod["pod_ip"], pod["node"]) == (
        "oom-kill-job3-gbb89",
        "Failed",
        "172.17.0.3",
        "minikube",
    )
    assert (pod["owner_kind"], pod["owner_name"], pod["engine"]) == ("Job", "oom-kill-job3", None)
    assert pod["time_ns"] == 1689050599_000000000
    states = [(row["kind"], row["exit_code"], row["reason"], row["time_ns"]) for row in told["container_state"]]
    assert states == [("started", None, None, 1689050605_000000000), ("oom", 137, "OOMKilled", 1689050605_000000000)]
    assert told["container_state"][0]["container_id"].startswith("84d3d308bb9a")


KV = '{"kv_connector":"NixlConnector","kv_role":"kv_producer"}'


@pytest.mark.parametrize(
    ("command", "labels", "wanted"),
    [
        (
            ["vllm", "serve", "Qwen/Qwen3-8B", "--quantization=fp8", "--api-key", "abc", "--kv-transfer-config", KV],
            {"llm-d.ai/role": "decode"},
            ("vllm", "Qwen/Qwen3-8B", "fp8", "decode"),
        ),
        (
            ["sh", "-c", "python3 -m sglang.launch_server --model-path /m/llama --disaggregation-mode prefill"],
            {},
            ("sglang", "/m/llama", None, "prefill"),
        ),
        (["tritonserver", "--model-repository=/models"], {}, ("triton", None, None, None)),
        (["trtllm-serve", "serve", "m"], {}, ("tensorrt_llm", "m", None, None)),
        (["text-generation-launcher", "--model-id", "m", "--quantize", "awq"], {}, ("tgi", "m", "awq", None)),
        (["/app/epp", "--pool-name", "p"], {"llm-d.ai/role": ""}, (None, None, None, "router")),
        (["nginx", "-g", "daemon off;"], {}, (None, None, None, None)),
    ],
)
def test_a_command_line_says_what_is_served(
    command: list[str], labels: dict[str, str], wanted: tuple[Any, ...]
) -> None:
    found = serving.of_pod({"labels": labels}, {"containers": [{"name": "c", "command": command}]})
    assert (found.engine, found.model, found.quantisation, found.role) == wanted
    assert "abc" not in (found.engine_arguments or "")


def test_labels_of_kserve_knative_and_mlflow_are_read() -> None:
    labels = {
        "serving.kserve.io/inferenceservice": "chat",
        "serving.knative.dev/revision": "chat-predictor-00003",
        "mlflow.org/model-version": "4",
    }
    args = ["--model_name=chat", "--model_dir=models:/chat-lora/7"]
    spec = {"containers": [{"name": "kserve-container", "image": "kserve/huggingfaceserver:v0.15", "args": args}]}
    found = serving.of_pod({"labels": labels}, spec)
    assert (found.service, found.revision, found.engine) == ("chat", "chat-predictor-00003", "vllm")
    assert (found.model, found.model_version) == ("chat-lora", "4")


def test_a_pod_is_told_again_only_when_it_changes(shared_data: Path) -> None:
    state, found = cluster_state.State(), items(shared_data / "k8s/troubleshoot/message-oomkill-pod.json")
    assert set(rows("/api/v1/pods", found, state)) == {"pod", "container_state"}
    assert rows("/api/v1/pods", found, state, "MODIFIED") == {}
    gone = rows("/api/v1/pods", found, state, "DELETED")
    assert [row["phase"] for row in gone["pod"]] == ["Deleted"]


def test_nodes_tell_their_gpus_and_zone(shared_data: Path) -> None:
    for line in (shared_data / "k8s/nodes/vks-gfd-node-labels.jsonl").read_text().splitlines():
        node = {
            "metadata": {"name": "n", "uid": "1", "labels": {**json.loads(line), "topology.kubernetes.io/zone": "z"}},
            "status": {
                "allocatable": {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "2", "cpu": "8"},
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"bootID": "b", "kernelVersion": "6.8"},
            },
        }
        told = rows("/api/v1/nodes", [node])["cluster_node"][0]
        assert told["gpu_product"] == json.loads(line)["nvidia.com/gpu.product"]
        assert (told["gpus"], told["ready"], told["zone"], told["boot_id"]) == (3, True, "z", "b")


def yaml_items(file: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(file.read_text())["items"]
    assert isinstance(found, list)
    return found


def test_resource_slices_are_gpus_and_a_claim_gives_one_to_its_pod(shared_data: Path) -> None:
    state = cluster_state.State()
    slices = yaml_items(shared_data / "k8s/dra/resourceslices-h100-8gpu-2nodes-k8s1.35.yaml")
    told = rows("/apis/resource.k8s.io/v1/resourceslices", slices, state)["gpu"]
    by_uuid = {row["gpu_uuid"]: row for row in told}
    assert len(by_uuid) == 16 == len(told)
    one = by_uuid["GPU-bc5610b9-79c8-fedd-8899-07539c7f868a"]
    assert (one["node"], one["pci_bus"], one["model"]) == ("gpu-node-1", "0000:64:00.0", "NVIDIA H100 80GB HBM3")
    claim = {
        "metadata": {"uid": "c", "name": "c", "namespace": "llm"},
        "status": {
            "allocation": {
                "devices": {"results": [{"driver": "gpu.nvidia.com", "pool": "gpu-node-1", "device": "gpu-1"}]}
            },
            "reservedFor": [{"resource": "pods", "name": "vllm-0", "uid": "u"}],
        },
    }
    told = rows("/apis/resource.k8s.io/v1/resourceclaims", [claim], state)["gpu"]
    assert [(row["gpu_uuid"], row["pod"], row["pod_uid"]) for row in told] == [(one["gpu_uuid"], "vllm-0", "u")]
    told = rows("/apis/resource.k8s.io/v1/resourceclaims", [claim], state, "DELETED")["gpu"]
    assert [row["pod"] for row in told] == [None]


def in_version(told: dict[str, Any], version: str) -> dict[str, Any]:
    """A slice of v1 as an older API version spells it: v1beta1 had all but a device's name one level deeper."""
    if version != "v1beta1":
        return told
    devices = [
        {"name": each["name"], "basic": {key: value for key, value in each.items() if key != "name"}}
        for each in told["spec"]["devices"]
    ]
    return {**told, "spec": {**told["spec"], "devices": devices}}


@pytest.mark.parametrize(
    "offered", [["v1", "v1beta2", "v1beta1"], ["v1beta1", "v1beta2"], ["v1beta1"], ["v1alpha3"], []]
)
def test_gpu_claims_are_read_in_the_best_version_that_the_server_offers(
    offered: list[str], shared_data: Path, tmp_path: Path
) -> None:
    slices = yaml_items(shared_data / "k8s/dra/resourceslices-h100-8gpu-2nodes-k8s1.35.yaml")
    best = next((each for each in ("v1", "v1beta2", "v1beta1") if each in offered), "none")
    results = [
        {"request": "gpu", "driver": "gpu.nvidia.com", "pool": "gpu-node-1", "device": "gpu-1"},
        {"request": "watch", "driver": "gpu.nvidia.com", "pool": "gpu-node-1", "device": "gpu-2", "adminAccess": True},
    ]
    claim = {
        "metadata": {"uid": "c", "name": "c", "namespace": "llm", "resourceVersion": "9"},
        "status": {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": "vllm-0", "uid": "u"}],
        },
    }
    group = "/apis/resource.k8s.io"
    double = ApiServerDouble([[pod("a", 1)]], [])
    double.kinds |= {
        f"{group}/{best}/resourceslices": Kind([[in_version(each, best) for each in slices]]),
        f"{group}/{best}/resourceclaims": Kind([[claim]]),
    }
    if offered:
        double.groups = {group: [{"version": each, "groupVersion": f"resource.k8s.io/{each}"} for each in offered]}
    seen = Seen()
    with api_server(double) as address:
        where = context(tmp_path, seen, "cluster_state", kubernetes_api=address)
        with running(cluster_state, where, seen):
            until(lambda: bool(seen.rows("pod")))
            if best != "none":
                until(lambda: any(row["pod"] for row in seen.rows("gpu")))
                until(lambda: len({row["gpu_uuid"] for row in seen.rows("gpu")}) >= 16)
    owned = {(row["gpu_uuid"], row["pod"]) for row in seen.rows("gpu") if row["pod"]}
    assert owned == ({("GPU-bc5610b9-79c8-fedd-8899-07539c7f868a", "vllm-0")} if best != "none" else set())
    assert len({row["gpu_uuid"] for row in seen.rows("gpu")}) == (16 if best != "none" else 0)
    assert seen.lost() == {}


def phases(seen: Seen) -> list[tuple[str, str]]:
    return [(row["pod"], row["phase"]) for row in seen.rows("pod")]


def test_a_watch_is_resumed_and_begun_anew_where_the_server_forgot(
    tmp_path: Path,
) -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    bookmark = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "150"}}}
    double = ApiServerDouble(
        [[pod("a", 1), pod("b", 2), pod("c", 3)], [pod("a", 1), pod("c", 160, "Failed"), pod("d", 170)]],
        [
            [{"type": "MODIFIED", "object": pod("a", 110, "Failed")}, b"{broken\n", bookmark],
            [503],
            [{"type": "ADDED", "object": pod("e", 155)}, {"type": "ADDED", "object": pod("e", 155)}, gone],
            [410],
            [],
        ],
    )
    seen = Seen()
    with api_server(double) as address:
        where = context(tmp_path, seen, "cluster_state", kubernetes_api=address)
        assert cluster_state.check(where.settings) is None
        with running(cluster_state, where, seen):
            until(lambda: ("d", "Running") in phases(seen))
            until(lambda: len([each for each in double.asked if each.get("watch")]) >= 5)
    told = phases(seen)
    assert told[:4] == [("a", "Running"), ("b", "Running"), ("c", "Running"), ("a", "Failed")]
    assert told.count(("e", "Running")) == 1
    assert {("b", "Deleted"), ("c", "Failed"), ("d", "Running"), ("e", "Deleted")} <= set(told)
    watches = [each["resourceVersion"] for each in double.asked if each.get("watch")]
    assert watches[:3] == ["100", "150", "150"], "a bookmark moves the place of resumption"
    assert all(each["allowWatchBookmarks"] == "true" for each in double.asked if each.get("watch"))
    assert seen.lost() == {"malformed event": 1, "disconnected": 1, "changes between two lists": 2}


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    told = cluster_state.check(Settings(kubernetes_api="http://127.0.0.1:9"))
    assert told is not None
    assert told.startswith("http://127.0.0.1:9: ")
    assert told.endswith("; set kubernetes_api or KUBECONFIG to a cluster that answers")
    assert "\n" not in told


def test_an_object_of_another_shape_is_a_counted_loss(tmp_path: Path) -> None:
    seen = Seen()
    where = context(tmp_path, seen)
    batches = list(
        cluster_state.State().batches([Change("/api/v1/pods", "ADDED", {"metadata": 3})], time.time_ns(), where)
    )
    assert batches == []
    assert seen.lost() == {"object not understood": 1}
