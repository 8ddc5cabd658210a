"""What the scene's GPUs and threads did: launches, executions, system calls, waits. All of it simulated."""

from __future__ import annotations

import numpy as np

from tests.dashboards.scene_parts import ENGINE, MICRO, NODE, SECOND, batch, uuid
from warpline.batch import Batch

CLASSES = ("gemm", "attention", "normalisation", "elementwise", "sampling", "memory")
KERNELS = (
    ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute", 0, 14.0),
    ("flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>>", 1, 11.0),
    ("void vllm::rms_norm_kernel<c10::BFloat16, 8>", 2, 2.4),
    ("void vllm::act_and_mul_kernel<c10::BFloat16, silu>", 3, 2.0),
    ("void vllm::rotary_embedding_kernel<c10::BFloat16, true>", 3, 1.7),
    ("void at::native::softmax_warp_forward<float, float, float, 10>", 4, 3.1),
    ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>", 5, 1.5),
)


def gpu_work(steps: np.ndarray, kernels: int, gpus: int) -> list[Batch]:
    """Each GPU runs each step's kernels back to back on stream 7 and its collectives on stream 13."""
    batches = []
    per_gpu, count = kernels // gpus, steps.shape[1]
    compute = max(int(per_gpu * 0.88), 2)
    for gpu in range(gpus):
        random = np.random.default_rng(gpu)
        worker = f"{NODE}:52{gpu % 8}:43{gpu % 8:02d}"
        batches += _stream(random, steps, compute, gpu, worker, 7)
        batches += _stream(random, steps, max(per_gpu - compute, 1), gpu, worker, 13)
    batches.append(_busy(steps, gpus))
    batches.append(
        batch(
            "gpu",
            time_ns=[int(steps[0, 0])] * gpus,
            node=NODE,
            gpu_uuid=[uuid(g) for g in range(gpus)],
            index=list(range(gpus)),
            model="NVIDIA H100 80GB HBM3",
            vendor="nvidia",
            sharing="exclusive",
            pod="vllm-0",
            observed_by="simulated",
            simulated=True,
        )
    )
    assert count > 0
    return batches


def _busy(steps: np.ndarray, gpus: int) -> Batch:
    """What the collector counts of each worker's GPU by the second: its kernels fill about three quarters of each step."""
    first, last = int(steps[0, 0]) // SECOND, -(-int(steps[1, -1]) // SECOND)
    second = np.repeat(np.arange(first, last) * SECOND, gpus)
    gpu = np.tile(np.arange(gpus), last - first)
    inside = np.minimum(steps[1], second[:, None] + SECOND) - np.maximum(steps[0], second[:, None])
    busy = (np.clip(inside, 0, None).sum(axis=1) * (0.72 + 0.01 * gpu)).astype(np.int64)
    return batch(
        "gpu_busy",
        start_ns=second,
        end_ns=second + SECOND,
        node=NODE,
        process_uid=[f"{NODE}:52{each % 8}:43{each % 8:02d}" for each in gpu],
        gpu_uuid=[uuid(each) for each in gpu],
        busy_ns=busy,
        kernel_ns=(busy * 1.1).astype(np.int64),
        executions=(busy // (20 * MICRO)),
        detail="graph",
        overhead_ratio=0.004,
        simulated=True,
    )


def _stream(
    random: np.random.Generator, steps: np.ndarray, kernels: int, gpu: int, worker: str, stream: int
) -> list[Batch]:
    count = steps.shape[1]
    step = np.sort(random.integers(0, count, kernels))
    first = np.searchsorted(step, step)
    place = np.arange(kernels) - first
    of_step = np.bincount(step, minlength=count)[step]
    span = (steps[1, step] - steps[0, step]) * 0.94
    slot = span / of_step
    kind = random.integers(0, len(KERNELS), kernels)
    weight = np.array([each[2] for each in KERNELS])[kind]
    start = (steps[0, step] + span * 0.02 + place * slot).astype(np.int64) + gpu * 900
    fill = np.clip(random.normal(0.8, 0.12, kernels), 0.2, 0.98) * np.clip(weight / 9, 0.35, 1)
    end = start + np.maximum((slot * fill).astype(np.int64), 700)
    names = (
        [each[0] for each in KERNELS]
        if stream == 7
        else ["ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevComm*, unsigned long)"]
    )
    index = kind if stream == 7 else np.zeros(kernels, np.int64)
    classes = np.array([CLASSES[each[1]] for each in KERNELS]) if stream == 7 else np.array(["communication"])
    correlation = np.arange(kernels) + stream * 100_000_000
    shared = dict(
        node=NODE, process_uid=worker, session=0, correlation_id=correlation, step_ordinal=9_000 + step, simulated=True
    )
    kernel = batch(
        "gpu_kernel",
        start_ns=start,
        end_ns=end,
        gpu_uuid=uuid(gpu),
        cuda_context=1,
        cuda_stream=stream,
        name=np.array(names, object)[index].tolist(),
        kind="kernel",
        kernel_class=classes[index].tolist(),
        **shared,
    )
    launched = start - random.integers(4 * MICRO, 60 * MICRO, kernels)
    launch = batch(
        "launch",
        start_ns=launched,
        end_ns=launched + random.integers(1_200, 3_800, kernels),
        thread_id=int(worker.rsplit(":", 1)[1]),
        api="cudaLaunchKernel",
        cuda_stream=stream,
        observed_by="simulated",
        **shared,
    )
    return [kernel, launch]


def ranges(steps: np.ndarray, kernels: int, gpus: int) -> list[Batch]:
    """Each worker's host ranges: a step, in it the forward pass and the sampling, layers, and their halves."""
    count = steps.shape[1]
    layers = int(np.clip(kernels // (gpus * count * 8), 2, 80))
    share = np.array([1, 0.9, 0.08, *[0.9 / layers] * layers, *[0.44 / layers] * (2 * layers)])
    layer = np.arange(layers) * 0.9 / layers
    place = np.concatenate([[0, 0, 0.91], layer, layer, layer + 0.45 / layers])
    depth = np.concatenate([[0, 1, 1], np.full(layers, 2), np.full(2 * layers, 3)])
    halves = ["attention"] * layers + ["mlp"] * layers
    names = ["execute_model", "forward", "sample", *[f"layer {each}" for each in range(layers)], *halves]
    width = ((steps[1] - steps[0]) * 0.97)[:, None]
    begin = (steps[0][:, None] + width * (0.01 + place * 0.98)).astype(np.int64).ravel()
    lasted = (width * share * 0.97).astype(np.int64).ravel()
    order = np.argsort(begin, kind="stable")
    return [
        batch(
            "annotation",
            start_ns=begin[order],
            end_ns=(begin + lasted)[order],
            node=NODE,
            process_uid=f"{NODE}:52{gpu % 8}:43{gpu % 8:02d}",
            thread_id=4300 + gpu % 8,
            depth=np.tile(depth, count)[order],
            name=np.tile(np.array(names, object), count)[order].tolist(),
            kind="nvtx",
        )
        for gpu in range(gpus)
    ]


def threads(start: int, lasted: int, calls: int) -> list[Batch]:
    random = np.random.default_rng(41)
    at = np.sort(start + random.integers(0, lasted, calls))
    thread = 4200 + random.integers(0, 4, calls)
    names = np.array(["epoll_wait", "recvfrom", "sendto", "futex", "read", "write"], object)[
        random.integers(0, 6, calls)
    ]
    syscall = batch(
        "syscall",
        start_ns=at,
        end_ns=at + random.exponential(9_000, calls).astype(np.int64) + 300,
        node=NODE,
        process_uid=ENGINE,
        thread_id=thread,
        name=names.tolist(),
        result=np.where(random.random(calls) < 0.01, -11, 0),
    )
    waits = max(calls // 12, 20)
    began = np.sort(start + random.integers(0, lasted, waits))
    reasons = np.array(["runqueue", "futex", "poll", "network"], object)[random.integers(0, 4, waits)]
    off = batch(
        "off_cpu",
        start_ns=began,
        end_ns=began + random.exponential(lasted / waits / 3, waits).astype(np.int64) + 900,
        node=NODE,
        process_uid=ENGINE,
        thread_id=4200,
        reason=reasons.tolist(),
    )
    return [syscall, off]
