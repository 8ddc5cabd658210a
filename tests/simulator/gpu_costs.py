"""What a step costs on the simulated GPU: the engines' own model, which no estimator knows. Needs numpy alone.

Dense work has a floor (weights are read whatever the batch) that all members of a step cause alike; above it rows count.
Attention reads the context for a decoded token and multiplies for a chunk. Its constants are not those of
correlator/joins/attribution.py, and every kernel's time varies by 3 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
FLOOR_NS, ROW_NS = 4.8e6, 27e3
KERNELS = (("gemm", 0.55), ("attention", 1.0), ("gemm", 0.45), ("sampling", 1.0))
"""Executions of a step in their order: class, and its part of the class's cost. After them comes a copy to the host."""
COPY_NS, APART_NS = 10_000, 2_000


def members(tokens: Float, context: Float, sampled: Float) -> dict[str, Float]:
    """Return what each member of a step costs in each class, in ns; `context` is what it had computed before."""
    floor = FLOOR_NS / len(tokens)
    if tokens.sum() * ROW_NS > FLOOR_NS:
        dense = np.maximum(ROW_NS * tokens, floor * 0.05)
    else:
        dense = 0.5 * floor + 0.5 * FLOOR_NS * tokens / tokens.sum()
    chunk = 2.0 * tokens * (context + tokens / 2) + 4 * (context + tokens)
    attention = np.where(tokens == 1, 40 * (context + 1), chunk)
    return {"gemm": dense, "attention": attention, "sampling": 2000.0 * sampled}


def kernels(parts: dict[str, Float], random: np.random.Generator) -> list[tuple[str, int, int]]:
    """Return a step's executions: class, and begin and end in ns after the step's begin."""
    found, at = [], 0
    for name, ratio in KERNELS:
        base = parts[name].sum() * ratio + (150_000 if name == "sampling" else 0)
        took = int(base * random.lognormal(0, 0.03))
        found.append((name, at, at + took))
        at += took + APART_NS
    return [*found, ("memory", at, at + COPY_NS)]


def own(found: list[tuple[str, int, int]], parts: dict[str, Float], tokens: Float) -> Float:
    """Return the part of a step's measured time that each member caused, by the engine's own costs."""
    total = np.zeros(len(tokens))
    for name, start, end in found:
        weight = parts.get(name, tokens)
        weight = weight if weight.sum() > 0 else tokens
        total += (end - start) * weight / weight.sum()
    return total
