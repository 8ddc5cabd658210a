"""How fast the joins are: all again from raw rows, following a stream, and one request's steps afterwards.

The load is that of a busy engine: 50 executions, 6 launches and 60 requests a step, 120 steps a request, ten syscalls a
step. `BENCH_JOINS_KERNELS` sets its size (10,000,000 is what is promised; the default is a tenth, for everyday runs).
"""

from __future__ import annotations

import os
import resource
import tempfile
import time

import duckdb

from correlator.explain import explain
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

KERNELS = int(os.environ.get("BENCH_JOINS_KERNELS", "1000000"))
STEP_NS = 10_000_000
BASE = 1_700_000_000_000_000_000
STREAM_S = 16
"""Long enough that files of results are merged on the way, and no stretch that is computed reaches before the stream."""
EACH = 2000
"""Steps that are made and written at once."""

TABLES = {
    "launch": """
        SELECT begin_ns + k * {step} // 100 AS start_ns, begin_ns + k * {step} // 100 + 5000 AS end_ns,
            'n' AS node, 'p' AS process_uid, 0::BIGINT AS session, s * 6 + k AS correlation_id,
            'cudaLaunchKernel' AS api, s AS step_ordinal
        FROM steps, range(6) b(k)""",
    "gpu_kernel": """
        SELECT begin_ns + (k + 1) * {step} // 55 AS start_ns, begin_ns + (k + 2) * {step} // 55 - 99 - s % 7 AS end_ns,
            'n' AS node, 'p' AS process_uid, 'GPU-0' AS gpu_uuid, 7::BIGINT AS cuda_stream, 0::BIGINT AS session,
            s * 6 + k % 6 AS correlation_id, k AS graph_node_id, 'kernel_' || (k % 20) AS name, 'kernel' AS kind,
            CASE WHEN k % 5 = 1 THEN 'attention' WHEN k = 49 THEN 'sampling' ELSE 'gemm' END AS kernel_class
        FROM steps, range(50) b(k)""",
    "step_member": """
        SELECT begin_ns AS time_ns, 'n' AS node, 'p' AS process_uid, 0::BIGINT AS engine_index, s AS step_ordinal,
            'chatcmpl-' || lpad(((s - m * 2 + 120) // 120 * 60 + m)::VARCHAR, 8, '0') || '-0badcafe' AS internal_id,
            CASE WHEN (s - m * 2 + 120) % 120 = 0 THEN 512 ELSE 1 END::BIGINT AS scheduled_tokens,
            (s - m * 2 + 120) % 120 + 512 AS computed_before_tokens, true AS sampled,
            CASE WHEN (s - m * 2 + 120) % 120 = 0 THEN 'prefill' ELSE 'decode' END AS phase,
            'plugin' AS level, 'exact' AS evidence
        FROM steps, range(60) b(m)""",
    "syscall": """
        SELECT begin_ns + k * {step} // 11 AS start_ns, begin_ns + k * {step} // 11 + 2000 AS end_ns,
            'n' AS node, 'p' AS process_uid, 7::BIGINT AS thread_id, 'futex' AS name
        FROM steps, range(10) b(k)""",
    "http_exchange": """
        SELECT begin_ns AS start_ns, begin_ns + 120 * {step} AS end_ns, 'n' AS node, 'q' AS process_uid, 'server' AS side,
            s // 2 AS connection_id, 0::BIGINT AS ordinal, 200::BIGINT AS status, '/v1/completions' AS path,
            'chatcmpl-' || lpad((s // 2 + 60)::VARCHAR, 8, '0') AS response_id
        FROM steps WHERE s % 2 = 0""",
    "engine_request": """
        SELECT begin_ns AS start_ns, begin_ns + 120 * {step} AS end_ns, 'n' AS node, 'p' AS process_uid,
            'chatcmpl-' || lpad((s // 2 + 60)::VARCHAR, 8, '0') || '-0badcafe' AS internal_id,
            'chatcmpl-' || lpad((s // 2 + 60)::VARCHAR, 8, '0') AS external_id,
            512::BIGINT AS prompt_tokens, 120::BIGINT AS output_tokens
        FROM steps WHERE s % 2 = 0""",
}
_STEPS = "WITH steps AS (SELECT s, {base} + s * {step} AS begin_ns FROM range({low}, {high}) a(s))"


def fill(store: Store, low: int, high: int, base: int = BASE, step: int = STEP_NS) -> dict[str, int]:
    """Write the rows of steps [low, high) into the store; return how many there are of each table."""
    made = duckdb.connect()
    counts: dict[str, int] = dict.fromkeys(TABLES, 0)
    for start in range(low, high, EACH):
        for name, sql in TABLES.items():
            text = (_STEPS + sql).format(base=base, step=step, low=start, high=min(start + EACH, high))
            rows = made.sql(text).to_arrow_table()
            columns = {c: rows[c].combine_chunks() for c in rows.column_names}
            store.write([Batch(schema.table(name), schema.table(name).batch(columns, len(rows)), f"{name}/{start}")])
            counts[name] += len(rows)
    made.close()
    return counts


def run() -> None:
    steps = KERNELS // 50
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Settings(state_dir=directory, correlator_disk_reserve_mb=0, correlator_memory_limit_mb=3000))
        counts = fill(store, 0, steps)
        keys = " ".join(f"{n}={c}" for n, c in counts.items())
        joins = Joins(store.settings, store)
        cpu = time.process_time()
        took = _timed(joins.rebuild)
        cpu = time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        measured = store.query("SELECT sum(end_ns - start_ns)::BIGINT AS ns FROM gpu_kernel")["ns"][0].as_py()
        shared = store.query("SELECT sum(share_ns)::BIGINT AS ns, count(*) AS n FROM share").to_pylist()[0]
        if shared["ns"] != measured:
            raise AssertionError(f"shares sum to {shared['ns']}, executions to {measured}")
        print(f"FIGURE joins.rebuild_s {took:.1f} s limit=60 limit_at_kernels=10000000 shares={shared['n']} {keys}")
        print(
            f"FIGURE joins.rebuild_cpu_us {cpu / counts['gpu_kernel'] * 1e6:.2f} us per=kernel cpu_s={cpu:.1f} {keys}"
        )
        print(f"FIGURE joins.rebuild_rss_gb {peak:.2f} GB limit=8")
        print(f"FIGURE joins.timeline_ms {_timeline_ms(store, steps):.0f} ms limit=100")
        print(f"FIGURE joins.explain_cpu_ms {_explain_cpu_ms(store, steps):.0f} ms requests={counts['engine_request']}")
        lag = _lag_s(store, joins, steps)
        print(f"FIGURE joins.lag_s {lag:.2f} s limit=2 kernel_rows_per_s=50000 seconds={STREAM_S}")
        store.close()


def _timed(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def _timeline_ms(store: Store, steps: int) -> float:
    """Return how long the steps of one request in the middle take to come, in ms, median of seven."""
    start = BASE + steps // 2 * STEP_NS
    window = {"since_ns": start - 10**9, "until_ns": start + 130 * STEP_NS + 10**9}
    key = store.query("SELECT owner FROM share WHERE time_ns >= $since_ns AND time_ns < $until_ns LIMIT 1", window)[
        "owner"
    ][0].as_py()
    times = sorted(_timed(lambda: store.view("request_step", {"request": key, **window}).read_all()) for _ in range(7))
    return times[3] * 1000


def _explain_cpu_ms(store: Store, steps: int) -> float:
    """Return the CPU time of explaining one request in the middle, beside all of its peers, in ms, median of five."""
    key = f"chatcmpl-{steps // 4 + 60:08d}"
    times = []
    for _ in range(5):
        began = time.process_time()
        explain(lambda name, **asked: store.view(name, asked).read_all(), key)
        times.append(time.process_time() - began)
    return sorted(times)[2] * 1000


def _lag_s(store: Store, joins: Joins, steps: int) -> float:
    """Return how long after its rows were stored a second of 50,000 executions is joined, the worst of a stream."""
    worst, rate = 0.0, 1000
    for second in range(STREAM_S):
        low = steps + second * rate
        # A tenth of the step's length from here on: 50,000 executions a second.
        fill(store, low, low + rate, BASE + steps * (STEP_NS - STEP_NS // 10), STEP_NS // 10)
        worst = max(worst, _timed(joins.catch_up))
    return worst


if __name__ == "__main__":
    run()
