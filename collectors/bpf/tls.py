"""Finds the OpenSSL of each watched process, and attaches to it once for each file, whichever process maps it.

CPython calls SSL_read_ex and SSL_write_ex, others SSL_read and SSL_write: all four are probed, by uprobe_multi links at the
file's offsets. A file is known by device and inode, so a library that was replaced is attached to again, and the containers
of one image layer share one link. A statically linked BoringSSL without symbols (Envoy), Go's and Rust's TLS are not found.
"""

from __future__ import annotations

import logging
import mmap
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from collectors.bpf import elf
from collectors.bpf.loader import Loaded
from warpline.errors import SourceError

log = logging.getLogger(__name__)

READS, EXTENDED, HANDSHAKE = 1, 2, 4
FUNCTIONS = {"SSL_read": READS, "SSL_read_ex": READS | EXTENDED, "SSL_write": 0, "SSL_write_ex": EXTENDED}
_HANDSHAKE = "SSL_do_handshake"
FUNCTIONS |= {_HANDSHAKE: HANDSHAKE}
"""What is probed, and the cookie that tells the program which it is (http_tls.bpf.h)."""
_LIBRARY = re.compile(r"/libssl[^/]*\.so[^/]*$")
LOOK_AGAIN_S = 0.2
"""New processes are looked at this often: TLS that begins sooner after its library was first mapped is not seen."""
_YOUNG_S, _AGAIN_S = 10.0, 5.0

_LINKED_IN = {
    "BoringSSL": b"OPENSSL_internal",
    "Go": b"crypto/tls.(*Conn).",
    "rustls": b"rustls::conn",
    "OpenSSL": b"ssl/ssl_lib.c",
}
"""Texts that a program's file has where that TLS is part of it: names of its sources and functions."""


def linked_in(path: Path) -> str | None:
    """Return which TLS is a part of the program `path` itself, where it cannot be read; None where none is known."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return next((name for name, text in _LINKED_IN.items() if data.find(text) >= 0), None)
    except (OSError, ValueError):  # Gone, not ours to read, or empty.
        return None


class Libraries:
    """The TLS libraries of watched processes, attached."""

    def __init__(self, loaded: Loaded) -> None:
        """Attach nothing yet: `refresh` does."""
        self._loaded = loaded
        self._on = loaded.map("tls_watched", "<u4", "<u4")
        self._files: set[tuple[str, str]] = set()
        self._links: list[object] = []
        self._since: dict[int, float] = {}
        self._soon_s = self._again_s = 0.0

    def refresh(self, pids: Callable[[], Iterable[int]]) -> None:
        """Look which TLS libraries the processes map: new processes five times a second for 10 s, for a library may come
        late, and all every 5 s."""
        now = time.monotonic()
        if now < self._soon_s:
            return
        self._soon_s = now + LOOK_AGAIN_S
        self._since = {pid: self._since.get(pid, now) for pid in pids()}
        everyone = now >= self._again_s
        if everyone:
            self._again_s = now + _AGAIN_S
        for pid, since in list(self._since.items()):
            if everyone or now - since < _YOUNG_S:
                for file, path in _mapped(pid):
                    self._since[pid] = 0.0  # It has its library: no need to look so often.
                    if file not in self._files:
                        self._files.add(file)
                        self._attach(path)

    def let_go(self) -> None:
        """Detach from every library; the next `refresh` finds them anew."""
        while self._links:
            self._loaded.detach(self._links.pop())
        self._files.clear()
        self._since.clear()
        self._soon_s = self._again_s = 0.0
        self._on.set(0, 0)

    def _attach(self, path: Path) -> None:
        try:
            found = elf.symbols(path, FUNCTIONS)
            for function, on_return in (("uprobe_tls_enter", False), ("uprobe_tls_return", True)):
                places = {at: FUNCTIONS[name] for name, at in found.items() if not (on_return and name == _HANDSHAKE)}
                if places:
                    cookies = list(places.values())
                    link = self._loaded.attach_uprobes(function, str(path), list(places), on_return, 0, cookies)
                    self._links.append(link)
        except (SourceError, OSError) as error:
            log.warning("%s: TLS is not read there: %s", path, error)
            return
        if found:
            self._on.set(0, 1)
            log.info("%s: TLS is read at %s", path, ", ".join(found))


def _mapped(pid: int) -> Iterator[tuple[tuple[str, str], Path]]:
    """Yield ((device, inode), path) of each TLS library that a process has mapped, as seen from here."""
    try:
        text = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # It is gone.
        return
    for line in text.splitlines():
        cells = line.split(maxsplit=5)
        if len(cells) == 6 and "x" in cells[1] and _LIBRARY.search(cells[5].removesuffix(" (deleted)")):
            path = Path(f"/proc/{pid}/root{cells[5]}")
            if cells[5].endswith(" (deleted)"):
                path = Path(f"/proc/{pid}/map_files/{cells[0]}")
            yield (cells[3], cells[4]), path
