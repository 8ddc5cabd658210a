"""Which container was given which GPU: the kubelet's PodResources API, and its checkpoint for the pods' UIDs.

The API has no pod UID; the checkpoint of the device manager has one for each device id. Device ids are of many forms:
`GPU-<uuid>`, `MIG-<uuid>`, `MIG-GPU-<uuid>/<gi>/<ci>` (drivers before 470), `nvidia0/gi3` (GKE), any of them with `::N`
(replicas of time slicing or MPS) or `/vguN` (GKE's sharing) behind. With Dynamic Resource Allocation (Kubernetes 1.27) there
is no id but a driver, a pool and a device's name, which ResourceSlices give a UUID. The API does not say which of such
grants is a monitor's (admin access): it looks like sharing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from collectors.wire.channel import open_channel
from collectors.wire.podresources_pb2 import ListPodResourcesRequest, ListPodResourcesResponse
from warpline.errors import SourceError

_DRA_DRIVERS = ("gpu.nvidia.com", "gpu.amd.com")
_LIST = "/v1.PodResourcesLister/List"
_DEVICE = re.compile(
    r"^(?:(?P<gpu>GPU-[0-9a-fA-F-]{36})"
    r"|MIG-(?P<old>GPU-[0-9a-fA-F-]{36})/(?P<gi>\d+)/(?P<ci>\d+)"
    r"|(?P<mig>MIG-[0-9a-fA-F-]{36})"
    r"|nvidia(?P<index>\d+)(?:/gi(?P<gke_gi>\d+))?)"
    r"(?P<sliced>::\d+|/vgu\d+)?$"
)


@dataclass(frozen=True, slots=True)
class Device:
    """What a device id says: a GPU or MIG instance by UUID, or by number on the node; `sliced` if others may share it."""

    gpu_uuid: str | None = None
    gpu_instance: int | None = None
    compute_instance: int | None = None
    mig_uuid: str | None = None
    index: int | None = None
    sliced: bool = False
    allocated: Allocated | None = None


Allocated = tuple[str, str, str]
"""Driver, pool and name of a device of Dynamic Resource Allocation."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One device given to one container."""

    device: Device
    pod: str
    namespace: str
    container: str
    pod_uid: str | None = None


def device(device_id: str, resource: str = "") -> Device | None:
    """Return what a device id says, or None for a form that is not a GPU's."""
    found = _DEVICE.match(device_id)
    if found is None:
        return None
    sliced = found["sliced"] is not None or resource.endswith(".shared")
    return Device(
        found["gpu"] or found["old"],
        _whole(found["gi"] or found["gke_gi"]),
        _whole(found["ci"]),
        found["mig"],
        _whole(found["index"]),
        sliced,
    )


def _whole(text: str | None) -> int | None:
    return None if text is None else int(text)


def list_pods(socket: str) -> ListPodResourcesResponse:
    """Return the kubelet's answer; raise SourceError where it does not answer."""
    with open_channel(socket) as channel:
        call = channel.unary_unary(
            _LIST,
            request_serializer=ListPodResourcesRequest.SerializeToString,
            response_deserializer=ListPodResourcesResponse.FromString,
        )
        try:
            answer: ListPodResourcesResponse = call(ListPodResourcesRequest(), timeout=5.0)
        except grpc.RpcError as error:
            raise SourceError(
                f"{socket}: PodResources answered {error.code().name}; mount the kubelet's pod-resources directory"
            ) from None
    return answer


def grants(response: ListPodResourcesResponse, uids: dict[str, str], unknown: list[str]) -> Iterator[Grant]:
    """Yield each GPU that a container has; ids of GPU resources in a form that is not known go to `unknown`."""
    for pod in response.pod_resources:
        for container in pod.containers:
            for given in container.devices:
                for device_id in given.device_ids:
                    found = device(device_id, given.resource_name)
                    if found is not None:
                        yield Grant(found, pod.name, pod.namespace, container.name, uids.get(device_id))
                    elif "gpu" in given.resource_name or "mig" in given.resource_name:
                        unknown.append(device_id)
            for claimed in container.dynamic_resources:
                for each in claimed.claim_resources:
                    if each.driver_name in _DRA_DRIVERS:
                        place = each.driver_name, each.pool_name, each.device_name
                        shared = each.HasField("share_id")
                        yield Grant(Device(sliced=shared, allocated=place), pod.name, pod.namespace, container.name)


def checkpoint_uids(file: Path) -> dict[str, str]:
    """Return device id → pod UID from the device manager's checkpoint; empty where it is absent or not understood."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["Data"]["PodDeviceEntries"] or []
        # DeviceIDs are listed by NUMA node, "-1" where it is not known; before Kubernetes 1.20 it was a plain list.
        return {
            device_id: entry["PodUID"] for entry in entries for ids in _lists(entry["DeviceIDs"]) for device_id in ids
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lists(ids: dict[str, list[str]] | list[str]) -> list[list[str]]:
    return list(ids.values()) if isinstance(ids, dict) else [ids]
