"""BPF maps from Python: single entries and batches, by bpf(2), as numpy arrays."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collectors.bpf import syscall
from warpline.errors import SourceError

_PER_CPU_TYPES = (5, 6, 10, 21)  # per-CPU hash, array, LRU hash, storage

Array = npt.NDArray[Any]


def possible_cpus() -> int:
    """Return for how many CPUs a per-CPU map has values."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(text.replace("-", ",").split(",")[-1]) + 1


class Map:
    """One map behind a file descriptor, its keys and values as numpy dtypes.

    A per-CPU map's value is an array with one element a CPU. Raises SourceError where a dtype's size is not the map's.
    """

    def __init__(self, descriptor: int, key: npt.DTypeLike, value: npt.DTypeLike) -> None:
        """Take the map; the descriptor stays the caller's."""
        self.descriptor, self.key, self.value = descriptor, np.dtype(key), np.dtype(value)
        self.type, _, key_bytes, value_bytes, self.capacity = struct.unpack("<5I", syscall.object_info(descriptor, 20))
        if (key_bytes, value_bytes) != (self.key.itemsize, self.value.itemsize):
            raise SourceError(
                f"BPF map: its key and value have {key_bytes} and {value_bytes} bytes, "
                f"not {self.key.itemsize} and {self.value.itemsize}; the program and its reader differ"
            )
        self.cpus = possible_cpus() if self.type in _PER_CPU_TYPES else 0
        if self.cpus:  # The kernel rounds each CPU's value up to 8 bytes.
            room = (-value_bytes) % 8
            padded = np.dtype([("value", self.value), ("_", "u1", room)]) if room else np.dtype([("value", self.value)])
            self._stored = np.dtype((padded, (self.cpus,)))
        else:
            self._stored = self.value

    def get(self, key: Any) -> Any | None:
        """Return the value at `key`: an array scalar, or an array by CPU; None where there is none."""
        keys, values = np.array([key], self.key), np.zeros(1, self._stored)
        try:
            self._entry(syscall.MAP_LOOKUP, keys, values)
        except FileNotFoundError:
            return None
        return self._seen(values)[0]

    def set(self, key: Any, value: Any) -> None:
        """Store `value` at `key`; raises OSError (E2BIG) where the map is full."""
        keys, values = np.array([key], self.key), np.zeros(1, self._stored)
        if self.cpus:
            values["value"] = value
        else:
            values[0] = value
        self._entry(syscall.MAP_UPDATE, keys, values)

    def delete(self, key: Any) -> bool:
        """Take the entry at `key` out; return whether there was one."""
        try:
            keys = np.array([key], self.key)
            syscall.bpf(syscall.MAP_DELETE, struct.pack("<I4xQ", self.descriptor, keys.ctypes.data))
        except FileNotFoundError:
            return False
        return True

    def update(self, keys: Array, values: Array) -> None:
        """Store many entries with one system call."""
        keys, values = np.ascontiguousarray(keys, self.key), np.ascontiguousarray(values, self.value)
        if len(keys):
            self._batch(syscall.MAP_UPDATE_BATCH, keys, values, None, None)

    def items(self, delete: bool = False) -> tuple[Array, Array]:
        """Return all keys and values, about 0.4 µs an entry; with `delete` they are taken out in the same sweep."""
        command = syscall.MAP_LOOKUP_AND_DELETE_BATCH if delete else syscall.MAP_LOOKUP_BATCH
        keys, values = np.empty(self.capacity, self.key), np.empty(self.capacity, self._stored)
        position = ctypes.create_string_buffer(max(self.key.itemsize, 8))
        total, first = 0, True
        while total < self.capacity:
            got, more = self._batch(command, keys[total:], values[total:], None if first else position, position)
            total, first = total + got, False
            if not more:
                break
        return keys[:total], self._seen(values[:total])

    def _seen(self, values: Array) -> Array:
        return values["value"] if self.cpus else values

    def _entry(self, command: int, keys: Array, values: Array) -> None:
        syscall.bpf(command, struct.pack("<I4xQQQ", self.descriptor, keys.ctypes.data, values.ctypes.data, 0))

    def _batch(self, command: int, keys: Array, values: Array, start: Any, end: Any) -> tuple[int, bool]:
        """Run one batch command over the room of `keys`; return how many entries it moved and whether there are more."""
        attributes = struct.pack(
            "<QQQQIIQQ",
            ctypes.addressof(start) if start is not None else 0,
            ctypes.addressof(end) if end is not None else 0,
            keys.ctypes.data,
            values.ctypes.data,
            len(keys),
            self.descriptor,
            0,
            0,
        )
        room = ctypes.create_string_buffer(attributes, 152)
        failed = syscall.call(command, room) < 0
        code = ctypes.get_errno() if failed else 0
        if code not in (0, errno.ENOENT):
            raise OSError(code, os.strerror(code))
        moved = struct.unpack_from("<I", room.raw, 32)[0]
        return moved, code == 0  # ENOENT ends the sweep: the count is right, and there are no more.
