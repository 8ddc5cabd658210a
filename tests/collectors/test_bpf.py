"""What loads and reads BPF programs: BTF, ELF, rings, maps, watched processes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.bpf import btf, elf, loader
from collectors.bpf.ends import ENDS, connection_ids
from collectors.bpf.loader import Loaded
from collectors.bpf.ring import COUNTER, LEFT_OUT, Ring, Tally
from collectors.bpf.targets import Rules, Targets
from tests.waiting import until
from warpline.errors import SourceError

RECORD = np.dtype([("number", "<u8"), ("kind", "<u4")])
STRIDE, PAGE = 24, 4096


class FakeRing:
    """A file with a ring's layout; the second mapping of the data is a copy, written alongside."""

    def __init__(self, path: Path, size: int) -> None:
        self.size, self.path, self.made = size, path, 0
        path.write_bytes(b"\0" * (2 * PAGE + 2 * size))

    def _write(self, at: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def put(self, number: int, flags: int = 0, length: int = 12) -> None:
        record = struct.pack("<IIQI4x", length | flags, 0, number, number % 7)
        for index, byte in enumerate(record):
            offset = (self.made + index) % self.size
            for copy in (0, self.size):
                self._write(2 * PAGE + copy + offset, bytes([byte]))
        self.made += STRIDE
        self._write(PAGE, struct.pack("<Q", self.made))

    def ready(self, place: int) -> None:
        for copy in (0, self.size):
            self._write(2 * PAGE + copy + place % self.size, struct.pack("<I", 12))

    def reader(self, **options: Any) -> Ring:
        with self.path.open("r+b") as file:
            return Ring(file.fileno(), self.size, RECORD, **options)


def test_records_come_once_in_order_and_across_the_end_of_the_ring(tmp_path: Path) -> None:
    fake = FakeRing(tmp_path / "ring", PAGE)
    ring = fake.reader()
    seen: list[int] = []
    for start in range(0, 997, 100):
        for number in range(start, min(start + 100, 997)):
            fake.put(number)
        taken = ring.take()
        assert (taken["kind"] == taken["number"] % 7).all()
        seen += taken["number"].tolist()
    assert seen == list(range(997))
    assert (ring.seen, len(ring.take()), ring.fill_ratio()) == (997, 0, 0.0)


def test_a_busy_record_holds_back_all_behind_it(tmp_path: Path) -> None:
    fake = FakeRing(tmp_path / "ring", PAGE)
    ring = fake.reader()
    fake.put(1)
    place = fake.made
    fake.put(2, flags=1 << 31)
    fake.put(3)
    assert ring.take()["number"].tolist() == [1]
    assert ring.take()["number"].tolist() == []
    fake.ready(place)
    assert ring.take()["number"].tolist() == [2, 3]


def test_a_discarded_record_is_skipped(tmp_path: Path) -> None:
    fake = FakeRing(tmp_path / "ring", PAGE)
    ring = fake.reader()
    for number, flags in ((1, 0), (2, 1 << 30), (3, 0)):
        fake.put(number, flags)
    assert ring.take()["number"].tolist() == [1, 3]
    assert ring.seen == 2


def test_what_was_taken_is_not_changed_by_what_comes_after(tmp_path: Path) -> None:
    fake = FakeRing(tmp_path / "ring", PAGE)
    ring = fake.reader()
    fake.put(11)
    taken = ring.take()
    for number in range(400):
        fake.put(number)
        ring.take()
    assert taken["number"].tolist() == [11]


def test_one_take_is_bounded(tmp_path: Path) -> None:
    fake = FakeRing(tmp_path / "ring", PAGE)
    ring = fake.reader(take_bytes=5 * STRIDE)
    for number in range(13):
        fake.put(number)
    assert [len(ring.take()) for _ in range(4)] == [5, 5, 3, 0]


def test_a_record_of_another_size_is_refused(tmp_path: Path) -> None:
    fake = FakeRing(tmp_path / "ring", PAGE)
    ring = fake.reader()
    fake.put(1, length=16)
    with pytest.raises(SourceError, match="not 12 bytes long"):
        ring.take()


class TestBtf:
    """Struct layouts; the running kernel's are the case."""

    @pytest.fixture
    def kernel(self) -> btf.Btf:
        if not btf.VMLINUX.exists():
            pytest.skip("this kernel has no BTF")
        return btf.running_kernel()

    def test_fields_are_found_also_inside_of_anonymous_members(self, kernel: btf.Btf) -> None:
        family, number = kernel.offset("sock_common", "skc_family"), kernel.offset("sock_common", "skc_num")
        assert family == 16  # Both lie in the part that every kernel since 3.x keeps in place.
        assert number == 14
        assert kernel.offset("sock", "__sk_common.skc_num") == number

    def test_sizes_and_enumerators_are_found(self, kernel: btf.Btf) -> None:
        assert kernel.size("list_head") == 16
        assert kernel.enumerator("bpf_map_type", "BPF_MAP_TYPE_RINGBUF") == 27

    def test_absent_names_are_none(self, kernel: btf.Btf) -> None:
        assert kernel.offset("sock", "no_such_field") is None
        assert kernel.offset("no_such_struct", "x") is None
        assert kernel.size("no_such_struct") is None
        assert kernel.enumerator("bpf_map_type", "NO_SUCH_MAP") is None

    def test_a_required_macro_that_the_kernel_lacks_is_named(self, kernel: btf.Btf) -> None:
        assert btf.macros("x = OFFSET_list_head__prev;", kernel) == {"OFFSET_list_head__prev": 8}
        assert btf.macros("#ifdef OFFSET_sock__nothing\nOFFSET_sock__nothing\n#endif", kernel) == {}
        with pytest.raises(SourceError, match=r"has no sock\.nothing"):
            btf.macros("OFFSET_sock__nothing", kernel)

    @given(st.binary(max_size=200))
    def test_random_bytes_are_refused_with_a_sentence(self, data: bytes) -> None:
        for text in (data, struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), 0) + data):
            try:
                btf.Btf(text, "here").offset("a", "b")
            except SourceError as error:
                assert str(error).startswith("here: ")


def test_a_symbols_file_offset_is_where_its_code_lies() -> None:
    library = next(Path("/lib").glob("*-linux-gnu/libc.so.6"), None)
    if library is None:
        pytest.skip("no libc.so.6 under /lib")
    found = elf.symbols(library, ["getpid", "no_such_function"])
    assert list(found) == ["getpid"]
    code = elf.first_bytes(library, found["getpid"], 64)
    assert b"\x0f\x05" in code  # the syscall instruction


def test_a_file_that_is_no_elf_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + b"\xff" * 100):
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(SourceError, match="cannot be read as an ELF file"):
            elf.symbols(path, ["main"])


def test_a_connections_number_depends_on_each_of_its_parts() -> None:
    rows = np.zeros(8, ENDS)
    rows["family"] = 2
    rows["local_port"][1] = 1
    rows["remote_port"][2] = 1
    rows["sequence_sent"][3] = 1
    rows["sequence_received"][4] = 1
    rows["network"][5] = 1
    rows["local"][6] = b"\1" * 16
    rows["remote"][7] = b"\1" * 16
    numbers = connection_ids(rows, np.arange(8))
    assert len(set(numbers.tolist())) == 8
    assert (numbers >= 0).all()
    assert (connection_ids(rows, np.zeros(8, np.int64)) == numbers).all()


COUNTING = """
struct event { u64 number; u32 kind; u32 room; };
BPF_RINGBUF_OUTPUT(events, 1);
BPF_HASH(squares, u32, u64, 4096);
int raw_count(struct bpf_raw_tracepoint_args *ctx)
{
	if ((u32)(bpf_get_current_pid_tgid() >> 32) != own_process())
		return 0;
	struct event e = {};
	count_made(0);
	if (events.ringbuf_output(&e, sizeof(e), NO_WAKEUP) < 0)
		count_lost(0, 1);
	return 0;
}
"""


@pytest.fixture(scope="module")
def counting(bpf: None) -> Iterator[Loaded]:
    loaded = loader.load(loader.read() + COUNTING)
    yield loaded
    loaded.close()


@pytest.mark.needs_bpf
def test_made_is_seen_plus_lost_exactly(counting: Loaded) -> None:
    ring = counting.ring("events", [("number", "<u8"), ("kind", "<u4"), ("room", "<u4")])
    tally = Tally(counting.map("counters", "<u4", COUNTER), ["events: ring full"], time.monotonic_ns())
    counting.attach_raw({"raw_count": "sys_exit"})
    began = time.monotonic_ns()
    for _ in range(1009):
        os.getppid()
    counting.detach()
    (loss,) = tally.losses(time.monotonic_ns())
    while len(ring.take()):
        pass
    assert tally.made("events: ring full") == ring.seen + loss.count
    assert 0 < ring.seen < 1009 < ring.seen + loss.count
    assert loss.start_ns <= began < loss.end_ns <= time.monotonic_ns()
    assert tally.losses(time.monotonic_ns()) == []


RECURRING = """
static __always_inline int prints(void)
{
	if ((u32)(bpf_get_current_pid_tgid() >> 32) == own_process())
		bpf_trace_printk("again", 6);
	return 0;
}
int raw_print(struct bpf_raw_tracepoint_args *ctx) { return prints(); }
int raw_exit_of_a_call(struct bpf_raw_tracepoint_args *ctx) { return prints(); }
"""


@pytest.mark.needs_bpf
def test_a_run_that_the_kernel_leaves_out_is_counted(bpf: None) -> None:
    loaded = loader.load(loader.read() + RECURRING)
    try:
        tally = Tally(loaded.map("counters", "<u4", COUNTER), ["events: ring full"], 0, loaded.misses)
        loaded.attach_raw({"raw_print": "bpf_trace_printk", "raw_exit_of_a_call": "sys_exit"})
        for _ in range(101):
            os.getppid()
        loaded.detach()
        (loss,) = tally.losses(now := time.monotonic_ns())
        assert (loss.reason, loss.start_ns, loss.end_ns) == (LEFT_OUT, 0, now)
        assert loss.count >= 101  # One each, and those of this process's other calls.
        assert tally.losses(time.monotonic_ns()) == []
    finally:
        loaded.close()


@pytest.mark.needs_bpf
def test_maps_take_and_give_entries_in_batches(counting: Loaded) -> None:
    squares = counting.map("squares", "<u4", "<u8")
    keys = np.arange(1, 3001, dtype="<u4")
    squares.update(keys, keys.astype("<u8") ** 2)
    squares.set(5000, 7)
    assert squares.get(53) == 53 * 53
    assert squares.get(5001) is None
    found, values = squares.items(delete=True)
    assert len(found) == 3001
    assert (values[found != 5000] == found[found != 5000].astype("<u8") ** 2).all()
    assert len(squares.items()[0]) == 0
    assert not squares.delete(53)


@pytest.mark.needs_bpf
def test_a_map_read_as_another_type_is_refused(counting: Loaded) -> None:
    with pytest.raises(SourceError, match="not 4 and 4"):
        counting.map("squares", "<u4", "<u4")


@pytest.mark.needs_bpf
def test_a_text_that_does_not_compile_says_where(bpf: None) -> None:
    with pytest.raises(SourceError, match="unknown_thing"):
        loader.load("int raw_x(struct bpf_raw_tracepoint_args *ctx) { return unknown_thing; }")


@pytest.mark.needs_bpf
def test_closing_leaves_no_descriptor_behind(bpf: None) -> None:
    before = set(os.listdir("/proc/self/fd"))
    loader.load(loader.read() + COUNTING).close()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.needs_bpf
def test_processes_are_watched_by_command_line_and_with_their_children(bpf: None) -> None:
    loaded = loader.load(loader.read("targets.bpf.h"))
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    mark = f"mark-{os.getpid()}"
    processes = []
    try:
        processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", mark]))
        # Its command line is there a moment after its execution.
        until(lambda: mark.encode() in Path(f"/proc/{processes[0].pid}/cmdline").read_bytes())
        targets = Targets(loaded, Rules.from_texts("", mark, ""))
        assert targets.watched() == [processes[0].pid]
        process = subprocess.Popen([sys.executable, "-c", parent, mark], stdout=subprocess.PIPE)
        processes.append(process)
        targets.watch(process.pid)
        assert process.stdout
        child = int(process.stdout.readline())
        assert set(targets.watched()) == {processes[0].pid, process.pid, child}
        os.kill(child, 9)
        later = subprocess.Popen(["sleep", "60", mark], stderr=subprocess.DEVNULL)
        later.wait()  # sleep refuses the mark: a process that ends at once is no target for long
        processes[0].kill()
        processes[0].wait()
        until(lambda: [targets.refresh(), targets.watched()] == [None, [process.pid]])
        assert os.getpid() not in targets.watched()
    finally:
        loaded.close()
        for each in processes:
            each.kill()
            each.communicate()
