"""Identity for whole batches: process uids, and containers by the cgroup ids that BPF programs give."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.identity.cgroup import Container, container_of
from collectors.identity.proc import TICK_NS, process_uid

ROOT = Path("/sys/fs/cgroup")
_AGAIN_S = 0.5


def process_uids(node: str, start_since_boot_ns: npt.NDArray[Any], pids: npt.NDArray[Any]) -> pa.DictionaryArray:
    """Return the uid of each row's process, dictionary-encoded: each process's text is made once."""
    # One whole number a process: a pid has at most 22 bits, and ticks since boot have room for centuries.
    both = (start_since_boot_ns.astype(np.int64) // TICK_NS) << 22 | pids.astype(np.int64)
    known, numbers = np.unique(both, return_inverse=True)
    texts = [process_uid(node, (each >> 22) * TICK_NS, each & 0x3FFFFF) for each in known.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32)), pa.array(texts, pa.string()))


def hierarchy(root: Path = ROOT) -> Path:
    """Return the directory whose cgroups hold the pods: the unified hierarchy, or version 1's memory controller."""
    if (root / "cgroup.controllers").exists():
        return root
    return next((root / name for name in ("memory", "unified") if (root / name).is_dir()), root)


class Cgroups:
    """Paths of cgroups by id, the inode of the cgroup's directory. One that was removed is still known: its last rows come
    after it."""

    def __init__(self, root: Path | None = None) -> None:
        """Look at every cgroup under `root` once."""
        self.root = root or hierarchy()
        self._paths: dict[int, str] = {}
        self._looked_s = 0.0
        self._look()

    def path(self, cgroup_id: int) -> str | None:
        """Return the path of a cgroup below the hierarchy; None where it was never seen.

        An id that is not known makes it look again, at most twice a second.
        """
        if cgroup_id not in self._paths and time.monotonic() - self._looked_s > _AGAIN_S:
            self._look()
        return self._paths.get(cgroup_id)

    def container(self, cgroup_id: int) -> Container | None:
        """Return the container of a cgroup, or None outside of containers."""
        return container_of(self.path(cgroup_id) or "")

    def columns(self, cgroup_ids: npt.NDArray[Any]) -> dict[str, pa.DictionaryArray]:
        """Return the columns `container_id` and `pod_uid` of a batch, dictionary-encoded."""
        known, numbers = np.unique(cgroup_ids, return_inverse=True)
        found = [self.container(each) for each in known.tolist()]
        codes = pa.array(numbers.astype(np.int32))
        texts = {
            "container_id": [each.container_id if each else None for each in found],
            "pod_uid": [each.pod_uid if each else None for each in found],
        }
        return {name: _coded(codes, text) for name, text in texts.items()}

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        start = len(str(self.root))
        for directory, _, _ in os.walk(self.root):
            try:
                self._paths[os.stat(directory).st_ino] = directory[start:] or "/"
            except OSError:  # Removed while we looked.
                continue


def _coded(codes: pa.Array, texts: list[str | None]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(texts, pa.string()))
