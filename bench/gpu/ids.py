"""Whether a callback's correlation id is the execution's, kind of launch by kind of launch; and whether times stay valid.

`python -m bench.gpu.ids counts` launches known numbers of eager, cuBLAS, graph and Triton kernels and copies.
`python -m bench.gpu.ids many N` runs N small kernels, a thousand to a graph. `bench.gpu.run` runs both under the library
and counts rows.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_NODES = 1000


def counts() -> None:
    """499 elementwise kernels, 101 cuBLAS products, 37 replays of a graph of 11 nodes, 53 Triton kernels, 31 copies."""
    import torch  # Only a machine with a GPU has it.

    small, square = torch.ones(1024, device="cuda"), torch.ones(256, 256, device="cuda")
    for _ in range(499):
        small.add_(1)
    for _ in range(101):
        torch.mm(square, square)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(11):
            small.mul_(1)
    for _ in range(37):
        graph.replay()
    if importlib.util.find_spec("triton"):
        _triton(small)
    host = torch.ones(1024, pin_memory=True)
    for _ in range(31):
        small.copy_(host, non_blocking=True)
    torch.cuda.synchronize()


def _triton(values: Any) -> None:
    """53 kernels that Triton compiles: torch.compile of one expression makes one kernel."""
    import torch

    compiled = torch.compile(lambda x: x * 2 + 1)
    for _ in range(53):
        compiled(values)


def many(count: int) -> None:
    """`count` kernels of a microsecond or so, as nodes of one graph: launched one by one they would take minutes."""
    import torch

    small, graph = torch.ones(32, device="cuda"), torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for _ in range(_NODES):
            small.add_(1)
    for done in range(count // _NODES):
        graph.replay()
        if done % 100 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()


if __name__ == "__main__":
    if sys.argv[1] == "many":
        many(int(sys.argv[2]))
    else:
        counts()
