"""GPUs of Dynamic Resource Allocation: which there are (ResourceSlice), and which pod has which (ResourceClaim)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Object = Mapping[str, Any]
Device = tuple[str, str, str]
"""Driver, pool and name: what a claim names a device by."""

_PCI = "resource.kubernetes.io/pciBusID"
_VENDORS = {"gpu.nvidia.com": "nvidia", "gpu.amd.com": "amd"}


@dataclass
class Devices:
    """Rows of `gpu`; remembers slices and claims, which arrive in any order, and what was told of each GPU."""

    _slices: dict[str, dict[Device, Row]] = field(default_factory=dict)
    _claims: dict[str, dict[Device, list[Row]]] = field(default_factory=dict)
    _told: dict[Device, Row] = field(default_factory=dict)

    def slice(self, uid: str, told: Object) -> None:
        """Take a ResourceSlice."""
        spec = told.get("spec") or {}
        driver, pool = spec.get("driver", ""), (spec.get("pool") or {}).get("name", "")
        rows = {each["name"]: _device(each, driver, spec.get("nodeName")) for each in spec.get("devices") or []}
        found = {(driver, pool, name): row for name, row in rows.items() if row is not None}
        self._slices[uid] = found

    def claim(self, uid: str, told: Object) -> None:
        """Take a ResourceClaim."""
        status = told.get("status") or {}
        pods = [each for each in status.get("reservedFor") or [] if each.get("resource") == "pods"]
        results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or []
        owners = [
            {"pod_uid": each.get("uid"), "pod": each.get("name"), "namespace": told["metadata"].get("namespace")}
            for each in pods
        ]
        found = {
            (each.get("driver", ""), each.get("pool", ""), each.get("device", "")): owners
            for each in results
            if not each.get("adminAccess")  # A monitor's claim beside the owner's.
        }
        self._claims[uid] = found

    def gone(self, uid: str) -> None:
        """Forget a slice or a claim that is deleted."""
        self._slices.pop(uid, None)
        self._claims.pop(uid, None)

    def remember(self, uid: str) -> Any:
        """Return what is to be kept of a slice or claim over a restart, as JSON has it; None for one that is not known."""
        for known in (self._slices, self._claims):
            if uid in known:
                return [[*device, row] for device, row in known[uid].items()]
        return None

    def recall_slice(self, uid: str, kept: Any) -> None:
        """Take up what `remember` returned of a slice."""
        self._slices[uid] = {(driver, pool, name): row for driver, pool, name, row in kept}

    def recall_claim(self, uid: str, kept: Any) -> None:
        """Take up what `remember` returned of a claim."""
        self._claims[uid] = {(driver, pool, name): owners for driver, pool, name, owners in kept}

    def changes(self, now_ns: int) -> Iterator[Row]:
        """Yield the rows of GPUs that are new or have changed, or whose owner has, since the last call."""
        for device, row in self._owned().items():
            if self._told.get(device) != row:
                self._told[device] = row
                yield {**row, "time_ns": now_ns, "observed_by": "cluster_state"}

    def _owned(self) -> dict[Device, Row]:
        """Return what is known of each GPU, with its owner."""
        given: dict[Device, list[Row]] = defaultdict(list)
        for claim in self._claims.values():
            for device, owners in claim.items():
                given[device] += owners
        found = {device: dict(row) for known in self._slices.values() for device, row in known.items()}
        for device, row in found.items():
            owners = given[device]
            if len(owners) == 1:
                row |= {**owners[0], "sharing": "exclusive"}
            elif owners:
                row["sharing"] = "shared"
        return found


def _device(told: Object, driver: str, node: str | None) -> Row | None:
    """Return what a device of a slice says of a GPU; None for channels, network cards and the like."""
    told = told.get("basic") or told  # v1beta1 has everything but the name one level deeper.
    attributes, node = told.get("attributes") or {}, node or told.get("nodeName")
    told_of = {name.removeprefix(f"{driver}/"): _value(value) for name, value in attributes.items()}
    if told_of.get("type") not in ("gpu", "mig", "vgpu") or not told_of.get("uuid") or node is None:
        return None
    whole = str(told_of.get("parentUUID") or told_of["uuid"])
    bus = told_of.get(_PCI) or told_of.get("pciBusID")
    index = told_of.get("index", told_of.get("parentIndex"))
    return {
        "node": node,
        "gpu_uuid": whole,
        "mig_uuid": told_of["uuid"] if whole != told_of["uuid"] else None,
        "profile": told_of.get("profile"),
        "index": index if isinstance(index, int) else None,
        "model": told_of.get("productName"),
        "vendor": _VENDORS.get(driver),
        "pci_bus": str(bus).lower() if bus else None,
        "driver": told_of.get("driverVersion"),
    }


def _value(told: Object) -> Any:
    return next(iter(told.values()), None)
