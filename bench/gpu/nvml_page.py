"""A page as dcgm-exporter's, of NVML's own readings: where there is a GPU but no exporter, they are real all the same.

Names and units are dcgm-exporter's (its default counters, and SM activity, occupancy, tensor and memory activity, which NVML
knows from Hopper on as GPM metrics, as ratios over the time since the last scrape). A reading that NVML refuses is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily

_LABELS = ("gpu", "UUID", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")
_MIB = 1 << 20
_ACTIVITY = {
    2: "DCGM_FI_PROF_SM_ACTIVE",
    3: "DCGM_FI_PROF_SM_OCCUPANCY",
    5: "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    10: "DCGM_FI_PROF_DRAM_ACTIVE",
}
"""NVML_GPM_METRIC_… (nvml.h), in percent, by the exporter's name for the ratio."""


class Readings:
    """Every GPU's readings, anew at each scrape."""

    def __init__(self, nvml: Any, node: str) -> None:
        self.nvml, self.node, self.before = nvml, node, dict[int, Any]()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found: dict[str, GaugeMetricFamily] = {}
        for number in range(self.nvml.nvmlDeviceGetCount()):
            device = self.nvml.nvmlDeviceGetHandleByIndex(number)
            labels = [str(number), self.nvml.nvmlDeviceGetUUID(device), f"nvidia{number}"]
            labels += [self.nvml.nvmlDeviceGetName(device), self.node, self.nvml.nvmlSystemGetDriverVersion()]
            for name, read in self._readings(device):
                try:
                    value = read()
                except self.nvml.NVMLError:
                    continue
                family = found.setdefault(name, GaugeMetricFamily(name, name, labels=_LABELS))
                family.add_metric(labels, value)
            for name, value in self._activity(number, device):
                family = found.setdefault(name, GaugeMetricFamily(name, name, labels=_LABELS))
                family.add_metric(labels, value)
        yield from found.values()

    def _readings(self, device: Any) -> Iterator[tuple[str, Callable[[], float]]]:
        nvml = self.nvml
        yield "DCGM_FI_DEV_SM_CLOCK", lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)
        yield "DCGM_FI_DEV_MEM_CLOCK", lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM)
        yield "DCGM_FI_DEV_GPU_TEMP", lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)
        yield "DCGM_FI_DEV_POWER_USAGE", lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000
        yield "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device)
        yield "DCGM_FI_DEV_GPU_UTIL", lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu
        yield "DCGM_FI_DEV_MEM_COPY_UTIL", lambda: nvml.nvmlDeviceGetUtilizationRates(device).memory
        yield "DCGM_FI_DEV_FB_USED", lambda: nvml.nvmlDeviceGetMemoryInfo(device).used // _MIB
        yield "DCGM_FI_DEV_FB_FREE", lambda: nvml.nvmlDeviceGetMemoryInfo(device).free // _MIB
        yield "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)

    def _activity(self, number: int, device: Any) -> Iterator[tuple[str, float]]:
        """Yield what was active between the last scrape and this one."""
        nvml = self.nvml
        try:
            now = nvml.nvmlGpmSampleGet(device, nvml.nvmlGpmSampleAlloc())
        except (nvml.NVMLError, AttributeError):
            return
        before, self.before[number] = self.before.get(number), now
        if before is None:
            return
        asked = nvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(_ACTIVITY)
        asked.sample1, asked.sample2 = before, now
        for place, metric in enumerate(_ACTIVITY):
            asked.metrics[place].metricId = metric
        try:
            answer = nvml.nvmlGpmMetricsGet(asked)
        except nvml.NVMLError:
            return
        finally:
            nvml.nvmlGpmSampleFree(before)
        for place, name in enumerate(_ACTIVITY.values()):
            if answer.metrics[place].nvmlReturn == nvml.NVML_SUCCESS:
                yield name, answer.metrics[place].value / 100


def _nvml() -> Any:
    """Return NVML's module, ready to be asked; None, having said why, where there is none."""
    try:
        import pynvml  # Only a machine with a GPU has it.
    except ImportError as error:
        print(f"# no readings of the GPU: {error}", flush=True)
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        print(f"# no readings of the GPU: {error}", flush=True)
        return None
    return pynvml


@contextmanager
def served(node: str, port: int) -> Iterator[str | None]:
    """Serve the page on the loopback's `port`; give its URL, or None where there is no NVML to ask."""
    pynvml = _nvml()
    if pynvml is None:
        yield None
        return
    registry = CollectorRegistry()
    registry.register(Readings(pynvml, node))
    server, thread = start_http_server(port, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{port}/metrics"
    server.shutdown()
    thread.join()
    pynvml.nvmlShutdown()
