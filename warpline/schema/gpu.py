"""What the host asked of GPUs, what GPUs did, and how they fared."""

from __future__ import annotations

from warpline.schema.declare import (
    END,
    NODE,
    PROCESS,
    SIMULATED,
    START,
    THREAD,
    TIME,
    Table,
    flag,
    integer,
    json,
    name,
    number,
    text,
)

_RECORDING = (
    name("recording_uid", "Recording that holds it; NULL where it was seen live."),
    integer("rank", "Rank in a recording of several processes."),
)

_LEVEL = name("detail", "none, callbacks, graph, node: the level that the injected library ran at, where it saw it.")

LAUNCH = Table(
    "launch",
    "One host call that enqueues GPU work. Its time is the call's, never the GPU's.",
    (
        START,
        END,
        NODE,
        PROCESS,
        integer("session", "CUPTI session in the process, from 0; the correlation id is unique in it."),
        integer("correlation_id", "CUPTI's correlation id, unwrapped to 64 bit; NULL where a uprobe saw the call."),
        THREAD,
        name("api", "Function called, such as cudaLaunchKernel.", required=True),
        integer("cuda_stream", "CUDA stream, as CUPTI numbers it, or its handle where a uprobe saw it."),
        integer("step_ordinal", "Engine step that made it."),
        name("kernel_name", "Kernel's name where the call tells it: not a duration."),
        integer("graph_id", "CUDA graph launched."),
        integer("result", "Status that the call returned."),
        name("observed_by", "Source that saw it."),
        _LEVEL,
        *_RECORDING,
        SIMULATED,
    ),
    keys=("process_uid", "start_ns"),
)

GPU_KERNEL = Table(
    "gpu_kernel",
    "One execution on a GPU, with measured start and end: a kernel, a copy, a memset, or one replay of a CUDA graph.",
    (
        START,
        END,
        NODE,
        PROCESS,
        name(
            "gpu_uuid",
            "GPU or MIG instance, as NVML prints it; in a recording without it, the device's number.",
            "hw.id",
        ),
        integer("cuda_context", "CUDA context."),
        integer("cuda_stream", "CUDA stream."),
        integer("session", "CUPTI session in the process, from 0."),
        integer("correlation_id", "Joins it to its launch within process and session."),
        integer("graph_id", "CUDA graph that it belongs to."),
        integer("graph_node_id", "Node of that graph; NULL for the whole replay."),
        name("name", "Kernel's name, demangled where the source does so."),
        name("kind", "kernel, memcpy, memset, graph, sync, other.", required=True),
        name("kernel_class", "gemm, attention, communication, normalisation, elementwise, sampling, memory, other."),
        integer("step_ordinal", "Engine step that launched it, where the launch says so."),
        integer("moved_bytes", "Bytes that a copy or memset moved."),
        name("validity", "ok, no_time, reversed, outside_session: whether its times may be used; NULL means ok."),
        _LEVEL,
        *_RECORDING,
        SIMULATED,
    ),
    keys=("process_uid", "start_ns"),
)

GPU_KERNEL_DETAIL = Table(
    "gpu_kernel_detail",
    "What a recording tells of an execution beyond its times.",
    (
        TIME,
        PROCESS,
        integer("correlation_id", "Joins it to its execution."),
        integer("graph_node_id", "Node of its graph."),
        *_RECORDING,
        name("grid", "Grid, as x,y,z."),
        name("block", "Block, as x,y,z."),
        integer("registers", "Registers per thread."),
        integer("shared_memory_bytes", "Shared memory per block."),
        integer("queued_ns", "When it was queued, where told."),
        json("communication", "Arguments of a collective: name, dtype, elements, group, ranks."),
    ),
)

GPU_BUSY = Table(
    "gpu_busy",
    "How long a GPU worked for one process in one interval: the union of its executions.",
    (
        START,
        END,
        NODE,
        PROCESS,
        name("gpu_uuid", "GPU or MIG instance.", "hw.id"),
        integer("busy_ns", "Union of the executions in the interval.", required=True),
        integer("kernel_ns", "Sum of the executions in the interval.", required=True),
        integer("executions", "How many began in it.", required=True),
        name("detail", "none, callbacks, graph, node: the level that the injected library ran at."),
        number("overhead_ratio", "Its own cost in that interval, as it measured it."),
        SIMULATED,
    ),
    keys=("process_uid", "start_ns"),
)

GPU = Table(
    "gpu",
    "One GPU or MIG instance, and who may use it; the last row holds.",
    (
        TIME,
        NODE,
        name("gpu_uuid", "GPU, as NVML prints it.", "hw.id", required=True),
        integer("gpu_instance", "MIG GPU instance; NULL for a whole GPU."),
        integer("compute_instance", "MIG compute instance."),
        name("mig_uuid", "UUID of the MIG instance."),
        name("profile", "MIG profile, such as 2g.20gb."),
        integer("index", "Number on the node."),
        name("model", "Model, such as NVIDIA H100 80GB HBM3.", "hw.model"),
        name("vendor", "nvidia or amd.", "hw.vendor"),
        name("pci_bus", "PCI bus id."),
        name("driver", "Driver's version.", "hw.driver_version"),
        name("sharing", "exclusive, shared (time slicing or MPS: ids tell no more), time_slicing, mps; NULL unknown."),
        name("pod_uid", "Pod that it was given to; NULL where shared or free.", "k8s.pod.uid"),
        name("pod", "Pod's name.", "k8s.pod.name"),
        name("namespace", "Pod's namespace.", "k8s.namespace.name"),
        name("container", "Container's name.", "k8s.container.name"),
        name("observed_by", "Source that saw it."),
        SIMULATED,
    ),
    keys=("gpu_uuid",),
)

GPU_SAMPLE = Table(
    "gpu_sample",
    "One reading of one measure of a GPU or MIG instance.",
    (
        TIME,
        NODE,
        name("gpu_uuid", "GPU, as NVML prints it.", "hw.id", required=True),
        integer("gpu_instance", "MIG GPU instance; NULL for a whole GPU."),
        integer("index", "GPU's number on the node."),
        name("metric", "Semantic-convention name where there is one, else warpline.gpu.….", required=True),
        name("part", "Which part: a memory, a link, an engine; NULL the whole."),
        number(
            "value", "Reading, in the base unit that the metric's name implies (By, J, W, Hz, Cel, 1).", required=True
        ),
        flag("device_wide", "True where it is of the whole device though told per instance: never to be summed."),
        flag("monotonic", "True for what only grows."),
        name("pod_uid", "Pod that the exporter says uses it, if one alone does.", "k8s.pod.uid"),
        name("pod", "Pod's name.", "k8s.pod.name"),
        name("namespace", "Pod's namespace.", "k8s.namespace.name"),
        name("container", "Container's name.", "k8s.container.name"),
        name("field", "Field as the exporter calls it."),
        SIMULATED,
    ),
    keys=("gpu_uuid", "metric"),
)

SYSCALL = Table(
    "syscall",
    "One system call of a watched process.",
    (
        START,
        END,
        NODE,
        PROCESS,
        THREAD,
        name("name", "System call.", required=True),
        integer("result", "What it returned."),
        integer("descriptor", "File descriptor that it was given."),
    ),
    keys=("process_uid", "start_ns"),
)

SYSCALL_TOTAL = Table(
    "syscall_total",
    "System calls of one process and name, summed in the kernel over one interval.",
    (
        START,
        END,
        NODE,
        PROCESS,
        name("name", "System call.", required=True),
        integer("calls", "How many.", required=True),
        integer("total_ns", "Time inside them.", required=True),
        integer("longest_ns", "Longest of them."),
    ),
    keys=("process_uid", "start_ns"),
)

OFF_CPU = Table(
    "off_cpu",
    "One interval in which a thread of a watched process did not run.",
    (
        START,
        END,
        NODE,
        PROCESS,
        THREAD,
        name("reason", "runqueue, futex, poll, network, disk, page_fault, sleep, other.", required=True),
        integer("runqueue_ns", "Of it, time that it could have run and no core was free."),
        integer("woken_by_pid", "Process that woke it."),
    ),
    keys=("process_uid", "start_ns"),
)

OFF_CPU_TOTAL = Table(
    "off_cpu_total",
    "Times in which threads of one process did not run, by reason, summed in the kernel over one interval.",
    (
        START,
        END,
        NODE,
        PROCESS,
        name("reason", "As in off_cpu.", required=True),
        integer("intervals", "How many.", required=True),
        integer("total_ns", "Time in them, over all threads.", required=True),
        integer("runqueue_ns", "Of it, time that they could have run and no core was free."),
        integer("longest_ns", "Longest of them."),
    ),
    keys=("process_uid", "start_ns"),
)

ANNOTATION = Table(
    "annotation",
    "One named range on a host thread or a GPU stream, as the program or its framework told it (NVTX, record_function).",
    (
        START,
        END,
        NODE,
        PROCESS,
        THREAD,
        integer("cuda_stream", "CUDA stream, for a range projected on the GPU."),
        name("gpu_uuid", "GPU, for a range projected on it."),
        name("kind", "nvtx, user_annotation, gpu_user_annotation, cpu_op, python_function, …", required=True),
        name("name", "Its name.", required=True),
        integer("depth", "Nesting depth on its row, from 0."),
        text("details", "Arguments worth keeping, as JSON."),
        *_RECORDING,
    ),
    keys=("recording_uid", "start_ns"),
)

GPU_TABLES = (
    LAUNCH,
    GPU_KERNEL,
    GPU_KERNEL_DETAIL,
    GPU_BUSY,
    GPU,
    GPU_SAMPLE,
    SYSCALL,
    SYSCALL_TOTAL,
    OFF_CPU,
    OFF_CPU_TOTAL,
    ANNOTATION,
)
