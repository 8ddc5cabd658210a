"""Faults of the matrix: what sources saw, changed as the world or a source changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warpline import schema

Seen = dict[str, pa.Table]
Fault = Callable[[Seen], Seen]
ENGINE = "n1:1:100"
SECOND = 1_000_000_000


def unchanged(seen: Seen) -> Seen:
    return seen


def one_after_the_other(*faults: Fault) -> Fault:
    def change(seen: Seen) -> Seen:
        for fault in faults:
            seen = fault(seen)
        return seen

    return change


# Loss


def losing(table: str, ratio: float) -> Fault:
    def lose(seen: Seen) -> Seen:
        kept = np.random.default_rng(9).random(len(seen[table])) >= ratio
        return {**seen, table: seen[table].filter(pa.array(kept))}

    return lose


def doubled(seen: Seen) -> Seen:
    return {name: pa.concat_tables([rows, rows]) for name, rows in seen.items()}


def burst(seen: Seen) -> Seen:
    """A quarter of a second in which nothing of the engine was seen."""
    names = ("engine_message", "engine_emission", "engine_event")
    times = seen["engine_message"]["time_ns"].to_numpy()
    low = int(times[len(times) // 2])
    apart = {
        n: (seen[n]["time_ns"].to_numpy() < low) | (seen[n]["time_ns"].to_numpy() > low + 250_000_000) for n in names
    }
    return {**seen, **{n: seen[n].filter(pa.array(kept)) for n, kept in apart.items()}}


def late(seen: Seen) -> Seen:
    """The engine was there before its wire was seen: neither requests, events nor messages of the first second."""
    names = ("engine_message", "engine_emission", "engine_event", "engine_request")
    column = {n: "start_ns" if n == "engine_request" else "time_ns" for n in names}
    since = int(seen["engine_message"]["time_ns"].to_numpy().min()) + SECOND
    return {**seen, **{n: seen[n].filter(pa.array(seen[n][column[n]].to_numpy() >= since)) for n in names}}


def without(*names: str) -> Fault:
    def leave(seen: Seen) -> Seen:
        return {name: rows for name, rows in seen.items() if name not in names}

    return leave


def without_engine(seen: Seen) -> Seen:
    """Nothing of the engine was seen, be it that its node has no collector: a decode whose prefill elsewhere is known."""
    return {name: rows for name, rows in seen.items() if not name.startswith("engine_")}


# Executions


def reversed_times(seen: Seen) -> Seen:
    """Executions that end before they begin: a bug of some CUPTI versions, which the collector marks."""
    return _invalid(seen, 11, "reversed")


def without_times(seen: Seen) -> Seen:
    """CUPTI's records without a time: start = end = 0 in its own words, `no_time` in ours."""
    return _invalid(seen, 7, "no_time")


def _invalid(seen: Seen, each: int, why: str) -> Seen:
    rows = seen["gpu_kernel"]
    words = pc.if_else(pa.array(np.arange(len(rows)) % each == 0), why, "ok").dictionary_encode()
    return {**seen, "gpu_kernel": rows.set_column(rows.schema.get_field_index("validity"), "validity", words)}


def whole_graphs(seen: Seen) -> Seen:
    """Each step is the replay of one CUDA graph, and only its whole was recorded: no class of its nodes is known."""
    rows = seen["gpu_kernel"].sort_by("start_ns")
    copies = pc.equal(rows["kind"].cast(pa.string()), "memcpy").to_numpy()
    step = np.concatenate([[0], np.cumsum(copies)[:-1]])
    first = np.flatnonzero(np.concatenate([[True], np.diff(step[~copies]) != 0]))
    nodes = rows.filter(pa.array(~copies))
    ends = np.maximum.reduceat(nodes["end_ns"].to_numpy(), first)
    graphs = nodes.take(pa.array(first))
    graphs = _with(graphs, end_ns=pa.array(ends), kind=_word("graph", graphs), kernel_class=_word("other", graphs))
    return {**seen, "gpu_kernel": _joined([graphs, rows.filter(pa.array(copies))])}


# Clocks


def gpu_clock(ahead_ns: int = 0, drift: float = 0.0) -> Fault:
    """The GPU's clock is ahead of its node's by so much, and gains on it."""

    def shift(seen: Seen) -> Seen:
        rows = seen["gpu_kernel"]
        for name in ("start_ns", "end_ns"):
            times = rows[name].to_numpy()
            moved = times + ahead_ns + ((times - times.min()) * drift).astype(np.int64)
            rows = _with(rows, **{name: pa.array(moved)})
        return {**seen, "gpu_kernel": rows}

    return shift


def stepped_clock(seen: Seen) -> Seen:
    """The node's clock is set a second forward in the middle: all that is stamped by it jumps."""
    middle = int(np.median(seen["gpu_kernel"]["start_ns"].to_numpy()))
    return _restamped(seen, lambda times: times + np.where(times >= middle, SECOND, 0))


def slewed_clock(seen: Seen) -> Seen:
    """NTP slews the node's clock by 500 ppm from the first quarter on; the GPU's own clock goes on as it did."""
    times = seen["gpu_kernel"]["start_ns"].to_numpy()
    since = int(np.quantile(times, 0.25))
    others = {name: rows for name, rows in seen.items() if name != "gpu_kernel"}
    slewed = _restamped(others, lambda t: t + np.where(t > since, (t - since) * 500 // 1_000_000, 0))
    return {**slewed, "gpu_kernel": seen["gpu_kernel"]}


def wall_clock(ahead_ns: int) -> Fault:
    """Spans are stamped by a wall clock that is another `ahead_ns` before what was read of it."""

    def shift(seen: Seen) -> Seen:
        rows = seen["span"]
        texts = [_later(text, ahead_ns) for text in rows["events"].to_pylist()]
        return {**seen, "span": _with(rows, events=pa.array(texts, rows.schema.field("events").type))}

    return shift


def _later(text: str | None, ns: int) -> str | None:
    if text is None:
        return None
    head, _, rest = text.partition('"time_ns": ')
    number, _, tail = rest.partition(",")
    return f'{head}"time_ns": {int(number) + ns},{tail}'


def _restamped(seen: Seen, change: Callable[[np.ndarray], np.ndarray]) -> Seen:
    moved = {}
    for table, rows in seen.items():
        for name in (n for n in rows.column_names if n.endswith("_ns") and pa.types.is_int64(rows[n].type)):
            known = pc.is_valid(rows[name])
            times = pa.array(change(rows[name].fill_null(0).to_numpy()))
            rows = _with(rows, **{name: pc.if_else(known, times, None)})
        moved[table] = rows
    return moved


# Ids


def wrapped_ids(seen: Seen) -> Seen:
    """CUPTI's correlation ids have 32 bits: they begin anew in the middle."""
    middle = int(np.median(seen["gpu_kernel"]["correlation_id"].to_numpy()))
    moved = dict(seen)
    for table in ("launch", "gpu_kernel"):
        numbers = (seen[table]["correlation_id"].to_numpy() + 2**32 - middle) % 2**32
        moved[table] = _with(seen[table], correlation_id=pa.array(numbers))
    return moved


def process_id_taken_again(seen: Seen) -> Seen:
    """Another program gets the engine's process id within the second: its launches have the ids that the engine's have."""
    return _beside(seen, "n/7/another-start", "GPU-of-another")


def _beside(seen: Seen, process: str, gpu: str) -> Seen:
    """Another process launches and runs the same."""
    moved = dict(seen)
    for table in ("launch", "gpu_kernel"):
        rows = _with(seen[table], process_uid=_word(process, seen[table]))
        rows = _with(rows, gpu_uuid=_word(gpu, rows)) if table == "gpu_kernel" else rows
        moved[table] = _joined([seen[table], rows])
    return moved


# Ranks of one step


def ranks(count: int, out_of_step: float = 0.0, quick: float = 1.0) -> Fault:
    """`count` workers, children of the engine, each run every step on a GPU of their own, and say so.

    The last rank had other members in `out_of_step` of the steps. Executions last `quick` times those of the rank before.
    """

    def change(seen: Seen) -> Seen:
        told = seen["engine_step"]
        other = np.random.default_rng(4).random(len(told)) < out_of_step
        steps, launches, kernels = [told], [], []
        for rank in range(count):
            uid = f"n1:1:{200 + rank}"
            hashes = told["member_hash"].to_numpy() + (other & (rank == count - 1))
            rows = _with(told, process_uid=_word(uid, told), member_hash=pa.array(hashes))
            steps.append(_with(rows, rank=pa.array(np.full(len(told), rank, np.int64))))
            launches.append(_with(seen["launch"], process_uid=_word(uid, seen["launch"])))
            own = _with(seen["gpu_kernel"], process_uid=_word(uid, seen["gpu_kernel"]))
            start, end = (own[n].to_numpy() for n in ("start_ns", "end_ns"))
            length = np.maximum(((end - start) * quick**rank).astype(np.int64), 1)
            kernels.append(_with(own, gpu_uuid=_word(f"GPU-{rank}", own), end_ns=pa.array(start + length)))
        family = {"process_uid": [f"n1:1:{200 + r}" for r in range(count)] + [ENGINE]}
        family["parent_uid"] = [ENGINE] * count + ["n1:1:50"]
        process = schema.table("process").batch({**family, "node": "n1", "start_ns": 1}, count + 1)
        joined = {"engine_step": steps, "launch": launches, "gpu_kernel": kernels}
        return {**seen, **{n: _joined(t) for n, t in joined.items()}, "process": pa.Table.from_batches([process])}

    return change


def out_of_step(seen: Seen) -> set[int]:
    """Return the steps whose ranks do not agree on who was in them."""
    rows = seen["engine_step"].group_by("ordinal").aggregate([("member_hash", "min"), ("member_hash", "max")])
    differ = pc.not_equal(rows["member_hash_min"], rows["member_hash_max"])
    return set(rows.filter(differ)["ordinal"].to_pylist())


def idle_replica(seen: Seen) -> Seen:
    """A data-parallel engine without requests runs a dummy step for each of the other's, as their collectives ask for."""
    uid, gpu = "n1:1:300", "GPU-idle"
    moved = _beside(seen, uid, gpu)
    for table in ("launch", "gpu_kernel"):
        rows = moved[table]
        idle = pc.equal(rows["process_uid"].cast(pa.string()), uid)
        moved[table] = _with(
            rows, step_ordinal=pc.if_else(idle, pc.subtract(-2, rows["step_ordinal"]), rows["step_ordinal"])
        )
    told = seen["engine_step"]
    dummy = _with(
        told,
        process_uid=_word(uid, told),
        ordinal=pc.subtract(-2, told["ordinal"]),
        member_hash=pa.array(np.zeros(len(told), np.int64)),
        scheduled_tokens=pa.array(np.zeros(len(told), np.int64)),
        dummy=pa.array([True] * len(told)),
        rank=pa.array(np.zeros(len(told), np.int64)),
    )
    return {**moved, "engine_step": _joined([told, dummy])}


def _with(rows: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, values)
    return rows


def _word(word: str, rows: pa.Table) -> pa.Array:
    return pa.array([word] * len(rows)).dictionary_encode()


def _joined(parts: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries()
