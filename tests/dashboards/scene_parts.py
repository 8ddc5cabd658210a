"""Names and helpers that the parts of the simulated scene share."""

from __future__ import annotations

from warpline import schema
from warpline.batch import Batch

SECOND, MILLI, MICRO = 1_000_000_000, 1_000_000, 1_000
NODE, CLIENT_NODE = "gpu-node-1", "client-node"
SERVER, ENGINE, CLIENT = f"{NODE}:500:4100", f"{NODE}:510:4200", f"{CLIENT_NODE}:900:777"
REQUEST_ID = "7b3f2a10-44aa-4c1e-9f00-0000000000aa"
RESPONSE_ID = f"chatcmpl-{REQUEST_ID}"
INTERNAL_ID = f"{RESPONSE_ID}-deadbeef"
MODEL = "llama-3.1-70b"


def batch(table: str, **columns: object) -> Batch:
    """Return a batch of a table."""
    declared = schema.table(table)
    return Batch(declared, declared.batch(columns))


def uuid(gpu: int) -> str:
    """Return a GPU's UUID: as with real ones, its first part tells it from the others."""
    return f"GPU-5e1f{gpu:04d}-aaaa-bbbb-cccc-{gpu:012d}"
