"""What sources would have seen of a recorded run of vLLM's scheduler (vllm_engine.py), and apart from that what was.

The wire's bytes go through the collector's own decoder, messages that were lost through its own rule for gaps.
"""

from __future__ import annotations

import itertools
import json
import lzma
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from collectors.wire import vllm_messages as vllm
from collectors.wire.engine_state import Engine
from tests.simulator import gpu_costs, toy_trace
from tests.simulator.conditions import CONDITIONS, RECORDED
from warpline import schema

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDINGS = Path(__file__).parent / "recordings"
TRACES = ROOT.parent / "shared" / "data" / "workload"
BASE = 1_700_000_000_000_000_000
LEVELS = ("plugin", "wire", "batches", "totals", "spans", "sockets")
PREEMPTED = 3
SERVER, ENGINE, MS = "n1:1:50", "n1:1:100", 1_000_000
_PROCESS = {"node": "n1", "process_uid": ENGINE, "simulated": True}


def python_with_vllm() -> str | None:
    """Return the Python that has vLLM: that of VLLM_PYTHON, or of the environment `.venv-vllm`."""
    named = os.environ.get("VLLM_PYTHON") or str(ROOT / ".venv-vllm" / "bin" / "python")
    return shutil.which(named)


def record(folder: Path, names: list[str], seed: int = RECORDED) -> None:
    """Run vLLM's scheduler anew under the conditions named. Raises CalledProcessError."""
    plans = {name: {**CONDITIONS[name], "seed": seed} for name in names}
    script = Path(__file__).parent / "vllm_engine.py"
    command = [str(python_with_vllm()), str(script), json.dumps(plans), str(TRACES), str(folder)]
    subprocess.run(
        command, check=True, cwd=script.parent, timeout=1800, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def tables(batches: dict[str, pa.RecordBatch]) -> dict[str, pa.Table]:
    return {name: pa.Table.from_batches([rows]) for name, rows in batches.items()}


def _without(rows: pa.RecordBatch, lost: float, seed: int) -> pa.RecordBatch:
    return rows.filter(pa.array(np.random.default_rng(seed).random(len(rows)) >= lost))


def _runs(request: np.ndarray, marked: np.ndarray) -> list[list[int]]:
    """Return the marked rows of each request in runs that no other row of it interrupts."""
    found: list[list[int]] = []
    order = np.lexsort((np.arange(len(request)), request))
    before = -1
    for row in order.tolist():
        goes_on = before >= 0 and marked[before] and request[before] == request[row]
        if marked[row]:
            found[-1].append(row) if goes_on else found.append([row])
        before = row
    return found


class Recording:
    """One recorded run: columns as vllm_engine.py wrote them."""

    def __init__(self, name: str, folder: Path = RECORDINGS) -> None:
        told = msgspec.msgpack.decode(lzma.decompress((folder / f"{name}.msgpack.xz").read_bytes()))
        self.vllm, self.plan = told["vllm"], told["plan"]
        self.sent, self.heard = list(zip(*told["to_engine"], strict=True)), list(zip(*told["from_engine"], strict=True))
        numbers = {t: [np.array(c) for c in told[t]] for t in ("step", "total", "member", "kernel", "request")}
        self.scheduled, self.start, self.end = (BASE + c for c in numbers["step"])
        self.totals = numbers["total"]
        self.step, self.request, self.tokens, self.context, self.sampled, self.again, self.draft = numbers["member"]
        self.kernel_step, self.kernel_class, low, high = numbers["kernel"]
        self.kernel_start, self.kernel_end = BASE + low, BASE + high
        self.names, self.arrive, self.prompt, self.output = numbers["request"]
        self.names, self.arrive = self.names.tolist(), BASE + self.arrive

    @cached_property
    def preemptions(self) -> int:
        """Return how often a request was preempted, as the wire's own events say."""
        said = (vllm.read_outputs(body) for _, body in self.heard)
        return sum(e.type == PREEMPTED for each in said for output in each.outputs for e in output.events or ())

    def truth(self) -> dict[str, pa.Table]:
        """Return the tables `member`, with what each member cost the engine, `step` and `kernel`."""
        return {
            "member": pa.table(
                {
                    "step": self.step,
                    "internal_id": np.array(self.names)[self.request],
                    "scheduled_tokens": self.tokens,
                    "computed_before_tokens": self.context,
                    "sampled": self.sampled * (1 + self.draft),
                    "recomputed_tokens": self.again,
                    "cost_ns": self._costs(),
                }
            ),
            "step": pa.table(
                {
                    "step": np.arange(len(self.start)),
                    "scheduled_ns": self.scheduled,
                    "start_ns": self.start,
                    "end_ns": self.end,
                }
            ),
            "kernel": pa.table(
                {"step": self.kernel_step, "class": self.kernel_class, "ns": self.kernel_end - self.kernel_start}
            ),
        }

    def _costs(self) -> np.ndarray:
        """Return what each member cost, by the engine's own costs and the measured times of its step's executions."""
        first = np.searchsorted(self.step, np.arange(len(self.start) + 1))
        each = np.searchsorted(self.kernel_step, np.arange(len(self.start) + 1))
        costs = []
        for s in range(len(self.start)):
            rows, ran = slice(first[s], first[s + 1]), slice(each[s], each[s + 1])
            tokens = self.tokens[rows].astype(float)
            sampled = (self.sampled * (1 + self.draft))[rows].astype(float)
            parts = gpu_costs.members(tokens, self.context[rows].astype(float), sampled)
            executed = zip(self.kernel_class[ran], self.kernel_start[ran], self.kernel_end[ran], strict=True)
            costs.append(gpu_costs.own(list(executed), parts, tokens))
        return np.concatenate(costs)

    def seen(self, level: str, lost: float = 0.0, seed: int = 0) -> dict[str, pa.RecordBatch]:
        """Return what sources see up to `level`: executions and launches always, of the engine what its level tells.

        `lost` is the share of messages (plugin: of steps; else of spans or exchanges) that are not seen.
        """
        kept = np.random.default_rng(seed).random(len(self.start)) >= lost
        found = self._gpu(level == "plugin")
        if level in ("plugin", "wire", "totals"):
            found |= self._wire(kept if level != "plugin" else np.ones(len(kept), bool))
        if level == "plugin":
            found["step_member"] = self._members(kept)
        if level == "totals":
            del found["engine_emission"]
            found["engine_message"] = self._with_totals(found["engine_message"], kept)
        if level in ("spans", "sockets"):
            found["http_exchange"] = _without(self._exchanges(), lost if level == "sockets" else 0.0, seed)
        if level == "spans":
            found["span"] = _without(self._spans(), lost, seed)
        if level == "batches":
            found |= toy_trace.spans(self._traced(), lost, seed)
        return found

    def _traced(self) -> toy_trace.Traced:
        """Return the run as SGLang's trace would tell it, were this schedule its own: prompts among decodes."""
        first = np.searchsorted(self.step, np.arange(len(self.start) + 1))
        decode = (self.tokens == self.draft + 1) & (self.context > 0)
        cached = np.zeros(len(self.names), np.int64)
        cached[self.request[::-1]] = self.context[::-1]
        again = [run[0] for run in _runs(self.request, self.again > 0)]
        steps = [
            (int(self.scheduled[s]), self.request[low:high].tolist(), bool(decode[low:high].all()))
            for s, (low, high) in enumerate(itertools.pairwise(first.tolist()))
        ]
        retracted = [(int(self.scheduled[self.step[r]]) - 1, int(self.request[r])) for r in again]
        return toy_trace.Traced(
            self.names, self.arrive.tolist(), self.prompt.tolist(), cached.tolist(), steps, retracted
        )

    def _wire(self, kept: np.ndarray) -> dict[str, pa.RecordBatch]:
        engine = Engine(lambda seconds: BASE + round(seconds * 1e9))
        said = [(at, True, body, True) for at, body in self.sent]
        said += [(at, False, body, bool(k)) for (at, body), k in zip(self.heard, kept.tolist(), strict=True)]
        after_gap = False
        for at, to_engine, body, whole in sorted(said, key=lambda each: each[0]):
            if to_engine:
                engine.add_request(vllm.read_request(body), BASE + at)
            elif whole:
                engine.add_outputs(vllm.read_outputs(body), BASE + at, len(body), after_gap)
            after_gap = (after_gap and to_engine) or not whole
        return {
            name: schema.table(name).batch({**columns, **_PROCESS, "engine_index": 0})
            for name, columns in engine.take().items()
        }

    def _with_totals(self, messages: pa.RecordBatch, kept: np.ndarray) -> pa.RecordBatch:
        for column, values in zip(("context_tokens", "generation_tokens"), self.totals, strict=True):
            place = messages.schema.get_field_index(column)
            messages = messages.set_column(place, messages.schema.field(place), pa.array(values[kept], pa.int64()))
        return messages

    def _members(self, kept: np.ndarray) -> pa.RecordBatch:
        rows = kept[self.step]
        step = self.step[rows]
        decode = (self.tokens == self.draft + 1) & (self.context > 0)
        phase = np.where(self.again > 0, "recompute", np.where(decode, "decode", "prefill"))[rows]
        columns = {
            "time_ns": self.scheduled[step],
            "step_ordinal": step,
            "internal_id": np.array(self.names)[self.request[rows]].tolist(),
            "scheduled_tokens": self.tokens[rows],
            "computed_before_tokens": self.context[rows],
            "draft_tokens": self.draft[rows],
            "accepted_tokens": np.where(self.sampled, self.draft, 0)[rows],
            "recomputed_tokens": self.again[rows],
            "sampled": self.sampled[rows] > 0,
            "phase": phase.tolist(),
        }
        told = {"level": "plugin", "evidence": "exact", "confidence": 1.0, "engine_index": 0}
        return schema.table("step_member").batch({**columns, **told, **_PROCESS}, len(step))

    def _gpu(self, stamped: bool) -> dict[str, pa.RecordBatch]:
        rows = len(self.kernel_step)
        place = np.arange(rows) - np.searchsorted(self.kernel_step, self.kernel_step)
        at = self.scheduled[self.kernel_step] + MS // 10 + place * MS // 5
        same = {**_PROCESS, "session": 0, "correlation_id": np.arange(rows)}
        launch = {"start_ns": at, "end_ns": at + 5000, "api": "cudaLaunchKernel", "thread_id": 100, **same}
        if stamped:
            launch["step_ordinal"] = self.kernel_step
        classes = self.kernel_class.tolist()
        kernel = {
            "start_ns": self.kernel_start,
            "end_ns": self.kernel_end,
            "kernel_class": classes,
            "kind": ["memcpy" if c == "memory" else "kernel" for c in classes],
            "gpu_uuid": "GPU-0",
            **same,
        }
        process = {"process_uid": [SERVER, ENGINE], "parent_uid": [None, SERVER], "node": "n1", "start_ns": BASE - 1}
        return {
            "launch": schema.table("launch").batch(launch, rows),
            "gpu_kernel": schema.table("gpu_kernel").batch(kernel, rows),
            "process": schema.table("process").batch(process, 2),
        }

    def _lives(self) -> dict[str, np.ndarray]:
        """Return when each request was scheduled, and when its first and last tokens had left the engine."""
        count = len(self.names)
        scheduled, first, last = np.full(count, 2**62), np.full(count, 2**62), np.zeros(count, np.int64)
        np.minimum.at(scheduled, self.request, self.scheduled[self.step])
        gives = self.sampled > 0
        told = self.end[self.step[gives]] + 150_000
        np.minimum.at(first, self.request[gives], told)
        # The last token is in the step that is the output's last: what was scheduled beyond it gave nothing.
        order = np.lexsort((self.step[gives], self.request[gives]))
        of, at = self.request[gives][order], told[order]
        begin = np.searchsorted(of, np.arange(count))
        number = np.searchsorted(of, np.arange(count), side="right") - begin
        extra = 1 if self.plan["asynchronous"] else 0
        last = at[begin + np.maximum(number - 1 - extra * (number > self.output), 0)]
        return {"scheduled": scheduled, "first": first, "last": last}

    def _external(self) -> list[str]:
        return [name.rpartition("-")[0] for name in self.names]

    def _spans(self) -> pa.RecordBatch:
        lives = self._lives()
        seconds = {
            "gen_ai.latency.time_in_queue": lives["scheduled"] - self.arrive,
            "gen_ai.latency.time_to_first_token": lives["first"] - self.arrive + 200_000,
            "gen_ai.latency.e2e": lives["last"] - self.arrive + 300_000,
            "gen_ai.latency.time_in_model_prefill": lives["first"] - lives["scheduled"],
            "gen_ai.latency.time_in_model_decode": lives["last"] - lives["first"],
        }
        told = zip(*(v.tolist() for v in seconds.values()), strict=True)
        attributes = [json.dumps({k: v / 1e9 for k, v in zip(seconds, row, strict=True)}) for row in told]
        columns: dict[str, Any] = {
            "start_ns": self.arrive,
            "end_ns": lives["last"] + 300_000,
            "trace_id": [(n + 1).to_bytes(16, "big") for n in range(len(self.names))],
            "span_id": np.arange(len(self.names)) + 1,
            "name": "llm_request",
            "request_id": self._external(),
            "input_tokens": self.prompt,
            "output_tokens": self.output,
            "attributes": attributes,
        }
        return schema.table("span").batch(columns, len(self.names))

    def _exchanges(self) -> pa.RecordBatch:
        """Return the server's ends; seven of ten answers are streamed, a token is 3 to 5 bytes of a prompt."""
        lives, count, random = self._lives(), len(self.names), np.random.default_rng(3)
        streamed = random.random(count) < 0.7
        columns = {
            "start_ns": self.arrive - 2 * MS,
            "end_ns": lives["last"] + MS,
            "side": "server",
            "connection_id": np.arange(count),
            "ordinal": 0,
            "response_id": self._external(),
            "path": "/v1/chat/completions",
            "status": 200,
            "request_end_ns": self.arrive - MS,
            "first_body_ns": np.where(streamed, lives["first"], lives["last"]) + MS // 2,
            "last_chunk_ns": lives["last"] + MS // 2,
            "request_bytes": (self.prompt * random.uniform(3, 5, count)).astype(np.int64),
            "response_bytes": self.output * 4,
            "chunks": np.where(streamed, self.output + 1, 1),
        }
        return schema.table("http_exchange").batch({**columns, "node": "n1", "process_uid": SERVER}, count)
