"""The sample incidents: what happens in each, how it is played, and what must be said of it.

Each is played on the model server's double, whose behaviour is changed while clients use it; `demo/incidents.py` records it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from demo import stage
from demo.stage import Stage

_STRANGER = "127.0.0.3"
"""Address of the clients whose packets a policy denies."""


def _pool(role: str) -> str:
    """Return the command line of an engine of a prefill (producer) or decode (consumer) pool."""
    return f'serve warpline-double --kv-transfer-config {{"kv_connector":"NixlConnector","kv_role":"kv_{role}"}}'


@dataclass(frozen=True)
class Scene:
    """One incident: what happens, how it is played, which rules must fire on it, and with which thresholds."""

    about: str
    play: Callable[[Stage], Awaitable[None]]
    fires: tuple[str, ...] = ()
    thresholds: dict[str, float] = field(default_factory=dict)
    why_thresholds: str = ""
    pods: tuple[str, ...] = ()
    """Command lines of the pods that run in a cluster's double, where there is one."""
    views: tuple[str, ...] = ()
    """Views whose golden rows are kept beside those of every incident."""
    hubble: bool = False
    """Whether a double of Hubble tells of packets that are dropped."""
    together: bool = False
    """Whether the second engine runs from the start."""
    settings: dict[str, str] = field(default_factory=dict)
    why_settings: str = ""
    finding: str = ""
    """What must be told of the slowest inference request, among other things."""
    baseline: str = ""
    """The scene that stands for how it was a week before, for rules that compare with that."""
    height_s: tuple[int, int] | None = None
    """The part that is recorded where the incident goes on before and after it, in seconds after its start."""


async def healthy(on: Stage) -> None:
    """A small model's ordinary load: short prompts, short answers."""
    await on.arrive(3, 24, 12, 2)


async def long_prefill(on: Stage) -> None:
    """Three times fourteen clients are being answered when a prompt of 6,000 tokens comes."""
    for _ in range(3):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(14):
                tasks.create_task(on.ask(10, 70))
            await asyncio.sleep(0.1)
            tasks.create_task(on.ask(6000, 4))
        await asyncio.sleep(4)


async def preemption_storm(on: Stage) -> None:
    """A KV cache of 400 blocks under clients that would need 1,280."""
    await on.fault(kv_blocks=400, max_num_seqs=64)
    await on.converse(40, 17, 100, 400, stream=False)


async def thermal_throttling(on: Stage) -> None:
    """The GPU's clock falls to a tenth for fourteen seconds."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(on.arrive(1.5, 26, 20, 12))
        await asyncio.sleep(6)
        await on.fault(clock_ratio=0.1)
        await asyncio.sleep(14)
        await on.fault(clock_ratio=1)


async def packet_loss(on: Stage) -> None:
    """One packet in eight is lost between the proxy and the server."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(on.arrive(5, 22, 12, 6))
        await asyncio.sleep(4)
        with on.lossy_path(12):
            await asyncio.sleep(16)


async def noisy_neighbour(on: Stage) -> None:
    """A training job takes the GPU beside the engine."""
    with on.neighbour():
        await on.arrive(1.5, 26, 20, 6)


async def overload(on: Stage) -> None:
    """Twice the requests that the GPU can serve, with prompts of 1,500 tokens."""
    await on.fault(max_num_batched_tokens=2048)
    await on.arrive(20, 24, 1500, 2)


async def host_stalls(on: Stage) -> None:
    """The engine's process gets the CPU for few milliseconds of each third of a second, as under a tight CPU limit."""
    await on.fault(max_num_seqs=2)

    async def stall() -> None:
        while True:
            await on.stopped(on.server.engine_pid, 0.3)
            await asyncio.sleep(0.015)

    stalling = asyncio.create_task(stall())
    try:
        await on.arrive(4, 30, 12, 6)
    finally:
        stalling.cancel()


async def collector_stopped(on: Stage) -> None:
    """The collector does not run for twenty seconds, and then goes on."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(on.arrive(2, 28, 12, 6))
        await asyncio.sleep(4)
        await on.stopped(on.collector.pid, 20)


async def clock_step(on: Stage) -> None:
    """A node does not answer for twenty seconds, and comes back with a wall clock that is an hour ahead.

    The step is made for the collector alone (`demo/clock_step.c`).
    """
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(on.arrive(2, 32, 12, 2))
        await asyncio.sleep(4)
        stopped = tasks.create_task(on.stopped(on.collector.pid, 20))
        await asyncio.sleep(10)
        on.clock.step(3600)
        await stopped


async def gpu_memory_error(on: Stage) -> None:
    """The GPU finds an uncorrectable memory error, twice; the requests in flight end."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(on.converse(3, 20, 20, 40))
        for _ in range(2):
            await asyncio.sleep(6)
            await on.fault(memory_errors=1)


async def cold_start(on: Stage) -> None:
    """A second replica is wanted under load: no GPU is free for three seconds, its image of 12 GB is pulled, it starts."""
    assert on.cluster is not None
    load = asyncio.create_task(on.arrive(2, 28, 12, 4))
    await asyncio.sleep(2)
    pod = on.cluster.create("engine-1", stage.SECOND_HOST, ["serve", "warpline-double"])
    on.cluster.refuse(pod, "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    await asyncio.sleep(3)
    on.cluster.schedule(pod)
    await on.cluster.pull(pod, 12_000_000_000)
    on.cluster.run(pod)
    second = await on.begin_second()
    on.cluster.ready(pod)
    for _ in range(8):
        await on.ask(12, 4, url=second.url)
    await load


async def prefill_decode_imbalance(on: Stage) -> None:
    """Prefill and decode have an engine each; more prompts of 4,000 tokens come than the one for prefill can take.

    KV caches go from the one to the other by HTTP over the loopback, which moves less than a gigabyte each second.
    """
    await on.fault(max_num_batched_tokens=2048, max_num_seqs=2)
    end = time.monotonic() + 46
    async with asyncio.TaskGroup() as tasks:
        while time.monotonic() < end:
            tasks.create_task(on.ask_apart(4000, 3))
            await asyncio.sleep(1 / 8)


async def gpu_pressed(on: Stage) -> None:
    """A part of the weights lies in the host's memory and is read at each step, and somebody takes the GPU's memory."""
    await on.fault(weights_on_host_mb=2000, memory_taken_mib=65_600)
    await on.converse(4, 76, 12, 12)


async def slow_kernels(on: Stage) -> None:
    """After an update matrix multiplications take half again as long as they did the week before; the load is the same."""
    await on.fault(gemm_slowdown=1.5)
    await healthy(on)


async def policy_drops(on: Stage) -> None:
    """A policy denies three clients' packets for ten seconds; soon after, the agent that told of it dies."""
    assert on.hubble is not None
    load = asyncio.create_task(on.arrive(0.5, 150, 12, 2))
    await asyncio.sleep(4)
    with on.denied(_STRANGER):
        await asyncio.gather(*(on.ask_from(_STRANGER) for _ in range(3)))
    await asyncio.sleep(6)
    await asyncio.to_thread(on.hubble.die)
    await load


SCENES: dict[str, Scene] = {
    "healthy": Scene(
        "72 short completions by the model server's double, nothing changed",
        healthy,
    ),
    "long_prefill": Scene(
        "three prompts of 6,000 tokens, each while fourteen clients are being answered",
        long_prefill,
        ("prefill_delays_others",),
        finding="its tokens waited for the prompts of others in the same steps",
    ),
    "preemption_storm": Scene(
        "40 clients on a KV cache that holds a third of what they need",
        preemption_storm,
        ("preemption_storm", "kv_cache_full"),
        height_s=(3, 18),
        finding="its engine preempted",
    ),
    "thermal_throttling": Scene(
        "the GPU's clock falls to a tenth for fourteen seconds",
        thermal_throttling,
        ("gpu_throttled", "edge_latency"),
        settings={"alerts_edge_nodes": "*"},
        why_settings="a small model on a box at the edge, which has 50 ms for an answer",
        finding="its GPU 0 was throttled (thermal)",
    ),
    "packet_loss": Scene(
        "one packet in eight is lost between proxy and server for sixteen seconds",
        packet_loss,
        ("path_retransmits",),
        finding="packets were lost: 10 of 256 exchanges",
    ),
    "noisy_neighbour": Scene(
        "a training job takes the GPU beside the engine",
        noisy_neighbour,
        ("noisy_neighbour", "unexplained_share", "rows_lost"),
        finding="another process worked on its GPU meanwhile (python3.11 pid 1199)",
    ),
    "overload": Scene(
        "about twice the requests that the GPU can serve",
        overload,
        ("queue_growing", "ttft_objective", "gpu_saturated"),
        height_s=(3, 24),
        finding="GPU 0 of its node was 97% active (SM): saturated",
    ),
    "host_stalls": Scene(
        "the engine's process hardly gets the CPU",
        host_stalls,
        ("gpu_idle_while_waiting", "ttft_slow_on_idle_gpu", "tpot_objective"),
        finding="its GPU 0 was 3% active (SM): requests waited for the host, not for it",
    ),
    "collector_stopped": Scene(
        "the collector does not run for twenty seconds, while requests go on",
        collector_stopped,
        ("collector_silent",),
        finding="the collector on gpu-node-0 was silent for",
    ),
    "clock_step": Scene(
        "a node is silent for twenty seconds, and the wall clock that its collector reads steps by an hour",
        clock_step,
        ("collector_silent",),
        finding="the wall clock of gpu-node-0 was set forward by 60 min",
    ),
    "gpu_memory_error": Scene(
        "the GPU finds uncorrectable memory errors; the requests in flight end",
        gpu_memory_error,
        ("gpu_xid", "gpu_memory_errors"),
        finding="its GPU 0 reported XID 94",
    ),
    "cold_start": Scene(
        "a second replica is scheduled late, its image is pulled, it starts; the cluster is a double, the image simulated",
        cold_start,
        ("cold_start_slow",),
        {"cold_start_slow.most_s": 10},
        "a sample of half a minute has no start of five",
        pods=("serve warpline-double",),
        views=("cold_start",),
        finding="a cold start: pod llm/engine-1 was created",
    ),
    "prefill_decode_imbalance": Scene(
        "the prefill pool gets more prompts than it can take, while the decode pool idles; the cluster is a double",
        prefill_decode_imbalance,
        ("prefill_decode_imbalance", "kv_transfer_slow"),
        pods=(_pool("producer"), _pool("consumer")),
        together=True,
        height_s=(0, 56),
        finding="up to 91 requests waited in the queue of the engine at 127.0.0.1:40775 (prefill)",
    ),
    "gpu_pressed": Scene(
        "weights are read from the host at each step, and hardly any of the GPU's memory is free",
        gpu_pressed,
        ("gpu_memory_full", "interconnect_saturated"),
        {"interconnect_saturated.most_pcie_gb_s": 16},
        "the double's PCIe moves 20 GB/s at most",
        finding="its GPU 0 had 0.9% of its memory left",
    ),
    "slow_kernels": Scene(
        "matrix multiplications take half again as long as a week before",
        slow_kernels,
        ("kernel_time_per_token_up",),
        baseline="healthy",
    ),
    "policy_drops": Scene(
        "three clients' packets are denied for ten seconds; then the agent that told of it dies; Hubble is a double",
        policy_drops,
        ("path_drops", "source_down"),
        hubble=True,
        finding="packets to engine-0 (POLICY_DENIED) were dropped",
    ),
}
