"""The faults, each as a function that breaks a correlator under load and returns what became of the rows."""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from correlator.storage.store import Store
from tests.correlator.storing import DAY, small
from tests.faults.rig import LARGE, SMALL, Load, Outcome, Rig, numbered
from tests.waiting import until

HOUR = 3_600_000_000_000
STEPPED_CLOCK = Path(__file__).parent / "stepped_clock"
NEVER = {"correlator_store_delay_s": 3600}
"""A correlator that acknowledges and does not store: what it took is in its spool alone."""


def sigkills(state_dir: Path, kills: int, seed: int = 1) -> Outcome:
    """SIGKILL at random points: under load, while merging, while days change, while starting."""
    chance = random.Random(seed)
    rig = Rig(state_dir).start()
    load = Load(rig).start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.05, 1.5))
        rig.kill()
        rig.start()
    load.stop()
    outcome = load.outcome()
    rig.terminate()
    return outcome


def sigkills_in_compaction(state_dir: Path, kills: int, seed: int = 1) -> tuple[Outcome, int]:
    """SIGKILL while segments are merged: as one is written, before or after it is listed; returns how often it was so.

    Each start finds as many segments as are merged at once; the kill comes up to 100 ms after the merged one's file.
    """
    chance = random.Random(seed)
    rig = Rig(state_dir, correlator_upkeep_s=0.05)
    load = Load(rig)
    hit = 0
    for number in range(kills):
        _make_segments(state_dir, load, number)
        before = _merged(state_dir)
        rig.start()
        until(lambda before=before: _merged(state_dir) - before, 60)
        time.sleep(chance.uniform(0, 0.1))
        hit += bool(_merged(state_dir) - before)
        rig.kill()
    rig.start()
    outcome = load.outcome()
    rig.terminate()
    return outcome, hit


def _make_segments(state_dir: Path, load: Load, number: int) -> None:
    """Store, while no correlator runs, sixteen batches that each become a segment."""
    store = Store(small(state_dir))
    for each in range(16):
        store.write([numbered(f"merge-{number}/1/{each}", load.sent, LARGE, 20_001 * DAY)])
        load.acknowledged.update(range(load.sent, load.sent + LARGE))
        load.sent += LARGE
    store.close()


def _merged(state_dir: Path) -> set[Path]:
    return set((state_dir / "store").glob("*/*-sorted*.parquet"))


def sigkills_at_midnight(state_dir: Path, kills: int, seed: int = 1) -> Outcome:
    """SIGKILL while a new day begins under load, up to 60 ms after its file.

    Each batch has rows of two days, and DuckDB commits to one file at a time.
    """
    chance = random.Random(seed)
    rig = Rig(state_dir).start()
    load = Load(rig, large_every=5, pause_s=0.1).start()  # What waits to be stored must not keep the new day waiting.
    until(lambda: len(load.acknowledged) > 3 * SMALL)
    for _ in range(kills):
        load.midnight += 2
        days = len(list((state_dir / "store").glob("*.duckdb")))
        until(lambda days=days: len(list((state_dir / "store").glob("*.duckdb"))) > days, 240)
        time.sleep(chance.uniform(0, 0.06))
        rig.kill()
        rig.start()
    load.stop()
    outcome = load.outcome()
    rig.terminate()
    return outcome


def sigterm_under_load(state_dir: Path) -> tuple[Outcome, int]:
    """SIGTERM under load: what was acknowledged is stored, and the exit code says so."""
    rig = Rig(state_dir).start()
    load = Load(rig).start()
    until(lambda: len(load.acknowledged) > 3 * SMALL)
    code = rig.terminate()
    rig.start()
    load.stop()
    outcome = load.outcome()
    rig.terminate()
    return outcome, code


def duplicates(state_dir: Path) -> Outcome:
    """Each batch sent four times, two at once, before and after a restart."""
    rig = Rig(state_dir).start()
    load = Load(rig)
    batches = [numbered(f"twice/1/{n}", n * SMALL, SMALL) for n in range(20)]
    for _ in range(2):
        senders = [threading.Thread(target=lambda: [rig.send(batch) for batch in batches]) for _ in range(2)]
        for each in senders:
            each.start()
        for each in senders:
            each.join()
        rig.terminate()
        rig.start()
    load.sent = len(batches) * SMALL
    load.acknowledged = set(range(load.sent))
    outcome = load.outcome()
    rig.terminate()
    return outcome


def damaged_log(state_dir: Path, damage: Callable[[Path], None]) -> Outcome:
    """DuckDB's write-ahead log damaged after a SIGKILL: DuckDB opens it without a word and drops its tail."""
    rig = Rig(state_dir).start()
    load = Load(rig).start()
    logs = state_dir / "store"
    until(lambda: len(load.acknowledged) > 20 * SMALL and any(logs.glob("*.wal")))
    load.stop()
    until(lambda: any(path.stat().st_size > 20_000 for path in logs.glob("*.wal")) or rig.rows() >= load.sent, 5)
    rig.kill()
    for path in logs.glob("*.wal"):
        damage(path)
    rig.start()
    outcome = load.outcome()
    rig.terminate()
    return outcome


def damaged_spool(state_dir: Path, damage: Callable[[Path], None]) -> tuple[Outcome, dict[tuple[str, str], int]]:
    """The spool's segment damaged after a SIGKILL, before anything of it was stored; returns also what `loss` says."""
    rig = Rig(state_dir).start(**NEVER)
    load = Load(rig)
    time.sleep(0.3)  # Its first look at the empty spool is over: the next comes in an hour.
    load.sent = 20 * SMALL
    for number in range(20):
        assert rig.send(numbered(f"spool/1/{number}", number * SMALL, SMALL)) == 200
    load.acknowledged = set(range(load.sent))
    rig.kill()
    damage(max((state_dir / "spool").glob("*.spool"), key=lambda path: path.stat().st_size))
    rig.start()
    outcome = load.outcome()
    until(lambda: any(source == "spool" for source, _ in rig.losses()) or not outcome.lost)
    losses = rig.losses()
    rig.terminate()
    return outcome, losses


def damaged_day(
    state_dir: Path, damage: Callable[[Path], None], pick: str = "2024-*.duckdb"
) -> tuple[Outcome, dict[tuple[str, str], int]]:
    """A day of the load: its own file, or the largest that `pick` picks, damaged while nobody runs; returns also what `loss`
    says of it, by the file's name."""
    rig = Rig(state_dir).start()
    load = Load(rig)
    load.sent = 20 * SMALL + LARGE
    for number in range(20):
        assert rig.send(numbered(f"day/1/{number}", number * SMALL, SMALL)) == 200
    assert rig.send(numbered("day/1/20", 20 * SMALL, LARGE)) == 200
    load.acknowledged = set(range(load.sent))
    rig.settle()
    rig.terminate()
    damage(max((state_dir / "store").glob(pick), key=lambda path: path.stat().st_size))
    rig.start()
    until(rig.reads, 240)  # A read that meets the damage has the file looked through and set aside.
    outcome = load.outcome()
    until(lambda: any(source == "store" for source, _ in rig.losses()) or not outcome.lost)
    losses = rig.losses()
    rig.terminate()
    return outcome, losses


def damaged_segment(state_dir: Path, damage: Callable[[Path], None]) -> tuple[Outcome, dict[tuple[str, str], int]]:
    """Likewise a segment."""
    return damaged_day(state_dir, damage, "2024-*/*.parquet")


def disk_full(mount: Path) -> tuple[Outcome, int]:
    """A file system of its own fills up and gets room again; returns also how often the doors said 'retry later'."""
    ballast = mount / "ballast"
    rig = Rig(mount / "state").start()
    load = Load(rig, large_every=3).start()
    until(lambda: len(load.acknowledged) > 5 * SMALL and rig.rows() > 0)  # Acknowledged comes before stored.
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    until(lambda: load.busy > 10)
    until(rig.answers)
    assert rig.rows() > 0, "reads go on while nothing can be written"
    ballast.unlink()
    before = len(load.acknowledged)
    until(lambda: len(load.acknowledged) > before + 5 * SMALL)
    load.stop()
    outcome = load.outcome()
    rig.terminate()
    return outcome, load.busy


def clock_jumps(state_dir: Path) -> Outcome:
    """Rows whose times jump by an hour, forth and back, as a node's do whose clock is stepped."""
    rig = Rig(state_dir).start()
    load = Load(rig)
    now = time.time_ns()
    for number, jump in enumerate((0, HOUR, -HOUR, 0, HOUR, -HOUR)):
        assert rig.send(numbered(f"jump/1/{number}", number * SMALL, SMALL, now + jump)) == 200
    load.sent = 6 * SMALL
    load.acknowledged = set(range(load.sent))
    outcome = load.outcome()
    rig.terminate()
    return outcome


def clock_steps(state_dir: Path) -> tuple[Outcome, list[int]]:
    """The correlator's own clock steps by an hour, forth and back, under load and before a start.

    Returns also by how many hours it was off, by the times of the rows that it wrote itself.
    """
    off_s = state_dir.parent / "off_s"
    rig = Rig(state_dir, correlator_own_metrics=False)
    rig.environment = {"PYTHONPATH": str(STEPPED_CLOCK), "STEPPED_CLOCK": str(off_s)}
    rig.start()
    load = Load(rig).start()
    hours: list[int] = []
    for step in (1, 0, -1, 0):
        off_s.write_text(str(step * 3600))
        before = len(load.acknowledged)
        until(lambda before=before: len(load.acknowledged) > before + 5 * SMALL, 240)
        rig.send_garbage()  # It is counted in `loss`, at the time that the correlator thinks it is.
        until(lambda: len(rig.hours_off()) > len(hours), 240)
        hours.append(rig.hours_off()[-1])
        if step == -1:
            rig.kill()
            rig.start()
    load.stop()
    outcome = load.outcome()
    rig.terminate()
    return outcome, hours


def broken_off(state_dir: Path) -> Outcome:
    """Clients that disconnect in the middle of a body."""
    rig = Rig(state_dir).start()
    load = Load(rig).start()
    host, port = rig.url.removeprefix("http://").split(":")
    for _ in range(50):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n")
            client.sendall(b"content-length: 100000\r\n\r\n" + b"\x0a" * 5000)
    load.stop()
    outcome = load.outcome()
    rig.terminate()
    return outcome


# How files are damaged


def flip(path: Path, at: float = 0.5) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    if content:
        content[int((len(content) - 1) * at)] ^= 0x5A
        path.write_bytes(content)


def flip_footer(segment: Path) -> None:
    """Change one byte of what a Parquet file says of its rows."""
    size = segment.stat().st_size
    footer = int.from_bytes(segment.read_bytes()[-8:-4], "little")
    flip(segment, (size - 8 - footer // 2) / size)


def rot(day_file: Path) -> None:
    """Change one byte of a day's file where rows lie: of the rest, much is room for later that nobody would miss."""
    with duckdb.connect(str(day_file), read_only=True) as opened:
        block = "SELECT max(block_id) FROM pragma_storage_info('syscall')"
        ((number,),) = opened.execute(block).fetchall()
    content = bytearray(day_file.read_bytes())
    content[3 * 4096 + number * (1 << 18) + 64] ^= 0x5A  # After three headers, blocks of 256 KiB.
    day_file.write_bytes(content)


def cut(path: Path, at: float = 0.6) -> None:
    """Cut the end off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * at)])


def scramble(path: Path) -> None:
    """Put random bytes in the middle."""
    content = path.read_bytes()
    third = len(content) // 3
    path.write_bytes(content[:third] + random.Random(7).randbytes(third) + content[2 * third :])


@contextmanager
def small_disk(mount: Path, megabytes: int) -> Iterator[Path]:
    """Give a file system of its own of that size; raises CalledProcessError where this user may not mount one."""
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mount)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
