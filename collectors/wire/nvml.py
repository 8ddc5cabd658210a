"""Which GPU and GPU instance a MIG device is, and which GPU a device file: asked of the driver's NVML library.

The kubelet names MIG devices by UUID, dcgm-exporter by GPU UUID and GPU instance id, and nvidia-smi's list by a number that
is neither. NVML 11 (driver 450) and later; works without privilege where /dev/nvidiactl can be opened.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache

_LIBRARY = os.environ.get("NVML_LIBRARY_PATH", "libnvidia-ml.so.1")
_UUID_BYTES = 96
_SUCCESS = 0
_Calls = tuple[tuple[str, tuple[object, ...]], ...]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL(_LIBRARY)
        return found if found.nvmlInit_v2() == _SUCCESS else None
    except (OSError, AttributeError):  # No driver here, or one before MIG.
        return None


def mig_place(mig_uuid: str) -> tuple[str, int, int] | None:
    """Return GPU UUID, GPU instance and compute instance of a MIG device; None where the driver does not know it."""
    library = _library()
    if library is None:
        return None
    try:
        return _place(library, mig_uuid)
    except AttributeError:  # A driver before MIG.
        return None


def gpu_of_minor(minor: int) -> str | None:
    """Return the UUID of the GPU behind /dev/nvidia`minor`; None where the driver does not know it."""
    library = _library()
    if library is None:
        return None
    count, found = ctypes.c_uint(), ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _SUCCESS:
        return None
    for index in range(count.value):
        device, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(_UUID_BYTES)
        calls: _Calls = (
            ("nvmlDeviceGetHandleByIndex_v2", (ctypes.c_uint(index), ctypes.byref(device))),
            ("nvmlDeviceGetMinorNumber", (device, ctypes.byref(found))),
            ("nvmlDeviceGetUUID", (device, uuid, _UUID_BYTES)),
        )
        if _all_succeed(library, calls) and found.value == minor:
            return uuid.value.decode("ascii", "replace")
    return None


def _all_succeed(library: ctypes.CDLL, calls: _Calls) -> bool:
    return all(getattr(library, name)(*arguments) == _SUCCESS for name, arguments in calls)


def _place(library: ctypes.CDLL, mig_uuid: str) -> tuple[str, int, int] | None:
    device, parent = ctypes.c_void_p(), ctypes.c_void_p()
    gpu_instance, compute_instance = ctypes.c_uint(), ctypes.c_uint()
    uuid = ctypes.create_string_buffer(_UUID_BYTES)
    calls: _Calls = (
        ("nvmlDeviceGetHandleByUUID", (mig_uuid.encode(), ctypes.byref(device))),
        ("nvmlDeviceGetGpuInstanceId", (device, ctypes.byref(gpu_instance))),
        ("nvmlDeviceGetComputeInstanceId", (device, ctypes.byref(compute_instance))),
        ("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", (device, ctypes.byref(parent))),
        ("nvmlDeviceGetUUID", (parent, uuid, _UUID_BYTES)),
    )
    if not _all_succeed(library, calls):
        return None
    return uuid.value.decode("ascii", "replace"), gpu_instance.value, compute_instance.value
