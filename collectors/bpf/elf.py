"""Where functions lie in an ELF file: file offsets of symbols, for uprobes. 64-bit little-endian only (System V ABI)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warpline.errors import SourceError

_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_WORD, _LONG = "<u4", "<u8"
_SECTION = np.dtype(
    {
        "names": ["name", "type", "flags", "address", "offset", "size", "link", "info", "alignment", "entry"],
        "formats": [_WORD, _WORD, _LONG, _LONG, _LONG, _LONG, _WORD, _WORD, _LONG, _LONG],
    }
)
_SEGMENT = np.dtype(
    {
        "names": ["type", "flags", "offset", "address", "physical", "in_file", "in_memory", "alignment"],
        "formats": [_WORD, _WORD, _LONG, _LONG, _LONG, _LONG, _LONG, _LONG],
    }
)
_SYMBOL_TABLES = (2, 11)  # .symtab and .dynsym
_LOAD, _EXECUTABLE = 1, 1
_FUNCTIONS = (2, 10)  # STT_FUNC and STT_GNU_IFUNC

Array = npt.NDArray[Any]


def symbols(path: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the file offset of each function of `names` that `path` defines; absent ones are left out.

    Raises SourceError where the file cannot be read or is not such an ELF file.
    """
    wanted = {name.encode(): name for name in names}
    try:
        data: Any = np.memmap(path, np.uint8, "r")
        return _find(data, wanted)
    except (OSError, ValueError, struct.error, IndexError) as error:
        raise SourceError(f"{path}: cannot be read as an ELF file ({error}); give an executable or a library") from None


def first_bytes(path: Path, offset: int, length: int = 16) -> bytes:
    """Return the first bytes of the function at file `offset`: what decides a uprobe's price."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _find(data: Array, wanted: dict[bytes, str]) -> dict[str, int]:
    head = data[:64].tobytes()
    if head[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"its first bytes are {head[:6].hex()}")
    segments_at, sections_at = struct.unpack_from("<QQ", head, 32)
    segment_count, _, section_count = struct.unpack_from("<HHH", head, 56)
    segments = _table(data, segments_at, segment_count, _SEGMENT)
    sections = _table(data, sections_at, section_count, _SECTION)
    code = segments[(segments["type"] == _LOAD) & ((segments["flags"] & _EXECUTABLE) != 0)]
    found: dict[str, int] = {}
    for section in sections[np.isin(sections["type"], _SYMBOL_TABLES)]:
        strings = sections[section["link"]]
        text = data[int(strings["offset"]) : int(strings["offset"] + strings["size"])].tobytes()
        table = _table(data, int(section["offset"]), int(section["size"]) // _SYMBOL.itemsize, _SYMBOL)
        table = table[np.isin(table["info"] & 15, _FUNCTIONS) & (table["section"] != 0)]
        for name, label in wanted.items():
            value = _value(table, text, name)
            offset = None if value is None else _file_offset(code, value)
            if offset is not None:
                found.setdefault(label, offset)
    return found


def _table(data: Array, at: int, count: int, kind: np.dtype[Any]) -> Array:
    block = data[at : at + count * kind.itemsize]
    if len(block) != count * kind.itemsize:
        raise ValueError("a table ends beyond the file")
    return np.frombuffer(block.tobytes(), kind)


def _value(table: Array, text: bytes, name: bytes) -> int | None:
    """Return the address of `name`: every place where the string table ends with it so is tried."""
    at = text.find(name + b"\0")
    places = []
    while at >= 0:  # A linker lets names share their ends, so a name may begin in the middle of another.
        places.append(at)
        at = text.find(name + b"\0", at + 1)
    hits = table[np.isin(table["name"], places)]
    return int(hits["value"][0]) if len(hits) else None


def _file_offset(code: Array, address: int) -> int | None:
    inside = code[(code["address"] <= address) & (address < code["address"] + code["in_file"])]
    return int(address - inside["address"][0] + inside["offset"][0]) if len(inside) else None
