"""Compiles BPF C with BCC in a process of its own, hands the descriptors over, and is gone.

BCC brings LLVM: over 100 MB of memory that the collector would keep for life. This file is run by its path, not imported:
`python child.py <socket fd>` reads one JSON job from the socket and answers with the descriptors of every map and program.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import sys
from typing import Any

RAW_TRACEPOINT, KPROBE, UPROBE_MULTI = 17, 2, 48
INSTRUCTION, LOAD_IMMEDIATE, MAP_DESCRIPTOR = 8, 0x18, 1
FUNCTION = re.compile(r"^int (raw|uprobe)_(\w+)\(", re.MULTILINE)


def build(job: dict[str, Any]) -> dict[str, int]:
    """Compile and load `job`; return each descriptor by `map:<name>` or `program:<function>`."""
    from bcc import BPF, lib

    module = BPF(text=job["text"].encode(), cflags=job["flags"])
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]  # Undeclared, ctypes would cut the pointer to 32 bits.
    for function, result in (("bpf_table_name", ctypes.c_char_p), ("bpf_table_fd_id", ctypes.c_int)):
        getattr(lib, function).restype = result
        getattr(lib, function).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    found: dict[str, int] = {}
    for number in range(lib.bpf_num_tables(module.module)):
        found[f"map:{lib.bpf_table_name(module.module, number).decode()}"] = lib.bpf_table_fd_id(module.module, number)
    for kind, rest in FUNCTION.findall(job["text"]):
        name = f"{kind}_{rest}"
        type_, attach = (RAW_TRACEPOINT, -1) if kind == "raw" else (KPROBE, UPROBE_MULTI)
        found[f"program:{name}"] = module.load_func(name, type_, attach_type=attach).fd
    for name, (original, maps) in job["twins"].items():
        # In its own place in BCC's memory, so that BCC, of whatever version, loads it as it loads all others.
        code = (ctypes.c_ubyte * lib.bpf_function_size(module.module, original.encode())).from_address(
            lib.bpf_function_start(module.module, original.encode())
        )
        _exchange_maps(code, {found[f"map:{old}"]: found[f"map:{new}"] for old, new in maps.items()})
        del module.funcs[original.encode()]
        found[f"program:{name}"] = module.load_func(original, KPROBE, attach_type=UPROBE_MULTI).fd
    return found


def _exchange_maps(code: Any, maps: dict[int, int]) -> None:
    """Let the instructions that load a map's descriptor (BPF_LD_IMM64, BPF_PSEUDO_MAP_FD) load another's."""
    for at in range(0, len(code), INSTRUCTION):
        if code[at] == LOAD_IMMEDIATE and code[at + 1] >> 4 == MAP_DESCRIPTOR:
            descriptor = int.from_bytes(bytes(code[at + 4 : at + 8]), "little")
            code[at + 4 : at + 8] = list(maps.get(descriptor, descriptor).to_bytes(4, "little"))


def main(descriptor: int) -> None:
    """Do the one job that waits on the socket."""
    door = socket.socket(fileno=descriptor)
    job = json.loads(_read_all(door))
    os.environ["BCC_KERNEL_SOURCE"] = job["headers"]
    try:
        found = build(job)
    except ImportError as error:
        _answer(door, {"error": f"bcc cannot be imported ({error})"})
    except Exception as error:  # BCC raises plain Exception; the parent makes a sentence of it.
        _answer(door, {"error": str(error)})
    else:
        names = list(found)
        socket.send_fds(door, [json.dumps({"names": names}).encode()], [found[name] for name in names])
    sys.stderr.flush()
    os._exit(0)  # BCC's own clean-up would detach and take its time; closing the descriptors is all that is needed.


def _read_all(door: socket.socket) -> bytes:
    parts = []
    while part := door.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def _answer(door: socket.socket, message: dict[str, str]) -> None:
    door.sendall(json.dumps(message).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
