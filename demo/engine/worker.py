"""The model, as far as a GPU sees it: which kernels a step launches and how long each lasts.

The model is a transformer in 4 groups of layers on one GPU; durations follow a roofline. Weights are read once per step,
so a small batch costs what a batch of 64 costs; beyond, time grows with the tokens. Attention of a decode reads the
context's KV cache, that of a prompt multiplies every pair. A step of decodes only is one CUDA graph, made for batch sizes
of powers of two; the rows beyond the batch are computed too. Any other step launches its kernels one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

from demo.cuda_double.driver import Driver, Graph
from demo.engine.scheduler import SchedulerOutput

GROUPS = 4
GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_WEIGHTS_NS = 2_400_000
_TOKEN_NS = 38_000
_KV_NS_PER_TOKEN = 40
_PAIR_NS = 2
_NORM_NS = 6_000
_LOGITS_NS, _LOGITS_ROW_NS = 150_000, 2_000
_TOKEN_BYTES = 4


@dataclass
class ModelRunnerOutput:
    """What a step gave, by request."""

    req_ids: list[str]
    sampled_token_ids: list[list[int]]


class Worker:
    """Runs steps on the GPU."""

    rank = 0

    def __init__(self) -> None:
        """Take the GPU, and capture one graph for each batch size."""
        self.driver = Driver()
        self.stream = self.driver.stream()
        self._graphs: dict[int, Graph] = {size: self._capture() for size in GRAPH_SIZES}
        self.padded = 0
        self.gemm_slowdown = 1.0
        """How many times as long as ever matrix multiplications take."""
        self.weights_on_host = 0
        """Bytes of weights that do not fit on the device: each step reads them from the host."""
        self.received_bytes = self.sent_bytes = 0

    def _capture(self) -> Graph:
        return self.driver.capture([kernel for _ in range(GROUPS) for kernel in _group(0, 0)])

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step and wait for its tokens."""
        members = scheduler_output.members
        if not members:
            return ModelRunnerOutput([], [])
        tokens = scheduler_output.total_num_scheduled_tokens
        attention = sum(_attention_ns(request.computed, amount) for request, amount in members)
        self._receive(tokens * _TOKEN_BYTES)
        if self.weights_on_host:
            self._receive(self.weights_on_host)
        size = next((each for each in GRAPH_SIZES if each >= len(members)), 0)
        if size and all(amount == 1 for _, amount in members):
            self._replay(size, attention)
        else:
            self._launch(tokens, attention)
        sampled = [request.computed + amount >= request.length for request, amount in members]
        self._sample(sum(sampled))
        outputs = [[request.output] if got else [] for (request, _), got in zip(members, sampled, strict=True)]
        return ModelRunnerOutput([request.request_id for request, _ in members], outputs)

    def _receive(self, count: int) -> None:
        self.driver.copy(count, self.stream)
        self.received_bytes += count

    def _replay(self, size: int, attention_ns: int) -> None:
        self.padded = size
        group = _group(size, attention_ns, self.gemm_slowdown)
        durations = [duration for _ in range(GROUPS) for _, duration in group]
        self.driver.set_durations(self._graphs[size], durations)
        self.driver.replay(self._graphs[size], self.stream)

    def _launch(self, tokens: int, attention_ns: int) -> None:
        self.padded = tokens
        self.driver.launch("vocab_embedding_kernel", 2_000 + 20 * tokens, self.stream)
        for _ in range(GROUPS):
            for name, duration_ns in _group(tokens, attention_ns, self.gemm_slowdown):
                self.driver.launch(name, duration_ns, self.stream)

    def _sample(self, rows: int) -> None:
        if rows:
            self.driver.launch("logits_gemm_kernel", _LOGITS_NS + _LOGITS_ROW_NS * rows, self.stream)
            self.driver.launch("topk_sampling_kernel", 20_000 + 300 * rows, self.stream)
            self.driver.copy(rows * _TOKEN_BYTES, self.stream, to_host=True)
            self.sent_bytes += rows * _TOKEN_BYTES
        self.driver.wait(self.stream)


def _attention_ns(context: int, tokens: int) -> int:
    """Time of one request's attention in all layers, at full clock."""
    if tokens == 1:
        return _KV_NS_PER_TOKEN * (context + 1)
    return _PAIR_NS * tokens * (context + tokens // 2) + _KV_NS_PER_TOKEN * context // 10


def _group(rows: int, attention_ns: int, gemm_slowdown: float = 1.0) -> list[tuple[str, int]]:
    """The kernels of one group of layers, and what each lasts."""
    dense = int(max(_WEIGHTS_NS, _TOKEN_NS * rows) * gemm_slowdown) // GROUPS
    return [
        ("rms_norm_kernel", _NORM_NS + 10 * rows),
        ("qkv_gemm_kernel", dense // 3),
        ("paged_attention_kernel", 4_000 + attention_ns // GROUPS),
        ("mlp_gemm_kernel", dense - dense // 3),
    ]
