"""CUDA's driver interface for Python, as far as the demo's engine and the tests call it.

It calls `libcuda.so.1` by name: the double where LD_LIBRARY_PATH leads to it. Only the double's kernels take their duration
as first argument, so `Driver` refuses any other device.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import byref, c_char_p, c_double, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path

from demo.cuda_double.build import build


class CudaError(RuntimeError):
    """A call of the CUDA driver returned an error."""


class _NodeParameters(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = (
        ("function", c_void_p),
        ("sizes", c_uint * 7),
        ("arguments", ctypes.POINTER(c_void_p)),
        ("extra", c_void_p),
        ("kernel", c_void_p),
        ("context", c_void_p),
    )


def environment(double: Path, injection: Path | None = None, rings: Path | None = None) -> dict[str, str]:
    """Return the variables that make a process see the double in `double` as its GPU, watched by the library `injection`."""
    found = {
        "LD_LIBRARY_PATH": os.pathsep.join([str(double), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
    }
    if injection is not None:
        found["CUDA_INJECTION64_PATH"] = str(injection)
    if rings is not None:
        found["WARPLINE_RING_DIR"] = str(rings)
    return found


class Graph:
    """An executable CUDA graph whose nodes' durations can be set."""

    def __init__(self, executable: c_void_p, nodes: list[int]) -> None:
        """Keep the handles."""
        self.executable, self.nodes = executable, nodes


class Driver:
    """One process's use of the double."""

    def __init__(self, library: str = "libcuda.so.1", runtime: bool = False) -> None:
        """Load and initialise the driver, with `runtime` CUDA's runtime too; raise CudaError where it is not the double."""
        self.cuda = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        self.runtime = ctypes.CDLL("libcudart.so.12") if runtime else None
        if not hasattr(self.cuda, "warpline_double_busy_ns"):
            raise CudaError(f"{library}: not the CUDA double; its kernels would not take a duration for an argument")
        for name in ("warpline_double_busy_ns", "warpline_double_executions"):
            getattr(self.cuda, name).restype = c_uint64
        self.cuda.warpline_double_clock_ratio.restype = c_double
        self._call("cuInit", 0)
        self.context = c_void_p()
        self._call("cuCtxCreate_v2", byref(self.context), 0, 0)
        self._functions: dict[str, c_void_p] = {}

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise CudaError(f"{name}: returned {status}")

    def function(self, name: str) -> c_void_p:
        """Return the handle of the kernel called `name`."""
        found = self._functions.get(name)
        if found is None:
            found = c_void_p()
            self._call("cuModuleGetFunction", byref(found), c_void_p(1), c_char_p(name.encode()))
            self._functions[name] = found
        return found

    def stream(self) -> c_void_p:
        """Return a new CUDA stream."""
        made = c_void_p()
        self._call("cuStreamCreate", byref(made), 0)
        return made

    def launch(self, name: str, duration_ns: int, stream: c_void_p | None = None) -> None:
        """Launch kernel `name`, which lasts `duration_ns` at full clock."""
        duration = c_uint64(duration_ns)
        arguments = (c_void_p * 1)(ctypes.addressof(duration))
        sizes = (c_uint(1),) * 7
        self._call("cuLaunchKernel", self.function(name), *sizes, stream, arguments, None)

    def launch_by_runtime(self, name: str, duration_ns: int, stream: c_void_p | None = None) -> None:
        """Launch as `launch` does, through the CUDA runtime."""
        assert self.runtime is not None
        duration = c_uint64(duration_ns)
        arguments = (c_void_p * 1)(ctypes.addressof(duration))
        one = (c_uint * 3)(1, 1, 1)
        dimensions = _Dimensions(*one)
        status = self.runtime.cudaLaunchKernel(
            self.function(name), dimensions, dimensions, arguments, c_size_t(0), stream
        )
        if status:
            raise CudaError(f"cudaLaunchKernel: returned {status}")

    def copy(self, count: int, stream: c_void_p | None = None, to_host: bool = False) -> None:
        """Copy `count` bytes to the device, or from it."""
        if to_host:
            self._call("cuMemcpyDtoHAsync_v2", None, c_uint64(0), c_size_t(count), stream)
        else:
            self._call("cuMemcpyHtoDAsync_v2", c_uint64(0), None, c_size_t(count), stream)

    def clear(self, count: int, stream: c_void_p | None = None) -> None:
        """Set `count` bytes to zero."""
        self._call("cuMemsetD8Async", c_uint64(0), 0, c_size_t(count), stream)

    def capture(self, kernels: list[tuple[str, int]]) -> Graph:
        """Return a graph that runs the kernels, each of a name and a duration in ns, one after the other."""
        stream, graph, executable = self.stream(), c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", stream, 0)
        for name, duration_ns in kernels:
            self.launch(name, duration_ns, stream)
        self._call("cuStreamEndCapture", stream, byref(graph))
        nodes, count = (c_void_p * len(kernels))(), c_size_t(len(kernels))
        self._call("cuGraphGetNodes", graph, nodes, byref(count))
        self._call("cuGraphInstantiateWithFlags", byref(executable), graph, c_uint64(0))
        return Graph(executable, [node or 0 for node in nodes])

    def set_durations(self, graph: Graph, durations_ns: list[int]) -> None:
        """Set what each node of `graph` lasts from its next launch on."""
        for node, duration_ns in zip(graph.nodes, durations_ns, strict=True):
            duration = c_uint64(duration_ns)
            arguments = (c_void_p * 1)(ctypes.addressof(duration))
            parameters = _NodeParameters(arguments=arguments)
            self._call("cuGraphExecKernelNodeSetParams_v2", graph.executable, c_void_p(node), byref(parameters))

    def replay(self, graph: Graph, stream: c_void_p | None = None) -> None:
        """Launch `graph`."""
        self._call("cuGraphLaunch", graph.executable, stream)

    def wait(self, stream: c_void_p | None = None) -> None:
        """Wait until the stream is empty."""
        self._call("cuStreamSynchronize", stream)

    def wait_all(self) -> None:
        """Wait until the device is idle."""
        self._call("cuCtxSynchronize")

    @property
    def busy_ns(self) -> int:
        """Time that the device worked since its start: the sum over all executions."""
        return int(self.cuda.warpline_double_busy_ns())

    @property
    def clock_ratio(self) -> float:
        """The clock as a share of its full speed."""
        return float(self.cuda.warpline_double_clock_ratio())

    @clock_ratio.setter
    def clock_ratio(self, ratio: float) -> None:
        self.cuda.warpline_double_set_clock_ratio(c_double(ratio))


class _Dimensions(ctypes.Structure):
    """dim3, which cudaLaunchKernel takes by value."""

    _fields_ = (("x", c_uint), ("y", c_uint), ("z", c_uint))


__all__ = ["CudaError", "Driver", "Graph", "build", "environment"]
