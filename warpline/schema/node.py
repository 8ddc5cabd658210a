"""What exists on a node, its clocks, and what is known to be missing."""

from __future__ import annotations

from warpline.schema.declare import (
    END,
    NODE,
    PID,
    PROCESS,
    START,
    TIME,
    Table,
    flag,
    integer,
    json,
    name,
    number,
    text,
)

_POD = (
    name(
        "container_id",
        "Container, 64 hex digits (its first 31 where Tetragon knew no more), without the runtime's prefix.",
        "container.id",
    ),
    name("pod_uid", "Pod UID, with dashes.", "k8s.pod.uid"),
    name("pod", "Pod name.", "k8s.pod.name"),
    name("namespace", "Kubernetes namespace.", "k8s.namespace.name"),
    name("container", "Container name in its pod.", "k8s.container.name"),
)

NODE_TABLE = Table(
    "node",
    "One boot of one node, as its collector found it.",
    (
        TIME,
        NODE,
        name("boot_id", "Linux boot id: one anchor of node time each.", "host.boot_id"),
        name("machine_id", "systemd machine id.", "host.id"),
        name("kernel_release", "Linux kernel release, as uname -r prints it.", "os.version"),
        name("architecture", "Machine architecture.", "host.arch"),
        integer("anchor_ns", "Node time minus CLOCK_MONOTONIC, fixed for the boot."),
        name("warpline_version", "Version of the collector.", "service.version"),
    ),
)

CLOCK_PAIR = Table(
    "clock_pair",
    "One reading of all of a node's clocks at once; half_width_ns bounds how far apart the readings were.",
    (
        TIME,
        NODE,
        name("boot_id", "Linux boot id.", required=True),
        integer("monotonic_ns", "CLOCK_MONOTONIC.", required=True),
        integer("boottime_ns", "CLOCK_BOOTTIME.", required=True),
        integer("realtime_ns", "CLOCK_REALTIME.", required=True),
        integer("tai_ns", "CLOCK_TAI."),
        integer("half_width_ns", "Half the width of the sandwich that took the reading.", required=True),
        integer(
            "realtime_error_ns",
            "Bound on CLOCK_REALTIME's own error as the kernel's NTP says (maxerror); NULL unknown.",
        ),
        name("realtime_status", "synchronised or unsynchronised, as the kernel's NTP says."),
    ),
)

PROCESS_TABLE = Table(
    "process",
    "One process: identity for every row that carries its process_uid.",
    (
        START,
        END,
        NODE,
        name("process_uid", PROCESS.doc, required=True),
        PID,
        name("parent_uid", "Parent's process_uid.", "process.parent_pid"),
        name("executable", "Path of the executable.", "process.executable.path"),
        text("arguments", "Command line, secrets removed; NULL unless switched on.", "process.command_args"),
        integer("user_id", "User id.", "process.user.id"),
        integer("cgroup_id", "Inode of its cgroup's directory."),
        name("cgroup_path", "Path of its cgroup."),
        name("runtime", "Container runtime: containerd, cri-o, docker, podman, or NULL."),
        *_POD,
        integer("pid_namespace", "Inode of its PID namespace."),
        integer("time_namespace_offset_ns", "What its CLOCK_MONOTONIC has beyond the host's."),
        integer("network_namespace", "Inode of its network namespace."),
        name("role", "What it is to a model server: api_server, engine, worker, proxy, client; NULL unknown."),
        name("exec_id", "Tetragon's exec id, where it saw the process."),
        name("observed_by", "Source that saw it."),
    ),
    keys=("process_uid",),
)

PROCESS_EVENT = Table(
    "process_event",
    "Something that a process did or that was done to it, as Tetragon tells it.",
    (
        TIME,
        NODE,
        PROCESS,
        PID,
        name("exec_id", "Tetragon's exec id."),
        name("kind", "exec, exit, kprobe, tracepoint, uprobe, usdt, lsm, loader, throttle, test.", required=True),
        name("name", "Function, tracepoint or signal."),
        name("policy", "Tracing policy that asked for it."),
        name("action", "What Tetragon did: post, sigkill, override, …"),
        integer("exit_status", "Exit status.", "process.exit.code"),
        name("signal", "Signal that ended it."),
        json("details", "The event's arguments, as Tetragon printed them, redacted."),
    ),
)

POD = Table(
    "pod",
    "One state of a pod: what the cluster says that its processes are.",
    (
        TIME,
        name("node", "Node that it is bound to.", "k8s.node.name"),
        *_POD[1:4],
        integer("created_ns", "When the API server took it, in whole seconds of its clock."),
        name("pod_ip", "Pod's address.", "k8s.pod.ip"),
        name("phase", "Pending, Running, Succeeded, Failed, Unknown, Deleted."),
        name("owner_kind", "Kind of the object that owns it."),
        name("owner_name", "Name of the object that owns it."),
        name("service", "Inference service (KServe, llm-d, Knative service) that it serves.", "service.name"),
        name("revision", "Knative or KServe revision."),
        name("role", "prefill, decode, router, both; NULL unknown."),
        name("engine", "vllm, sglang, triton, tensorrt_llm; NULL unknown."),
        name("model", "Model that it serves.", "gen_ai.request.model"),
        name("model_version", "Version, from MLflow or KServe labels and annotations."),
        name("quantisation", "Quantisation, from the command line."),
        text("engine_arguments", "The engine's command line, secrets removed."),
        json("labels", "The pod's labels."),
    ),
)

CONTAINER_STATE = Table(
    "container_state",
    "One change of a container's life: from Kubernetes, from the runtime, or from CRI.",
    (
        TIME,
        name("node", "Node that it runs on.", "k8s.node.name"),
        *_POD,
        name("kind", "created, started, ready, exited, oom, deleted, image_pulled, paused, …", required=True),
        name("image", "Image, with its tag or digest.", "container.image.name"),
        integer("exit_code", "Exit code."),
        name("reason", "Reason, in the runtime's or Kubernetes' word."),
        name("observed_by", "Source that saw it."),
    ),
)

CLUSTER_EVENT = Table(
    "cluster_event",
    "A Kubernetes Event, once for each series.",
    (
        TIME,
        integer("start_ns_of_series", "When the first of its series happened."),
        name("node", "Node that it is about or that reported it.", "k8s.node.name"),
        name("kind", "Kind of the object that it is about.", required=True),
        name("namespace", "Kubernetes namespace.", "k8s.namespace.name"),
        name("object", "Name of the object that it is about."),
        name("object_uid", "UID of the object that it is about."),
        name("container", "Container that it is about, where it names one.", "k8s.container.name"),
        name("reason", "Reason, such as Pulled or FailedScheduling.", required=True),
        name("severity", "Normal or Warning."),
        text("message", "What the event says."),
        integer("occurrences", "How often it happened so far."),
        name("reporter", "Component that reported it."),
    ),
)

SERVICE_STATE = Table(
    "service_state",
    "One state of what serves a model, of one of its revisions, or of what scales it, as the cluster's custom objects say.",
    (
        TIME,
        name("kind", "InferenceService, LLMInferenceService, Revision or ScaledObject.", required=True),
        name("namespace", "Kubernetes namespace.", "k8s.namespace.name"),
        name("object", "Name of the object."),
        name("object_uid", "UID of the object."),
        name("service", "Inference service or Knative service that it is of.", "service.name"),
        name("revision", "Revision that the row is about."),
        name("role", "prefill or decode, where a service has a part for each."),
        name("model", "Model that it serves.", "gen_ai.request.model"),
        name("model_version", "Version, from MLflow or KServe labels and annotations or the model's address."),
        flag("ready", "Its Ready condition; NULL unknown."),
        flag("active", "True where it runs at all: a revision or target that is scaled to zero is not active."),
        name("reason", "Why it is not ready, or the state of its model's loading, in its controller's word."),
        integer("replicas", "Replicas that there are."),
        integer("desired_replicas", "Replicas that its controller wants."),
        integer("least_replicas", "Least that it may be scaled to."),
        integer("most_replicas", "Most that it may be scaled to."),
        number("traffic_ratio", "Share of its service's requests that go to the revision."),
        name("target", "What it scales, as kind/name."),
        name("triggers", "By what it scales, comma-separated."),
        flag("deleted", "True once it is gone."),
    ),
)

CLUSTER_NODE = Table(
    "cluster_node",
    "One state of a node, as Kubernetes has it: where it stands and which GPUs it offers.",
    (
        TIME,
        name("node", "Node.", "k8s.node.name", required=True),
        flag("ready", "Kubernetes' Ready condition."),
        flag("deleted", "True once it is gone."),
        name("zone", "Zone (topology.kubernetes.io/zone).", "cloud.availability_zone"),
        name("instance_type", "Instance type (node.kubernetes.io/instance-type).", "host.type"),
        name("boot_id", "Linux boot id.", "host.boot_id"),
        name("kernel_release", "Linux kernel release.", "os.version"),
        name("runtime", "Container runtime and its version, as the kubelet says."),
        name("gpu_product", "GPU model, as GPU Feature Discovery spells it."),
        integer("gpus", "GPUs allocatable, replicas of time slicing and MIG instances included."),
        name("gpu_sharing", "none, time-slicing or mps."),
        name("mig_strategy", "none, single or mixed."),
    ),
)

LOSS = Table(
    "loss",
    "Something that is known to be missing: every drop, everywhere.",
    (
        START,
        END,
        NODE,
        name("source", "Source, door or part that lost it.", required=True),
        name("reason", "Why, in a few words that do not vary.", required=True),
        integer("lost", "How many records, or bytes where the reason says so.", required=True),
        flag("lower_bound", "True where more may be missing than was counted."),
        PROCESS,
    ),
    keys=("source", "reason"),
)

SOURCE_STATE = Table(
    "source_state",
    "A source's state, at each change and at least once a minute.",
    (
        TIME,
        NODE,
        name("source", "Source's name.", required=True),
        flag("up", "True while it runs.", required=True),
        text("reason", "Why it does not run."),
        integer("detail", "Detail level in force: 0 off, 1 least, 2 ordinary, 3 all."),
        integer("rows", "Rows yielded since it started."),
        number("cost_ratio", "Share of one core that it cost since the last row, kernel part included."),
        number("budget_ratio", "Share of one core that it may cost."),
    ),
    keys=("source",),
)

NODE_TABLES = (
    NODE_TABLE,
    CLOCK_PAIR,
    PROCESS_TABLE,
    PROCESS_EVENT,
    POD,
    CONTAINER_STATE,
    CLUSTER_EVENT,
    SERVICE_STATE,
    CLUSTER_NODE,
    LOSS,
    SOURCE_STATE,
)
