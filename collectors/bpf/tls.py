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

from collectors.bpf import elf, probe_point
from collectors.bpf.loader import Loaded
from warpline.errors import SourceError

log = logging.getLogger(__name__)

READS, EXTENDED, HANDSHAKE = 1, 2, 4
FUNCTIONS = {"SSL_read": READS, "SSL_read_ex": READS | EXTENDED, "SSL_write": 0, "SSL_write_ex": EXTENDED}
FUNCTIONS |= {"SSL_do_handshake": HANDSHAKE}
"""What is probed, and the cookie that tells the program which it is (http_tls.bpf.h)."""
_LIBRARY = re.compile(r"/libssl[^/]*\.so[^/]*$")
LOOK_AGAIN_S = 0.2
"""New processes are looked at this often: TLS that begins sooner after its library was first mapped is not seen."""
_YOUNG_S, _AGAIN_S = 10.0, 5.0
CALLS_PER_S = 10_000
"""Calls of a server that streams to 1,000 clients a second: what single-stepped probes are held against."""

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

    def __init__(self, loaded: Loaded, can_step: bool = True) -> None:
        """Attach nothing yet: `refresh` does. `can_step` says that the budget can pay for single-stepped probes here."""
        self._loaded, self._can_step, self._stepped = loaded, can_step, False
        self._on = loaded.map("tls_watched", "<u4", "<u4")
        self._files: set[tuple[str, str]] = set()
        self._links: list[object] = []
        self._since: dict[int, float] = {}
        self._soon_s = self._again_s = 0.0

    def refresh(self, pids: Callable[[], Iterable[int]], least: bool = False) -> bool:
        """Look which TLS libraries the processes map: new processes five times a second for 10 s, for a library may come
        late, and all every 5 s.

        At the `least` detail, single-stepped probes that the budget cannot pay for are let go of, for their price does not
        hang on how many connections are followed. Returns whether that happened now.
        """
        if least and self._stepped and not self._can_step:
            had = bool(self._links)
            self.let_go()
            return had
        self._look(pids)
        return False

    def _look(self, pids: Callable[[], Iterable[int]]) -> None:
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
            starts = [elf.first_bytes(path, at) for at in found.values()]
            self._stepped = self._stepped or not all(map(probe_point.is_emulated, starts))
            places = {at: FUNCTIONS[name] for name, at in found.items()}
            for function, on_return in (("uprobe_tls_enter", False), ("uprobe_tls_return", True)):
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
