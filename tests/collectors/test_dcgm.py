"""GPU exporters and the kubelet's PodResources: every real page goes through, units and identities as read by hand."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectors import dcgm
from collectors.wire import nvml, podresources, prometheus
from collectors.wire.gpu_fields import DCGM
from collectors.wire.podresources_pb2 import ListPodResourcesResponse
from demo.engine import gpu_page
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running, text_server_double
from tests.waiting import until
from warpline.settings import Settings

H100 = "GPU-c4529c8d-69c4-b61d-e0bc-7b2460096005"
A800 = "GPU-1f027ee8-6e1e-2b8c-0108-3d370e5f0418"


Rows = list[dict[str, Any]]


def read(text: str, node: dcgm.Node | None = None, grants: Any = ()) -> tuple[Rows, dict[str, int], Rows]:
    """Samples, losses and gpu rows of a page."""
    node = node or dcgm.Node("node-a")
    page = prometheus.parse(text)
    devices = [row for batch in node.devices(1, page.series, grants) for row in batch.rows.to_pylist()]
    batch, lost = node.samples(1, page)
    return batch.rows.to_pylist(), lost | {"malformed line": page.malformed}, devices


def one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("folder", ["dcgm/metrics", "amd/metrics"])
def test_every_real_line_becomes_a_row_or_a_counted_loss(shared_data: Path, folder: str) -> None:
    for file in sorted((shared_data / folder).glob("*.prom")):
        text = file.read_text()
        lines = sum(bool(line.strip()) and not line.startswith("#") for line in text.splitlines())
        rows, lost, _ = read(text)
        assert lines == len(rows) + sum(lost.values()), file.name
        if "nic" not in file.name:
            assert len(rows) >= lines - 2, (file.name, lost)


def test_units_are_base_units(shared_data: Path) -> None:
    rows, lost, _ = read((shared_data / "dcgm/metrics/t4-datadog-460-470.prom").read_text())
    value = {(row["metric"], row["part"]): row["value"] for row in rows}
    text = (shared_data / "dcgm/metrics/t4-datadog-460-470.prom").read_text()
    raw = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[:1] not in ("#", "")}
    assert value["hw.gpu.memory.usage", None] == raw["DCGM_FI_DEV_FB_USED"] * 1048576
    assert value["hw.gpu.memory.limit", None] == raw["DCGM_FI_DEV_FB_TOTAL"] * 1048576
    assert value["hw.gpu.memory.utilization", None] == raw["DCGM_FI_DEV_FB_USED_PERCENT"] <= 1
    assert value["hw.energy", None] == pytest.approx(raw["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"] / 1000)
    assert value["warpline.gpu.clock", "sm"] == raw["DCGM_FI_DEV_SM_CLOCK"] * 1e6
    assert value["hw.gpu.utilization", "general"] == pytest.approx(raw["DCGM_FI_DEV_GPU_UTIL"] / 100)
    assert value["warpline.gpu.xid.last", None] == raw["DCGM_FI_DEV_XID_ERRORS"]
    assert one(rows, metric="warpline.gpu.dcgm.fi_dev_count")["value"] == raw["DCGM_FI_DEV_COUNT"]
    assert lost == {"of no gpu": 0, "blank value": 0, "sensor absent": 0, "malformed line": 0}


def test_energy_of_the_2020_page_is_joules_as_read_by_hand(shared_data: Path) -> None:
    rows, _, devices = read((shared_data / "dcgm/metrics/issue138-v100-2020-no-hostname-empty-pod.prom").read_text())
    assert one(rows, metric="hw.energy")["value"] == pytest.approx(4335301.032)
    assert one(rows, metric="hw.energy")["monotonic"] is True
    assert one(rows, metric="hw.gpu.utilization")["value"] == pytest.approx(0.44)
    assert one(rows, metric="warpline.gpu.clock", part="memory")["value"] == 877e6
    assert {row["pod"] for row in rows} == {None}, "an empty label is no pod"
    assert one(devices, gpu_uuid="GPU-6bf47ca9-ad3e-15db-beed-1079a7d74116")["sharing"] is None


def test_pod_labels_give_the_pod_of_that_gpu_alone(shared_data: Path) -> None:
    rows, _, devices = read((shared_data / "dcgm/metrics/h100-8gpu-dynamo-vllm-pods-580.prom").read_text())
    power = one(rows, metric="hw.power", gpu_uuid=H100)
    assert power["value"] == 113.611
    assert power["field"] == "DCGM_FI_DEV_POWER_USAGE"
    assert (power["pod"], power["namespace"]) == ("vllm-agg-0-vllmdecodeworker-s65j5", "dynamo-workload")
    assert (power["container"], power["pod_uid"]) == ("main", None)
    assert {row["gpu_uuid"] for row in rows if row["pod"]} == {H100}
    gpu = one(devices, gpu_uuid=H100)
    assert (gpu["pci_bus"], gpu["driver"], gpu["index"]) == ("0000:53:00.0", "580.105.08", 0)
    assert (gpu["model"], gpu["sharing"], gpu["pod"]) == ("NVIDIA H100 80GB HBM3", "exclusive", power["pod"])
    assert len(devices) == 8


def test_a_newer_spelling_of_the_same_page_says_the_same(shared_data: Path) -> None:
    text = (shared_data / "dcgm/metrics/h100-8gpu-dynamo-vllm-pods-580.prom").read_text()
    newer = text.replace("Hostname=", "hostname=").replace("DCGM_FI_DEV_GPU_TEMP{", "DCGM_FI_DEV_GPU_TEMP_CELSIUS{")
    newer = newer.replace("DEV_POWER_USAGE{", "DEV_BOARD_POWER_WATTS{").replace("GPU_UTIL{", "GPU_UTIL_RATIO{")
    newer = newer.replace(
        ',container="main",namespace=', ',pod="exporter-x",exported_container="main",exported_namespace='
    )
    newer = newer.replace('",pod="vllm', '",exported_pod="vllm')
    drop = [{k: v for k, v in row.items() if k != "field"} for row in read(text)[0]]
    assert [{k: v for k, v in row.items() if k != "field"} for row in read(newer)[0]] == drop


def test_a_field_means_the_same_under_all_names_of_its_id(shared_data: Path) -> None:
    for line in (shared_data / "dcgm/fields/dcgm_fields.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        number, name, aliases = line.split("\t")[:3]
        names = {each.removeprefix("DCGM_FI_") for each in [name, *aliases.replace(",", " ").split()]}
        meanings = {DCGM.get(each) for each in names}
        assert len(meanings) == 1, (number, names)


def test_an_instance_is_a_row_of_its_own_and_the_whole_device_is_never_summed(shared_data: Path) -> None:
    rows, _, devices = read((shared_data / "dcgm/metrics/a800-8gpu-mig-2g.20gb-535.prom").read_text())
    clocks = [row for row in rows if row["gpu_uuid"] == A800 and row["part"] == "sm"]
    assert [(row["gpu_instance"], row["value"], row["device_wide"]) for row in clocks] == [
        (3, 1410e6, True),
        (5, 1410e6, True),
        (6, 1410e6, True),
    ]
    busy = [row for row in rows if row["gpu_uuid"] == A800 and row["part"] == "graphics"]
    assert [(row["gpu_instance"], row["device_wide"]) for row in busy] == [(3, False), (5, False), (6, False)]
    assert not any(row["device_wide"] for row in rows if row["gpu_uuid"] != A800)
    mine = sorted((each for each in devices if each["gpu_uuid"] == A800), key=lambda each: each["gpu_instance"])
    assert [(each["gpu_instance"], each["profile"]) for each in mine] == [
        (3, "2g.20gb"),
        (5, "2g.20gb"),
        (6, "2g.20gb"),
    ]
    assert len(devices) == 10


def test_the_1x_names_are_understood(shared_data: Path) -> None:
    rows, _, _ = read((shared_data / "dcgm/metrics/issue272-a100-mig-1x-compat-lowercase.prom").read_text())
    assert [(row["gpu_instance"], row["metric"], row["part"]) for row in rows] == [
        (1, "warpline.gpu.pipe.active", "graphics"),
        (2, "warpline.gpu.pipe.active", "graphics"),
        (1, "warpline.gpu.pipe.active", "graphics"),
    ]
    assert rows[2]["gpu_uuid"] == "GPU-6043e4b2-feaa-8010-34c7-61d1a01576bb"


def test_a_memory_sensor_that_does_not_exist_has_no_temperature(shared_data: Path) -> None:
    rows, lost, _ = read((shared_data / "dcgm/metrics/vgpu-a100-10c-vks-580.prom").read_text())
    assert lost["sensor absent"] == 1
    assert not [row for row in rows if row["metric"] == "hw.temperature"]


def test_amd_says_the_same_things_in_other_words(shared_data: Path) -> None:
    rows, lost, _ = read((shared_data / "amd/metrics/amd-metricslist-samples.prom").read_text())
    assert one(rows, part="memory", gpu_uuid="amd-xxxx-0")["value"] == 900e6
    assert one(rows, part="receive.1")["value"] == 2.776148269e9 * 1024
    assert lost["of no gpu"] == 2, "a process's occupancy names no gpu"


@pytest.mark.parametrize(
    "blank", ["9223372036854775792", "9223372036854775794", "140737488355330", "2147483632", "NaN"]
)
def test_blank_values_are_dropped_and_counted(blank: str) -> None:
    rows, lost, _ = read(
        f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-1"}} {blank}\nDCGM_FI_DEV_GPU_TEMP{{UUID="GPU-1"}} 31\n'
    )
    assert [row["value"] for row in rows] == [31]
    assert lost["blank value"] == 1


def test_a_long_throttle_is_no_blank() -> None:
    rows, _, _ = read('DCGM_FI_DEV_POWER_VIOLATION{UUID="GPU-1"} 150000000000000\n')
    assert rows[0]["value"] == pytest.approx(150_000)


def test_a_gpu_of_several_pods_belongs_to_none() -> None:
    page = "".join(
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="GPU-1",namespace="n",pod="{pod}",vgpu="{slice_}"}} 50\n'
        for slice_, pod in enumerate(["a", "b"])
    )
    rows, _, devices = read(page)
    assert [(row["pod"], row["device_wide"]) for row in rows] == [(None, True), (None, True)]
    assert [(each["pod"], each["sharing"]) for each in devices] == [(None, "shared")]


def test_the_kubelets_word_on_sharing_clears_the_exporters_pod() -> None:
    page = 'DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-00000000-0000-0000-0000-000000000001",namespace="n",pod="a"} 50\n'
    device = podresources.device("GPU-00000000-0000-0000-0000-000000000001::2")
    assert device is not None
    rows, _, devices = read(page, grants=[podresources.Grant(device, "a", "n", "c")])
    assert rows[0]["pod"] is None
    assert devices[0]["sharing"] == "shared"


def test_what_the_cuda_double_says_is_called_simulated_and_nothing_else_is(shared_data: Path) -> None:
    state = {"busy_ns": 5, "clock_ratio": 1.0, "kv_used_ratio": 0.5, "xid": 0, "memory_errors": 0}
    state |= {"received_bytes": 7, "sent_bytes": 5}
    rows, _, devices = read(gpu_page.GpuPage().render(state))
    assert {row["simulated"] for row in rows + devices} == {True}
    rows, _, devices = read((shared_data / "dcgm/metrics/h100-8gpu-dynamo-vllm-pods-580.prom").read_text())
    assert {row["simulated"] for row in rows + devices} == {None}


def test_what_only_some_exporters_count_is_decided_by_what_is_seen() -> None:
    node, series = dcgm.Node("node-a"), 'DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL{UUID="GPU-1"}'
    seen = [read(f"{series} {value}\n", node)[0][0]["monotonic"] for value in (5, 7, 6, 9)]
    assert seen == [None, True, False, False]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("GPU-9b341c59-f96b-ba85-c137-78c3652fea65", ("GPU-9b341c59-f96b-ba85-c137-78c3652fea65", None, None, False)),
        ("GPU-9b341c59-f96b-ba85-c137-78c3652fea65::3", ("GPU-9b341c59-f96b-ba85-c137-78c3652fea65", None, None, True)),
        ("MIG-82661492-f4b7-5d7a-b9d4-1e0fd9c0700d", (None, None, None, False)),
        (
            "MIG-GPU-9b341c59-f96b-ba85-c137-78c3652fea65/7/0",
            ("GPU-9b341c59-f96b-ba85-c137-78c3652fea65", 7, None, False),
        ),
        ("nvidia0/gi3", (None, 3, 0, False)),
        ("nvidia2/gi3/vgu0", (None, 3, 2, True)),
        ("nvidia1/vgu4", (None, None, 1, True)),
    ],
)
def test_device_ids_of_every_plugin_are_understood(text: str, wanted: tuple[Any, ...]) -> None:
    found = podresources.device(text)
    assert found is not None
    assert (found.gpu_uuid, found.gpu_instance, found.index, found.sliced) == wanted


NVML_DOUBLE = r"""
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    if (strcmp(uuid, "MIG-82661492-f4b7-5d7a-b9d4-1e0fd9c0700d")) return 6;
    *device = (void *)0x700000000001; return 0;
}
int nvmlDeviceGetGpuInstanceId(void *device, unsigned *id) { *id = 5; return device == (void *)0x700000000001 ? 0 : 2; }
int nvmlDeviceGetComputeInstanceId(void *device, unsigned *id) { *id = 0; return 0; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *device, void **parent) { *parent = (void *)0x700000000002; return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    strncpy(uuid, "GPU-1f027ee8-6e1e-2b8c-0108-3d370e5f0418", length);
    return device == (void *)0x700000000002 ? 0 : 2;
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(0x700000000002 + index); return 0; }
int nvmlDeviceGetMinorNumber(void *device, unsigned *minor) { *minor = device == (void *)0x700000000002 ? 6 : 7; return 0; }
"""


@pytest.fixture
def nvml_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library with NVML's names that knows one MIG device; handles are as wide as pointers are."""
    (tmp_path / "nvml.c").write_text(NVML_DOUBLE)
    library = tmp_path / "libnvml_double.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    monkeypatch.setattr(nvml, "_LIBRARY", str(library))
    nvml._library.cache_clear()
    yield
    nvml._library.cache_clear()


@pytest.mark.usefixtures("nvml_double")
def test_a_mig_device_of_the_kubelet_is_the_exporters_instance(shared_data: Path) -> None:
    device = podresources.device("MIG-82661492-f4b7-5d7a-b9d4-1e0fd9c0700d")
    assert device is not None
    page = (shared_data / "dcgm/metrics/a800-8gpu-mig-2g.20gb-535.prom").read_text()
    _, _, devices = read(page, grants=[podresources.Grant(device, "vllm-0", "llm", "engine")])
    mine = one(devices, gpu_uuid=A800, gpu_instance=5)
    assert (mine["mig_uuid"], mine["compute_instance"]) == (device.mig_uuid, 0)
    assert (mine["pod"], mine["profile"], mine["sharing"]) == ("vllm-0", "2g.20gb", "exclusive")
    assert len(devices) == 10, "no row of its own beside the exporter's"
    assert nvml.mig_place("MIG-00000000-0000-0000-0000-000000000000") is None


def claimed(*names: str) -> ListPodResourcesResponse:
    """What the kubelet says of containers that were given devices by claims, the last one with a share of its device."""
    answer = ListPodResourcesResponse()
    for number, name in enumerate(names):
        container = answer.pod_resources.add(name=f"vllm-{number}", namespace="llm").containers.add(name="engine")
        claim = container.dynamic_resources.add(claim_name="gpu", claim_namespace="llm")
        claim.claim_resources.add(driver_name="gpu.nvidia.com", pool_name="node-a", device_name=name)
        claim.claim_resources.add(driver_name="compute-domain.nvidia.com", pool_name="node-a", device_name="channel-0")
    claim.claim_resources[0].share_id = "a671734a-e8e5-11e4-8fde-42010af09327"
    return answer


@pytest.mark.usefixtures("nvml_double")
def test_devices_of_claims_are_gpus_by_the_exporters_labels_or_the_driver(shared_data: Path) -> None:
    page = (shared_data / "dcgm/metrics/a800-8gpu-mig-2g.20gb-535.prom").read_text()
    dra = 'dra_driver_name="gpu.nvidia.com",dra_pool_name="node-a",dra_device_name="gpu-0-mig-14-0-2"'
    page = page.replace('GPU_I_ID="5"', f'GPU_I_ID="5",{dra},dra_mig_device_uuid="MIG-1"')
    unknown: list[str] = []
    given = list(podresources.grants(claimed("gpu-0-mig-14-0-2", "gpu-6", "gpu-0-mig-9-4-4"), {}, unknown))
    assert (len(given), unknown) == (3, []), "a channel is no GPU"
    _, _, devices = read(page, grants=given)
    mine = one(devices, gpu_uuid=A800, gpu_instance=5)
    assert (mine["pod"], mine["mig_uuid"], mine["sharing"]) == ("vllm-0", "MIG-1", "exclusive")
    assert one(devices, gpu_uuid=A800, gpu_instance=None)["pod"] == "vllm-1", "the driver knows /dev/nvidia6"
    assert (one(devices, gpu_uuid="node-a/gpu-0-mig-9-4-4")["sharing"]) == "shared"
    assert nvml.gpu_of_minor(3) is None


def test_without_a_driver_a_mig_device_stands_for_itself() -> None:
    device = podresources.device("MIG-82661492-f4b7-5d7a-b9d4-1e0fd9c0700d")
    assert device is not None
    _, _, devices = read("", grants=[podresources.Grant(device, "vllm-0", "llm", "engine")])
    assert len(devices) == 1
    assert (devices[0]["gpu_uuid"], devices[0]["mig_uuid"], devices[0]["pod"]) == (
        device.mig_uuid,
        device.mig_uuid,
        "vllm-0",
    )


def test_the_checkpoint_has_the_uids_that_the_api_lacks(shared_data: Path) -> None:
    uids = podresources.checkpoint_uids(shared_data / "k8s/kubelet/kubelet_internal_checkpoint-2gpu.json")
    assert uids == {
        "GPU-9b341c59-f96b-ba85-c137-78c3652fea65": "9a15d2b5-c152-46b9-96e0-d57032629e1f",
        "GPU-c1e9f249-b37b-81c2-a8d9-ba5ca0294841": "9a15d2b5-c152-46b9-96e0-d57032629e1f",
    }
    assert podresources.checkpoint_uids(shared_data / "absent") == {}


def kubelet_answer(device_id: str) -> bytes:
    answer = ListPodResourcesResponse()
    container = answer.pod_resources.add(name="vllm-0", namespace="llm").containers.add(name="engine")
    container.devices.add(resource_name="nvidia.com/gpu", device_ids=[device_id, "not-a-gpu"])
    container.devices.add(resource_name="rdma/hca", device_ids=["mlx5_0"])
    return answer.SerializeToString()


def test_exporter_and_kubelet_are_read_together_and_an_exporter_that_fails_heals(
    tmp_path: Path, shared_data: Path
) -> None:
    page = (shared_data / "dcgm/metrics/h100-8gpu-dynamo-vllm-pods-580.prom").read_text()
    answers = [(200, page), (503, "busy"), (200, "\x00garbage{\n" + page), (200, page)]
    second = "GPU-bc5610b9-79c8-fedd-8899-07539c7f868a"
    socket = f"unix://{tmp_path}/kubelet.sock"
    seen = Seen()
    with (
        text_server_double(lambda path: answers.pop(0) if len(answers) > 1 else answers[0]) as address,
        grpc_double({"/v1.PodResourcesLister/List": lambda request, _: kubelet_answer(second)}, socket),
    ):
        where = context(
            tmp_path,
            seen,
            dcgm_urls=address,
            dcgm_interval_s=0.05,
            kubelet_pod_resources_socket=f"{tmp_path}/kubelet.sock",
        )
        assert dcgm.check(where.settings) is None
        with running(dcgm, where, seen):
            until(lambda: len(seen.rows("gpu_sample")) >= 90)
    assert seen.lost()["scrape failed"] == 1
    assert seen.lost()["malformed line"] == 1
    assert seen.lost()["unknown device id"] >= 3
    gpus = {row["gpu_uuid"]: row for row in seen.rows("gpu")}
    assert len(gpus) == len(seen.rows("gpu")) == 8, "a gpu is told again only when it changes"
    assert (gpus[second]["pod"], gpus[second]["container"], gpus[second]["sharing"]) == (
        "vllm-0",
        "engine",
        "exclusive",
    )


def test_a_node_without_exporter_and_kubelet_says_so_in_a_line(tmp_path: Path) -> None:
    settings = Settings(dcgm_urls="127.0.0.1:9", kubelet_pod_resources_socket=str(tmp_path / "none"))
    assert dcgm.check(settings) == (
        "http://127.0.0.1:9/metrics: nothing listens there; "
        "run dcgm-exporter or AMD's device-metrics-exporter on this node, or set dcgm_urls"
    )
