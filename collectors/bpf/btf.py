"""Where the fields of this kernel's structs lie, read from its own BTF.

Kernel headers are never used: headers of another kernel compile, and then read wrong bytes without an error. A program names
what it needs as macros (`OFFSET_task_struct__files`, `SIZE_sock`, `ENUM_cgroup_subsys_id__memory_cgrp_id`) and `macros`
gives their values. Format: Documentation/bpf/btf.rst of the Linux kernel.
"""

from __future__ import annotations

import re
import struct
import threading
from array import array
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from warpline.errors import SourceError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_STRUCT, _UNION, _ENUM, _ENUM64 = 4, 5, 6, 19
_ALIASES = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag: the same layout under another name.
_EXTRA = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12)} | {
    17: (4, 0),
    19: (0, 12),
}
"""Bytes after a type's header, by kind: fixed, and for each member."""
_WORDS = struct.Struct("<III")
_MACRO = re.compile(r"\b(OFFSET|BIT|SIZE|ENUM)_([A-Za-z0-9_]+)\b")
_OPTIONAL = re.compile(r"#\s*if(?:n?def|\s+defined)\s*\(?\s*((?:OFFSET|BIT|SIZE|ENUM)_[A-Za-z0-9_]+)")


class Btf:
    """One BTF file, indexed by the names of its structs and enums."""

    def __init__(self, data: bytes, where: str = "BTF") -> None:
        """Index `data`; raise SourceError where it is not BTF of this machine's byte order."""
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != _MAGIC:
            raise SourceError(f"{where}: not BTF, its first bytes are {data[:4].hex() or 'none'}; give a BTF file")
        header, types, type_bytes, strings, string_bytes = struct.unpack_from("<IIIII", data, 4)
        self._types = data[header + types : header + types + type_bytes]
        self._strings = data[header + strings : header + strings + string_bytes]
        try:
            self._positions, self._named = self._index()
        except (struct.error, ValueError, IndexError) as error:
            raise SourceError(f"{where}: damaged BTF ({error!r}); give a whole file") from None

    def offset(self, of: str, path: str) -> int | None:
        """Return the byte offset of field `path` (dots descend, anonymous members are looked into); None if absent."""
        bits = self.bits(of, path)
        return None if bits is None else bits // 8

    def bits(self, of: str, path: str) -> int | None:
        """Return the offset of field `path` in bits: what a bit field needs; None if absent."""
        type_id, total = self._named.get((of, True)), 0
        for part in path.split("."):
            found = self._field(type_id, part.encode()) if type_id is not None else None
            if found is None:
                return None
            total, type_id = total + found[0], self._resolve(found[1])
        return total

    def size(self, of: str) -> int | None:
        """Return the size of struct `of` in bytes; None if absent."""
        type_id = self._named.get((of, True))
        return None if type_id is None else int(_WORDS.unpack_from(self._types, self._positions[type_id])[2])

    def enumerator(self, of: str, name: str) -> int | None:
        """Return the value of `name` in enum `of`; None if absent."""
        type_id = self._named.get((of, False))
        if type_id is None:
            return None
        position = self._positions[type_id]
        info = _WORDS.unpack_from(self._types, position)[1]
        step = 12 if (info >> 24) & 31 == _ENUM64 else 8
        for at in range(position + 12, position + 12 + step * (info & 0xFFFF), step):
            name_at, value = struct.unpack_from("<Ii", self._types, at)
            if self._string(name_at) == name.encode():
                return int(value)
        return None

    def _index(self) -> tuple[array[int], dict[tuple[str, bool], int]]:
        positions = array("I", [0])
        named: dict[tuple[str, bool], int] = {}
        at, end = 0, len(self._types)
        unpack, types = _WORDS.unpack_from, self._types
        while at < end:
            name_at, info, _ = unpack(types, at)
            kind, members = (info >> 24) & 31, info & 0xFFFF
            if name_at and members and kind in (_STRUCT, _UNION, _ENUM, _ENUM64):
                named.setdefault((self._string(name_at).decode(), kind in (_STRUCT, _UNION)), len(positions))
            positions.append(at)
            fixed, each = _EXTRA.get(kind, (0, 0))
            at += 12 + fixed + each * members
        return positions, named

    def _string(self, at: int) -> bytes:
        return self._strings[at : self._strings.index(b"\0", at)]

    def _members(self, type_id: int) -> Iterator[tuple[bytes, int, int]]:
        position = self._positions[type_id]
        info = _WORDS.unpack_from(self._types, position)[1]
        for number in range(info & 0xFFFF):
            name_at, member, bits = _WORDS.unpack_from(self._types, position + 12 + 12 * number)
            yield self._string(name_at), member, bits & 0xFFFFFF if info >> 31 else bits

    def _resolve(self, type_id: int) -> int:
        while True:
            _, info, target = _WORDS.unpack_from(self._types, self._positions[type_id])
            if (info >> 24) & 31 not in _ALIASES:
                return type_id
            type_id = target

    def _kind(self, type_id: int) -> int:
        return (_WORDS.unpack_from(self._types, self._positions[type_id])[1] >> 24) & 31 if type_id else 0

    def _field(self, type_id: int, name: bytes) -> tuple[int, int] | None:
        if self._kind(type_id) not in (_STRUCT, _UNION):
            return None
        for found, member, offset in self._members(type_id):
            if found == name:
                return offset, member
            if not found:
                inner = self._field(self._resolve(member), name)
                if inner is not None:
                    return offset + inner[0], inner[1]
        return None


def running_kernel() -> Btf:
    """Return the running kernel's BTF, read once; raise SourceError where it has none."""
    with _READING:  # Sources start at the same time, and each reading costs memory that a process keeps.
        return _read()


_READING = threading.Lock()


@lru_cache(maxsize=1)
def _read() -> Btf:
    try:
        return Btf(VMLINUX.read_bytes(), str(VMLINUX))
    except OSError as error:
        raise SourceError(f"{VMLINUX}: {error.strerror}; BPF needs a kernel with CONFIG_DEBUG_INFO_BTF") from None


def macros(text: str, btf: Btf | None = None) -> dict[str, int]:
    """Return the value of every layout macro that `text` names, as the running kernel has it.

    `OFFSET_s__f` is field f of struct s in bytes (a further `__` descends), `BIT_s__f` a bit field's place in that byte,
    `SIZE_s` a struct's size, `ENUM_e__v` a value.
    A macro that the text asks for by #ifdef may be absent; raises SourceError for any other that the kernel lacks.
    """
    known = btf or running_kernel()
    optional = set(_OPTIONAL.findall(text))
    found: dict[str, int] = {}
    for kind, rest in sorted(set(_MACRO.findall(text))):
        name = f"{kind}_{rest}"
        value = _value(known, kind, rest)
        if value is not None:
            found[name] = value
        elif name not in optional:
            raise SourceError(
                f"kernel BTF: has no {rest.replace('__', '.')}, which a probe reads; this kernel is not known"
            )
    return found


def _value(btf: Btf, kind: str, rest: str) -> int | None:
    owner, *path = rest.split("__")
    if kind == "SIZE":
        return btf.size(rest)
    if kind == "BIT":
        bits = btf.bits(owner, ".".join(path)) if path else None
        return None if bits is None else bits % 8
    if kind == "ENUM":
        return btf.enumerator(owner, path[0]) if path else None
    return btf.offset(owner, ".".join(path)) if path else None
