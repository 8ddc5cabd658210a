"""The layouts that the injected library declares are those of NVIDIA's headers, generations 12 and 13.

Neither headers nor CUPTI are part of Warpline. `make setup` unpacks the headers of NVIDIA's PyPI wheels
(requirements-cuda.lock) beside this Python; WARPLINE_CUDA_INCLUDES names others: colon-separated sets, one a CUDA version,
each of comma-separated directories.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collectors.inject.build import SOURCES, compiler

_HEADERS = Path(sys.prefix) / "cuda-headers"
# What a compiler of generation 12 has in crt/ is in no small wheel; that of 13 says the same.
_OWN = {each: [str(_HEADERS / each), str(_HEADERS / "13")] for each in ("12", "13")}
_GIVEN = [each.split(",") for each in os.environ.get("WARPLINE_CUDA_INCLUDES", "").split(":") if each]
_SETS = _GIVEN or list(_OWN.values())

_FIELDS = {
    ("kernel_record", "Kernel"): {
        "start": "start", "end": "end", "device": "deviceId", "context": "contextId", "stream": "streamId",
        "correlation": "correlationId", "name": "name", "graph_node": "graphNodeId", "graph": "graphId",
    },
    ("graph_record", "GraphTrace"): {
        "correlation": "correlationId", "start": "start", "end": "end", "device": "deviceId", "graph": "graphId",
        "context": "contextId", "stream": "streamId",
    },
    ("move_record", "Memcpy"): {
        "bytes": "bytes", "start": "start", "end": "end", "device": "deviceId", "context": "contextId",
        "stream": "streamId", "correlation": "correlationId",
    },
    ("move_record", "Memset"): {
        "bytes": "bytes", "start": "start", "end": "end", "device": "deviceId", "context": "contextId",
        "stream": "streamId", "correlation": "correlationId",
    },
    ("move_graph", "Memcpy"): {"graph_node": "graphNodeId", "graph": "graphId"},
    ("move_graph", "Memset"): {"graph_node": "graphNodeId", "graph": "graphId"},
    ("peer_copy_record", "MemcpyPtoP"): {
        "bytes": "bytes", "start": "start", "end": "end", "device": "deviceId", "context": "contextId",
        "stream": "streamId", "correlation": "correlationId",
    },
    ("device_record", "Device"): {
        "id": "id", "uuid": "uuid", "name": "name", "is_mig": "isMigEnabled", "gpu_instance": "gpuInstanceId",
        "compute_instance": "computeInstanceId", "mig_uuid": "migUuid",
    },
    ("context_record", "Context"): {"context": "contextId", "device": "deviceId", "compute_api": "computeApiKind"},
}  # fmt: skip
_CALLBACK = {
    "site": "callbackSite", "function_name": "functionName", "result": "functionReturnValue",
    "symbol_name": "symbolName", "context_uid": "contextUid", "between": "correlationData",
    "correlation": "correlationId",
}  # fmt: skip
_NUMBERS = {
    "OF_MEMCPY": "CUPTI_ACTIVITY_KIND_MEMCPY", "OF_MEMSET": "CUPTI_ACTIVITY_KIND_MEMSET",
    "OF_DEVICE": "CUPTI_ACTIVITY_KIND_DEVICE", "OF_CONTEXT": "CUPTI_ACTIVITY_KIND_CONTEXT",
    "OF_KERNEL": "CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL", "OF_PEER_COPY": "CUPTI_ACTIVITY_KIND_MEMCPY2",
    "OF_GRAPH": "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "DOMAIN_DRIVER": "CUPTI_CB_DOMAIN_DRIVER_API",
    "DOMAIN_RUNTIME": "CUPTI_CB_DOMAIN_RUNTIME_API", "SITE_EXIT": "CUPTI_API_EXIT",
    "CUPTI_MULTIPLE_SUBSCRIBERS": "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED",
    "COMPUTE_API_MPS": "CUPTI_ACTIVITY_COMPUTE_API_CUDA_MPS", "FLUSH_FORCED": "CUPTI_ACTIVITY_FLAG_FLUSH_FORCED",
}  # fmt: skip


def _newest(header: str, kind: str) -> str:
    """The newest of CUPTI's numbered structs for one kind of record."""
    numbers = [int(found) for found in re.findall(rf"\}} CUpti_Activity{kind}(\d+);", header)]
    return f"CUpti_Activity{kind}{max(numbers)}"


def _program(header: str) -> str:
    lines = ["#include <cuda.h>", "#include <cupti.h>", '#include "abi.h"']
    same = '_Static_assert(offsetof(struct {}, {}) == offsetof({}, {}), "{}.{}");'
    for (mine, kind), fields in _FIELDS.items():
        theirs = _newest(header, kind)
        lines += [same.format(mine, a, theirs, b, mine, a) for a, b in fields.items()]
    lines += [same.format("callback_data", a, "CUpti_CallbackData", b, "callback", a) for a, b in _CALLBACK.items()]
    lines += [f'_Static_assert({a} == (int){b}, "{a}");' for a, b in _NUMBERS.items()]
    return "\n".join(lines)


_WITH_HEADERS = pytest.mark.skipif(not Path(_SETS[0][0]).is_dir(), reason=f"no NVIDIA headers in {_SETS[0][0]}")
_EACH_SET = pytest.mark.parametrize("includes", _SETS, ids=lambda each: "-".join(Path(each[0]).parts[-3:]))


@_WITH_HEADERS
@_EACH_SET
def test_layouts_and_numbers_are_those_of_the_headers(tmp_path: Path, includes: list[str]) -> None:
    header = next(path for each in includes if (path := Path(each) / "cupti_activity.h").exists())
    source = tmp_path / "layouts.c"
    source.write_text(_program(header.read_text()))
    flags = [f"-I{each}" for each in [*includes, str(SOURCES)]]
    done = subprocess.run([compiler() or "cc", "-fsyntax-only", *flags, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@_WITH_HEADERS
@_EACH_SET
@pytest.mark.parametrize(("file", "ranges"), [("cupti_driver_cbid.h", "driver"), ("cupti_runtime_cbid.h", "runtime")])
def test_every_call_that_enqueues_work_is_listened_to(includes: list[str], file: str, ranges: str) -> None:
    header = next(path for each in includes if (path := Path(each) / file).exists()).read_text()
    text = (SOURCES / "calls.h").read_text().split(f"{ranges}_calls[]")[1].split("};")[0]
    heard = {n for a, b in re.findall(r"\{(\d+), *(\d+)\}", text) for n in range(int(a), int(b) + 1)}
    enqueues = r"CBID_((?:cu|cuda)(?:64)?(?:Launch(?!Host)|GraphLaunch|Mem(?:cpy|set))\w*) *= *(\d+)"
    calls = {name: int(number) for name, number in re.findall(enqueues, header)}
    assert len(calls) > 60
    assert {name for name, number in calls.items() if number not in heard} == set()
    text = (SOURCES / "calls.h").read_text().split(f"{ranges}_kernels[]")[1].split(";")[0]
    named = {n for a, b in re.findall(r"\{(\d+), *(\d+)\}", text) for n in range(int(a), int(b) + 1)}
    assert named == {number for name, number in calls.items() if "Launch" in name and "Graph" not in name}
