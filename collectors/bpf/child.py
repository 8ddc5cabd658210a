"""Compiles BPF C with BCC in a process of its own, tells what came of it, and is gone.

BCC brings LLVM: over 100 MB of memory that the collector would keep for life. This file is run by its path, not imported:
`python child.py` reads one JSON job from its input and writes JSON: `maps`, each with its name, type, sizes of key and value
in bytes, most entries and flags; `programs`, each function's instructions in base64, where an instruction that loads a map's
descriptor holds the map's place in `maps` instead; or `error`.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import re
import sys
from typing import Any

INSTRUCTION, LOAD_IMMEDIATE, MAP_DESCRIPTOR = 8, 0x18, 1
FUNCTION = re.compile(r"^int ((?:raw|uprobe)_\w+)\(", re.MULTILINE)
_TABLE = {
    "name": ctypes.c_char_p,
    "fd_id": ctypes.c_int,
    "type_id": ctypes.c_int,
    "key_size_id": ctypes.c_size_t,
    "leaf_size_id": ctypes.c_size_t,
    "max_entries_id": ctypes.c_size_t,
    "flags_id": ctypes.c_int,
}
"""BCC's functions on the table of a number, and their results' types: undeclared, ctypes would cut pointers to 32 bits."""


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Compile `job`; return its maps and programs."""
    from bcc import BPF, lib

    module = BPF(text=job["text"].encode(), cflags=job["flags"]).module
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    for name, result in _TABLE.items():
        function = getattr(lib, f"bpf_table_{name}")
        function.restype, function.argtypes = result, [ctypes.c_void_p, ctypes.c_size_t]
    tables = [
        {name: getattr(lib, f"bpf_table_{name}")(module, number) for name in _TABLE}
        for number in range(lib.bpf_num_tables(module))
    ]
    places = {table["fd_id"]: place for place, table in enumerate(tables)}
    programs = {}
    for function in FUNCTION.findall(job["text"]):
        size, start = (getattr(lib, f"bpf_function_{what}")(module, function.encode()) for what in ("size", "start"))
        code = bytearray((ctypes.c_ubyte * size).from_address(start))
        _name_maps(code, places)
        programs[function] = base64.b64encode(code).decode()
    return {
        "maps": [
            [
                table["name"].decode(),
                *(table[f"{what}_id"] for what in ("type", "key_size", "leaf_size", "max_entries", "flags")),
            ]
            for table in tables
        ],
        "programs": programs,
    }


def _name_maps(code: bytearray, places: dict[int, int]) -> None:
    """Put maps' places where their descriptors stand (BPF_LD_IMM64 of BPF_PSEUDO_MAP_FD, two instructions long)."""
    at = 0
    while at < len(code):
        if code[at] == LOAD_IMMEDIATE and code[at + 1] >> 4 == MAP_DESCRIPTOR:
            place = places[int.from_bytes(code[at + 4 : at + 8], sys.byteorder)]
            code[at + 4 : at + 8] = place.to_bytes(4, sys.byteorder)
        at += INSTRUCTION * (2 if code[at] == LOAD_IMMEDIATE else 1)


def main() -> None:
    """Do the one job that waits on the input."""
    job = json.load(sys.stdin)
    answer = os.dup(1)
    os.dup2(2, 1)  # Whatever BCC or LLVM print is no part of the answer.
    os.environ["BCC_KERNEL_SOURCE"] = job["headers"]
    try:
        found = build(job)
    except ImportError as error:
        found = {"error": f"bcc cannot be imported ({error})"}
    except Exception as error:  # BCC raises plain Exception; the parent makes a sentence of it.
        found = {"error": str(error)}
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(found, file)
    sys.stderr.flush()
    os._exit(0)  # BCC's own clean-up takes its time, and all that there is to free goes with the process.


if __name__ == "__main__":
    main()
