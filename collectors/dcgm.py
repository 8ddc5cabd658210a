"""GPU readings of NVIDIA's dcgm-exporter and AMD's device-metrics-exporter, and which pod has which GPU.

Scrapes the node's exporters (`dcgm_urls`) every `dcgm_interval_s`, and asks the kubelet's PodResources socket. Needs any
version of either, and no privilege beyond reading the socket. The exporter itself collects only every 30 s by default, so a
reading may be that old. Costs about 2 ms of CPU per scrape of 8 GPUs. With `collector_gpu_metrics_endpoint`, readings also
leave as OTLP metrics.

- Values are in base units (MiB → By, mJ → J, MHz → Hz, % → 1). DCGM's blank values are dropped and counted.
- A GPU is keyed by UUID and, under MIG, GPU instance. What is of the whole device is told again for each instance:
  `device_wide`, never to be summed, and of no pod.
- Where several pods share a GPU (time slicing, MPS), no reading is given to any of them.
- `warpline.gpu.xid.last` is the last Xid code and stays: only a change of it is news.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from collectors.wire import nvml, podresources, prometheus
from collectors.wire.gpu_fields import Meaning, meaning
from collectors.wire.podresources import Allocated, Device, Grant
from collectors.wire.prometheus import Page, Target
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context

GPU = schema.table("gpu")
GPU_SAMPLE = schema.table("gpu_sample")
TABLES = (GPU, GPU_SAMPLE)
SCOPE = "node"

_REMEDY = "run dcgm-exporter or AMD's device-metrics-exporter on this node, or set dcgm_urls"
_NVIDIA, _WHOLE = "gpu.nvidia.com", re.compile(r"gpu-(\d+)")
_EXPORTERS_OWN = ("go_", "process_", "promhttp_")
# dcgm_structs.h: DCGM_INT64_BLANK to +3, DCGM_FP64_BLANK to +3 (2^47: a counter may well pass it, hence the window),
# DCGM_INT32_BLANK to +3.
_BLANK_INT64 = float(0x7FFFFFFFFFFFFFF0)
_BLANK_WINDOWS = ((float(1 << 47), float((1 << 47) + 3)), (float(0x7FFFFFF0), float(0x7FFFFFF3)))


def check(settings: Settings) -> str | None:
    """Return why neither an exporter nor the kubelet can be asked, or None."""
    if Path(settings.kubelet_pod_resources_socket).is_socket():
        return None
    return prometheus.absent(settings.dcgm_urls, "dcgm_urls", _REMEDY)


def run(context: Context) -> Iterator[Batch]:
    """Yield `gpu` rows when they change and `gpu_sample` rows at each scrape."""
    targets = [Target(url, context) for url in prometheus.addresses(context.settings.dcgm_urls)]
    node = Node(context.node)
    grants: list[Grant] = []
    while True:
        grants = _grants(context, grants)
        pages = [page for page in (target.scrape() for target in targets) if page is not None]
        if not pages:
            yield from node.devices(context.clock.now_ns(), (), grants)
        for time_ns, page in pages:
            yield from node.devices(time_ns, page.series, grants)
            batch, lost = node.samples(time_ns, page)
            for reason, count in lost.items():
                context.lost(reason, count, time_ns, time_ns)
            yield batch
        if context.wait(context.settings.dcgm_interval_s):
            return


def _grants(context: Context, before: list[Grant]) -> list[Grant]:
    """Return what the kubelet has given to whom: nothing where it has no socket, as `before` where it does not answer."""
    socket = context.settings.kubelet_pod_resources_socket
    if not Path(socket).is_socket():
        return []
    try:
        answer = podresources.list_pods(socket)
    except SourceError:
        context.lost("kubelet did not answer", 1, lower_bound=True)
        return before
    unknown: list[str] = []
    uids = podresources.checkpoint_uids(Path(context.settings.kubelet_checkpoint))
    found = list(podresources.grants(answer, uids, unknown))
    context.lost("unknown device id", len(unknown))
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """A GPU or MIG instance, as the labels of a series describe it."""

    gpu_uuid: str
    gpu_instance: int | None
    profile: str | None
    mig_uuid: str | None
    index: int | None
    model: str | None
    vendor: str
    pci_bus: str | None
    driver: str | None
    allocated: Allocated | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        """What tells it from all others: never its number, which changes with a reboot."""
        return self.gpu_uuid, self.gpu_instance


@dataclass(frozen=True, slots=True)
class Owner:
    """A container that has it."""

    pod_uid: str | None
    pod: str
    namespace: str | None
    container: str | None


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an exporter: what it measures, of what, used by whom. `sliced` where virtual GPUs are told apart."""

    name: str
    meaning: Meaning
    part: str | None
    place: Place
    owner: Owner | None
    sliced: bool


@lru_cache(maxsize=1 << 16)
def series(text: str) -> Series | None:
    """Return what a series says, or None where it is of no GPU (a switch, a CPU, a network card)."""
    found = prometheus.labels(text)
    if found is None:
        return None
    name, labels = found
    place = _place(labels, vendor := meaning(name)[0])
    if place is None:
        return None
    told = meaning(name)[1]
    part = told.part
    for label in ("clock_type", "link_index", "nvlink"):
        if labels.get(label):
            part = labels[label] if part is None else f"{part}.{labels[label]}"
    return Series(name, told, part, place, _owner(labels), vendor == "nvidia" and "vgpu" in labels)


def _place(labels: Mapping[str, str], vendor: str) -> Place | None:
    uuid = labels.get("UUID") or labels.get("uuid") or labels.get("gpu_uuid")
    index = labels.get("gpu") or labels.get("gpu_id") or ""
    if not uuid and vendor == "amd" and labels.get("serial_number") and index:
        # AMD's exporter gave no UUID before 1.3; serial number and number on the node name the device then.
        uuid = f"amd-{labels['serial_number']}-{index}"
    if not uuid:
        return None
    instance = labels.get("GPU_I_ID") or labels.get("gpu_i_id") or ""
    return Place(
        uuid,
        int(instance) if instance.isdigit() else None,
        labels.get("GPU_I_PROFILE") or None,
        labels.get("dra_mig_device_uuid") or None,
        int(index) if index.isdigit() else None,
        labels.get("modelName") or labels.get("model_name") or labels.get("card_model"),
        vendor,
        pci_bus(labels.get("pci_bus_id")),
        labels.get("DCGM_FI_DRIVER_VERSION") or labels.get("driver_version"),
        _allocated(labels),
    )


def _allocated(labels: Mapping[str, str]) -> Allocated | None:
    """Return as what Dynamic Resource Allocation knows the device, where the exporter says so."""
    driver, pool, name = (labels.get(f"dra_{each}_name", "") for each in ("driver", "pool", "device"))
    return (driver, pool, name) if name else None


def _owner(labels: Mapping[str, str]) -> Owner | None:
    # Behind a Prometheus without honorLabels, `pod` is the exporter's own and the workload is in `exported_*`.
    prefix = "exported_" if "exported_pod" in labels else ""
    pod = labels.get(f"{prefix}pod") or labels.get("pod_name")
    if not pod:
        return None
    namespace = labels.get(f"{prefix}namespace") or labels.get("pod_namespace")
    container = labels.get(f"{prefix}container") or labels.get("container_name")
    return Owner(labels.get("pod_uid") or None, pod, namespace or None, container or None)


def pci_bus(told: str | None) -> str | None:
    """Return a PCI bus id with a domain of four digits in lower case, as Kubernetes writes it (DCGM's has eight)."""
    if not told or ":" not in told:
        return None
    domain, _, rest = told.lower().partition(":")
    return f"{domain[-4:]:0>4}:{rest}"


@dataclass
class Node:
    """Turns scrapes of one node into batches; remembers what the next scrape is compared with."""

    name: str
    shared: set[tuple[str, int | None]] = field(default_factory=set)
    """GPUs and instances that more than one container has."""
    _places: dict[tuple[str, int | None], Place] = field(default_factory=dict)
    _owners: dict[tuple[str, int | None], set[Owner]] = field(default_factory=dict)
    _told: dict[tuple[str, int | None], dict[str, object]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _falls: set[str] = field(default_factory=set)

    def samples(self, time_ns: int, page: Page) -> tuple[Batch, dict[str, int]]:
        """Return the page's readings in base units, and how many of its lines gave none, by reason."""
        told = [(series(text), text, value) for text, value in zip(page.series, page.values, strict=True)]
        own = sum(each is None and text.startswith(_EXPORTERS_OWN) for each, text, _ in told)
        kept = [(each, text, value) for each, text, value in told if each is not None]
        values = np.array([value for _, _, value in kept], np.float64)
        without_sensor = np.array([each.part == "memory" and value == 0 for each, _, value in kept], bool)
        without_sensor &= np.array([each.meaning.metric == "hw.temperature" for each, _, _ in kept], bool)
        blank = _blank(values)
        good = ~(blank | without_sensor)
        lost = {
            "of no gpu": len(told) - len(kept) - own,
            "blank value": int(blank.sum()),
            "sensor absent": int((without_sensor & ~blank).sum()),
        }
        rows = [each for each, keep in zip(kept, good, strict=True) if keep]
        if len(self._last) > len(page.series):  # One whose labels change with each scrape must not fill the memory.
            self._last = {text: self._last[text] for text in page.series if text in self._last}
            self._falls.intersection_update(self._last)
        return Batch(GPU_SAMPLE, GPU_SAMPLE.batch(self._columns(time_ns, rows), len(rows))), lost

    def _columns(self, time_ns: int, rows: Sequence[tuple[Series, str, float]]) -> dict[str, object]:
        told = [each for each, _, _ in rows]
        shared = [each.sliced or each.place.key in self.shared for each in told]
        wide = [
            each_shared or (each.place.gpu_instance is not None and not each.meaning.per_instance)
            for each, each_shared in zip(told, shared, strict=True)
        ]
        owners = [None if is_wide else each.owner for each, is_wide in zip(told, wide, strict=True)]
        return {
            "time_ns": time_ns,
            "node": self.name,
            "gpu_uuid": [each.place.gpu_uuid for each in told],
            "gpu_instance": [each.place.gpu_instance for each in told],
            "index": [each.place.index for each in told],
            "metric": [each.meaning.metric for each in told],
            "part": [each.part for each in told],
            "value": np.array([value for _, _, value in rows]) * np.array([each.meaning.factor for each in told]),
            "device_wide": wide,
            "monotonic": [self._monotonic(each, text, value) for each, text, value in rows],
            "pod_uid": [owner and owner.pod_uid for owner in owners],
            "pod": [owner and owner.pod for owner in owners],
            "namespace": [owner and owner.namespace for owner in owners],
            "container": [owner and owner.container for owner in owners],
            "field": [each.name for each in told],
            "simulated": [prometheus.simulated(each.place.model) for each in told],
        }

    def _monotonic(self, each: Series, text: str, value: float) -> bool | None:
        """Return what the meaning says; where exporters disagree, False once it fell, True while it only rose."""
        if each.meaning.monotonic is not None:
            return each.meaning.monotonic
        before = self._last.get(text)
        self._last[text] = value
        if before is not None and value < before:
            self._falls.add(text)
        return False if text in self._falls else (None if before is None or value == before else True)

    def devices(self, time_ns: int, texts: Sequence[str], grants: Sequence[Grant]) -> Iterator[Batch]:
        """Yield one `gpu` row for each GPU or instance that is new or has changed, and note which are shared."""
        found = [each for each in map(series, texts) if each is not None]
        places, owners = self._places, self._owners
        places.update({each.place.key: each.place for each in found})
        owners.update({each.place.key: set() for each in found})
        for each in found:
            if each.owner is not None:
                owners[each.place.key].add(each.owner)
        given = _given(grants, places)
        owners = owners | given.owners
        several = {key for key, all_of_it in owners.items() if _pods(all_of_it) > 1}
        self.shared = several | given.sliced | {each.place.key for each in found if each.sliced}
        rows = [
            self._row(key, places.get(key), owners.get(key), given.mig.get(key))
            for key in places.keys() | owners.keys()
        ]
        new = [row for row in rows if self._told.get(_key(row)) != row]
        self._told.update({_key(row): row for row in new})
        if new:
            columns = {name: [row.get(name) for row in new] for name in GPU.by_name if name not in ("time_ns", "node")}
            yield Batch(GPU, GPU.batch({**columns, "time_ns": time_ns, "node": self.name}, len(new)))

    def _row(
        self, key: tuple[str, int | None], place: Place | None, owners: set[Owner] | None, mig: Device | None
    ) -> dict[str, object]:
        row: dict[str, object] = {"gpu_uuid": key[0], "gpu_instance": key[1], "observed_by": "dcgm"}
        if place is not None:
            row |= {name: getattr(place, name) for name in Place.__slots__}
            row["simulated"] = prometheus.simulated(place.model)
        if mig is not None:
            row |= {"mig_uuid": mig.mig_uuid, "compute_instance": mig.compute_instance, "vendor": "nvidia"}
        if key in self.shared:
            row["sharing"] = "shared"
        elif owners:
            owner = min(owners, key=lambda each: (each.pod, each.container or ""))
            row |= {name: getattr(owner, name) for name in Owner.__slots__} | {"sharing": "exclusive"}
        return row


def _key(row: Mapping[str, object]) -> tuple[str, int | None]:
    return row["gpu_uuid"], row["gpu_instance"]  # type: ignore[return-value]


def _pods(owners: set[Owner]) -> int:
    return len({(each.namespace, each.pod) for each in owners})


@dataclass
class Given:
    """What the kubelet says: who has which GPU or instance, which of them others may have too, which MIG device it is."""

    owners: dict[tuple[str, int | None], set[Owner]] = field(default_factory=lambda: defaultdict(set))
    sliced: set[tuple[str, int | None]] = field(default_factory=set)
    mig: dict[tuple[str, int | None], Device] = field(default_factory=dict)


def _given(grants: Sequence[Grant], places: Mapping[tuple[str, int | None], Place]) -> Given:
    """Return the kubelet's grants by GPU and instance, as the exporter's labels and NVML tell them apart."""
    uuids = {place.index: place.gpu_uuid for place in places.values()}
    instances = {place.mig_uuid: place.key for place in places.values() if place.mig_uuid}
    allocated = {place.allocated: place.key for place in places.values() if place.allocated}
    given = Given()
    for grant in grants:
        device = _with_place(grant.device)
        uuid = device.gpu_uuid or device.mig_uuid or uuids.get(device.index) or _itself(device)
        key = instances.get(device.mig_uuid or "", (uuid, device.gpu_instance))
        key = allocated.get(device.allocated, key) if device.allocated else key
        given.owners[key].add(Owner(grant.pod_uid, grant.pod, grant.namespace, grant.container))
        if device.sliced:
            given.sliced.add(key)
        if device.mig_uuid:
            given.mig[key] = device
    return given


def _itself(device: Device) -> str:
    """Return the name of a device whose GPU nobody here knows."""
    return "/".join(device.allocated[1:]) if device.allocated else f"nvidia{device.index}"


def _with_place(device: Device) -> Device:
    """Return a device with its GPU and GPU instance where the id names neither, as far as NVML knows."""
    if device.allocated:
        # NVIDIA's driver names whole GPUs gpu-<minor>; what it calls MIG devices says no more than the exporter does.
        minor = _WHOLE.fullmatch(device.allocated[2]) if device.allocated[0] == _NVIDIA else None
        return replace(device, gpu_uuid=nvml.gpu_of_minor(int(minor[1]))) if minor else device
    found = nvml.mig_place(device.mig_uuid) if device.mig_uuid else None
    if found is None:
        return device
    return replace(device, gpu_uuid=found[0], gpu_instance=found[1], compute_instance=found[2])


def _blank(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Say which values stand for "no value": DCGM's blanks, and what is no number at all."""
    blank = ~np.isfinite(values) | (values >= _BLANK_INT64)
    for low, high in _BLANK_WINDOWS:
        blank |= (values >= low) & (values <= high)
    return blank
