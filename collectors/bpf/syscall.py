"""bpf(2), as far as Warpline speaks it itself: maps, links and run-time statistics. Layouts: include/uapi/linux/bpf.h."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE = 0, 1, 2, 3
PROGRAM_LOAD = 5
OBJECT_INFO = 15
RAW_TRACEPOINT_OPEN = 17
MAP_LOOKUP_BATCH, MAP_LOOKUP_AND_DELETE_BATCH, MAP_UPDATE_BATCH = 24, 25, 26
LINK_CREATE = 28
ENABLE_STATS = 32

RAW_TRACEPOINT, KPROBE = 17, 2
"""Program types; uprobes are of type KPROBE."""
UPROBE_MULTI = 48
"""Attach type of a uprobe_multi link (Linux 6.6 and later)."""

_NUMBER = {"x86_64": 321, "aarch64": 280}
_SIZE = 152
_LOG_BYTES = 1 << 24
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(command: int, room: ctypes.Array[ctypes.c_char]) -> int:
    """Run one bpf(2) command on the attributes in `room`, in place; return its result, negative with errno set.

    Raises OSError on a machine whose number of it is not known.
    """
    number = _NUMBER.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {platform.machine()}")
    return int(_libc.syscall(ctypes.c_long(number), ctypes.c_long(command), room, ctypes.c_long(len(room))))


def bpf(command: int, attributes: bytes) -> int:
    """Run one bpf(2) command; return its result. Raises OSError."""
    room = ctypes.create_string_buffer(attributes, max(len(attributes), _SIZE))
    result = call(command, room)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def object_info(descriptor: int, length: int) -> bytes:
    """Return the first `length` bytes of what the kernel tells of the map, program or link behind `descriptor`."""
    room = ctypes.create_string_buffer(length)
    bpf(OBJECT_INFO, struct.pack("<IIQ", descriptor, length, ctypes.addressof(room)))
    return room.raw


def make_map(name: str, kind: int, key: int, value: int, entries: int, flags: int) -> int:
    """Make a map of type `kind`, sizes of key and value in bytes; return its descriptor. Raises OSError."""
    head = struct.pack("<IIIIIII", kind, key, value, entries, flags, 0, 0)
    return bpf(MAP_CREATE, head + _name(name))


def load_program(code: bytes, kind: int, attach: int, name: str = "") -> int:
    """Load a program of whole instructions, of `kind` and for `attach`; return its descriptor. Raises OSError."""
    return _load(code, kind, attach, name, None)


def verifier_log(code: bytes, kind: int, attach: int) -> str:
    """Return what the kernel's verifier says of a program that it refuses."""
    room = ctypes.create_string_buffer(_LOG_BYTES)
    with contextlib.suppress(OSError):
        os.close(_load(code, kind, attach, "", room))
    return room.value.decode(errors="replace")


def _load(code: bytes, kind: int, attach: int, name: str, room: ctypes.Array[ctypes.c_char] | None) -> int:
    text, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    head = struct.pack("<IIQQ", kind, len(code) // 8, ctypes.addressof(text), ctypes.addressof(licence))
    told = struct.pack("<IIQ", 1, len(room), ctypes.addressof(room)) if room is not None else bytes(16)
    return bpf(PROGRAM_LOAD, head + told + struct.pack("<II", 0, 0) + _name(name) + struct.pack("<II", 0, attach))


def _name(name: str) -> bytes:
    """What the kernel calls an object: 15 bytes at most."""
    return name.encode()[:15].ljust(16, b"\0")


def open_raw_tracepoint(program: int, name: str) -> int:
    """Attach `program` to a raw tracepoint; return the link's descriptor, whose close detaches it."""
    text = ctypes.create_string_buffer(name.encode())
    return bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", ctypes.addressof(text), program))


def link_uprobes(
    program: int, path: str, offsets: list[int], on_return: bool = False, pid: int = 0, cookies: list[int] | None = None
) -> int:
    """Attach `program` to file offsets of `path` by one uprobe_multi link; return the link's descriptor.

    Needs CAP_BPF and CAP_PERFMON only, leaves nothing behind when its holder dies, and takes /proc/PID/root paths. `pid`
    limits it to one process; `cookies` tell the program which offset was hit (bpf_get_attach_cookie).
    """
    text = ctypes.create_string_buffer(path.encode())
    places = (ctypes.c_uint64 * len(offsets))(*offsets)
    marks = (ctypes.c_uint64 * len(offsets))(*cookies) if cookies else None
    attributes = struct.pack("<IIII", program, 0, UPROBE_MULTI, 0) + struct.pack(
        "<QQQQIII4x",
        ctypes.addressof(text),
        ctypes.addressof(places),
        0,
        ctypes.addressof(marks) if marks is not None else 0,
        len(offsets),
        1 if on_return else 0,
        pid,
    )
    return bpf(LINK_CREATE, attributes)


def enable_statistics() -> int:
    """Let the kernel time every BPF program until the returned descriptor is closed; it costs each run two clock reads."""
    return bpf(ENABLE_STATS, struct.pack("<I", 0))


def misses(program: int) -> int:
    """Return how often the kernel left `program` out because it was under way on that CPU already (Linux 5.12)."""
    return int(struct.unpack_from("<Q", object_info(program, 224), 208)[0])


def run_statistics(program: int) -> tuple[int, int]:
    """Return the ns that `program` ran for, and how often, while statistics were enabled."""
    nanoseconds, runs = struct.unpack_from("<QQ", object_info(program, 224), 192)
    return nanoseconds, runs
