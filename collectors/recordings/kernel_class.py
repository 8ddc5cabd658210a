"""Which kind of work a GPU kernel does, told by its name: the one table of rules that all sources use.

The first rule that matches wins, so what a fused kernel mainly is stands before what it also does. Names are those of
cuBLAS/CUTLASS, hipBLASLt/Tensile, Composable Kernel, NCCL/RCCL, FlashAttention, FlashInfer, vLLM, SGLang, Triton and ATen.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

RULES: tuple[tuple[str, str], ...] = (
    ("communication", r"nccl|rccl|all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|cross_device_reduce|send_?recv"),
    ("communication", r"nvshmem|deep_ep|(?:inter|intra)node::|\bdispatch<|\bcombine<"),
    (
        "attention",
        r"attention|attn|flash_?(?:fwd|bwd)|flashinfer|fmha|\bmla\b|mla_|paged_|sdpa|BatchPrefill|BatchDecode",
    ),
    ("attention", r"reshape_and_cache"),
    ("sampling", r"sampl|argmax|top_?[kp]|multinomial|philox|distribution_elementwise|exponential_|penalt|logits"),
    ("sampling", r"radixSort|bitonicSort|sort_?kernel"),
    ("normalisation", r"norm|softmax|welford|\bbn_(?:fw|bw)"),
    (
        "gemm",
        r"gemm|gemv|cutlass|cublas|\bxmma|_mma_|wmma|matmul|Cijk_|hipblas|tensile|splitK|nvjet|bmm|dot_kernel|marlin",
    ),
    ("gemm", r"conv\d?d?_|convolve|conv2d|implicit_con|kernel_gr?_?conv|winograd|dgrad|wgrad"),
    ("gemm", r"fused_moe|moe_.*kernel"),
    (
        "memory",
        r"memcpy|memset|copy|concat|\bcat\b|CatArray|fill|gather|scatter|index|transpose|permute|embedding|slice",
    ),
    ("memory", r"pad|cast|quant|nchwToNhwc|nhwcToNchw"),
    (
        "elementwise",
        r"elementwise|vectorized|silu|gelu|relu|swiglu|act_and_mul|rotary|rope|pointwise|\badd_?kernel|mul_?kernel",
    ),
    ("elementwise", r"triton_(?:poi|red|per)|reduce|foreach|multi_tensor"),
)
"""(class, pattern searched in the name, case ignored)."""

_COMPILED = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in RULES)


def classify(name: str) -> str:
    """Return the kernel class of one name; `other` where no rule knows it."""
    return next((found for found, pattern in _COMPILED if pattern.search(name)), "other")


def classes(names: pa.DictionaryArray, kinds: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return the class of each execution by its name; copies and memsets are `memory`, a graph's whole replay has none."""
    known = pa.array([classify(name or "") for name in names.dictionary.to_pylist()], pa.string())
    by_name = known.take(names.indices)
    kind = kinds.cast(pa.string())
    moved = pc.is_in(kind, pa.array(["memcpy", "memset"]))
    whole = pc.is_in(kind, pa.array(["graph", "sync"]))
    found = pc.if_else(moved, "memory", pc.if_else(whole, pa.scalar(None, pa.string()), by_name))
    return found.dictionary_encode()
