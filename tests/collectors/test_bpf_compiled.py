"""Programs are compiled once: what is kept of them loads and runs as the compiler made it, if it is whole and ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from collectors.bpf import compiled, loader
from collectors.bpf.loader import Loaded
from warpline.errors import SourceError

pytestmark = pytest.mark.needs_bpf

ADDING = (
    loader.read()
    + """
BPF_HASH(first, u32, u64, 16);
BPF_HASH(second, u32, u64, 16);
int raw_add(struct bpf_raw_tracepoint_args *ctx)
{
	u32 process = bpf_get_current_pid_tgid() >> 32;
	if (process == own_process())
		first.increment(process, STEP);
	return 0;
}
"""
)
TWINS = {"raw_twin": ("raw_add", {"first": "second"})}
REFUSED = "int raw_wild(struct bpf_raw_tracepoint_args *ctx) { return *(int *)8; }"


@pytest.fixture(scope="module")
def kept(bpf: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a collector that compiled the text once."""
    state = tmp_path_factory.mktemp("kept")
    loader.load(ADDING, {"STEP": 3}, TWINS, state).close()
    return state


def files(state: Path) -> list[Path]:
    return sorted((state / "bpf").iterdir())


def added(loaded: Loaded) -> tuple[int | None, int | None]:
    """What the program added in 17 system calls and more, and its twin."""
    totals = [loaded.map(name, "<u4", "<u8") for name in ("first", "second")]
    loaded.attach_raw({"raw_add": "sys_exit", "raw_twin": "sys_exit"})
    for _ in range(17):
        os.getppid()
    loaded.detach()
    first, second = ([int(each) for each in total.items()[1]] for total in totals)
    return first[0], second[0]


def test_what_is_kept_runs_as_what_was_compiled_and_needs_no_compiler(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = files(kept)
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(compiled, "_COMPILE_SECONDS", 0)  # A compiler would have no time to answer.
    loaded = loader.load(ADDING, {"STEP": 3}, TWINS, kept)
    try:
        first, second = added(loaded)
    finally:
        loaded.close()
    assert first and second and first >= 3 * 17 and first % 3 == second % 3 == 0
    with pytest.raises(SourceError, match="no answer in 0 s"):
        loader.load(ADDING, {"STEP": 4}, TWINS, kept)
    assert files(kept) == [file]


def test_a_file_that_is_damaged_or_not_ours_is_compiled_anew(kept: Path) -> None:
    (file,) = files(kept)
    whole = file.read_bytes()
    for spoil in (lambda: file.write_bytes(whole[:-9]), lambda: file.chmod(0o666), lambda: file.write_bytes(b"[]")):
        spoil()
        loader.load(ADDING, {"STEP": 3}, TWINS, kept).close()
        assert file.read_bytes() == whole
        assert file.stat().st_mode & 0o777 == 0o600


def test_what_the_kernel_refuses_is_said_and_not_kept(bpf: None, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"raw_wild cannot be loaded: Permission denied \| .*R\d invalid mem access"):
        loader.load(REFUSED, state_dir=tmp_path)
    assert files(tmp_path) == []


def test_a_directory_that_cannot_be_written_costs_only_the_next_start(bpf: None, tmp_path: Path) -> None:
    (tmp_path / "bpf").write_text("in the way")
    loader.load(ADDING, {"STEP": 3}, TWINS, tmp_path).close()


def test_the_files_that_were_used_last_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "bpf"
    folder.mkdir()
    for number in range(compiled._KEPT + 7):
        path = folder / f"{number}.json"
        path.write_text("{}")
        os.utime(path, ns=(time.time_ns(), 10**18 + number))
    compiled._keep(folder / "new.json", {"maps": [], "programs": {}})
    left = {each.name for each in folder.iterdir()}
    assert left == {"new.json", *(f"{number}.json" for number in range(8, compiled._KEPT + 7))}


def test_instructions_of_a_map_hold_its_place(bpf: None) -> None:
    made = compiled.compiled(ADDING, ["-w", "-DSTEP=3", *macros()], None)
    words = np.frombuffer(made.programs["raw_add"], loader._INSTRUCTION)
    loads = words[(words["code"] == 0x18) & (words["registers"] >> 4 == 1)]
    assert {made.maps[place].name for place in loads["immediate"]} == {"own_process_id", "first"}


def macros() -> list[str]:
    return [f"-D{name}={value}" for name, value in loader.btf.macros(ADDING).items()]
