import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectors import process
from collectors.identity import proc
from collectors.identity.cgroup import Container, container_of, path_of
from tests.collectors.unshared import child, unshare
from tests.waiting import until
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context

UID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
SLICE = UID.replace("-", "_")
ID = f"{0xABCDEF:064x}"

LAYOUTS = {
    f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice/cri-containerd-{ID}.scope": (
        "containerd",
        "burstable",
    ),
    f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE}.slice/crio-{ID}.scope": (
        "cri-o",
        "besteffort",
    ),
    f"kubepods.slice/kubepods-pod{SLICE}.slice/crio-{ID}.scope/container": ("cri-o", "guaranteed"),
    f"kubepods.slice/kubepods-pod{SLICE}.slice/docker-{ID}.scope": ("docker", "guaranteed"),
    f"kubepods/burstable/pod{UID}/{ID}": (None, "burstable"),
    f"kubepods/pod{UID}/{ID}": (None, "guaranteed"),
    f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICE}.slice/"
    f"cri-containerd-{ID}.scope": ("containerd", "burstable"),
    f"system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:{ID}": (
        "containerd",
        "burstable",
    ),
}
OUTSIDE_PODS = {f"docker/{ID}": None, f"machine.slice/libpod-{ID}.scope": "podman", f"k8s.io/{ID}": None}


@pytest.mark.parametrize("path", LAYOUTS)
def test_every_layout_of_kubelet_and_runtime_gives_pod_and_container(path: str) -> None:
    runtime, quality = LAYOUTS[path]
    assert container_of("/" + path) == Container(ID, UID, runtime, quality)


@pytest.mark.parametrize("path", OUTSIDE_PODS)
def test_a_container_outside_of_a_pod_has_no_pod(path: str) -> None:
    assert container_of("/" + path) == Container(ID, None, OUTSIDE_PODS[path], None)


def test_a_static_pod_is_known_by_the_hash_of_its_manifest() -> None:
    found = container_of(f"/kubepods/burstable/pod{'a1b2c3d4' * 4}/{ID}")
    assert found is not None
    assert found.pod_uid == "a1b2c3d4" * 4


@pytest.mark.parametrize("path", ["/", "/system.slice/ssh.service", f"/kubepods.slice/crio-conmon-{ID}.scope", ""])
def test_a_process_outside_of_containers_is_in_none(path: str) -> None:
    assert container_of(path) is None


def test_of_containers_in_containers_the_innermost_counts() -> None:
    outer, inner = "1" * 64, "2" * 64
    found = container_of(f"/docker/{outer}/kubepods/burstable/pod{UID}/{inner}")
    assert found is not None
    assert found.container_id == inner


def test_on_a_hybrid_node_the_hierarchy_that_names_the_container_is_taken() -> None:
    assert path_of(f"4:memory:/kubepods/pod{UID}/{ID}\n0::/\n") == f"/kubepods/pod{UID}/{ID}"
    assert path_of(f"4:memory:/\n0::/kubepods/pod{UID}/{ID}\n") == f"/kubepods/pod{UID}/{ID}"
    assert path_of("0::/system.slice/a.service\n") == "/system.slice/a.service"
    assert path_of("") is None


def test_a_cgroup_made_here_is_read_from_a_real_process() -> None:
    made = Path("/sys/fs/cgroup/memory/kubepods") / f"pod{UID}" / ID
    if not os.access("/sys/fs/cgroup/memory", os.W_OK):
        made = Path("/sys/fs/cgroup/kubepods") / f"pod{UID}" / ID
    try:
        made.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    child = subprocess.Popen(["sleep", "60"])
    try:
        (made / "cgroup.procs").write_text(str(child.pid))
        assert container_of(proc.cgroup_path(child.pid) or "") == Container(ID, UID, None, "guaranteed")
    finally:
        child.kill()
        child.wait()
        for each in (made, made.parent, made.parent.parent):
            _remove(each)


def _remove(cgroup: Path) -> None:
    for _ in range(50):  # The kernel empties a cgroup a moment after its last process has ended.
        try:
            cgroup.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context("process", "n1", Settings(), NodeClock(tmp_path), lambda batch: None)


def rows(batches: Iterator[Batch], wanted: int) -> list[dict[str, object]]:
    return [row for row in next(batches).rows.to_pylist() if row["pid"] == wanted]


def test_a_process_is_told_when_it_starts_and_when_it_ends(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_EVERY_S", 0.05)
    batches = process.run(context)
    next(batches)
    before = time.time_ns()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = rows(batches, child.pid)
    while started[-1]["executable"] != os.path.realpath(sys.executable):  # seen between fork and exec
        started = rows(batches, child.pid)
    child.kill()
    child.wait()
    ended = rows(batches, child.pid)
    assert started[0]["process_uid"] == ended[0]["process_uid"]
    assert abs(int(str(started[0]["start_ns"])) - before) < 1_000_000_000
    assert started[0]["end_ns"] is None
    assert int(str(ended[0]["end_ns"])) > int(str(started[0]["start_ns"]))
    own = proc.stat(os.getpid())
    assert own is not None
    assert started[0]["parent_uid"] == proc.process_uid("n1", own.start_since_boot_ns, os.getpid())


def test_a_process_in_a_time_namespace_has_the_nodes_times_and_its_offset(context: Context) -> None:
    command = unshare("--time", "--monotonic", "3600", "--boottime", "70000", "--fork", "--kill-child")
    before = context.clock.now_ns()
    outer = subprocess.Popen([*command, "sleep", "60"])
    try:
        inner = child(outer.pid)
        until(lambda: proc.arguments(inner) == ["sleep", "60"])  # Amid its execution a process has no command line.
        found = [row for row in next(process.run(context)).rows.to_pylist() if row["pid"] in (inner, os.getpid())]
    finally:
        outer.kill()
        outer.wait()
    offsets = {row["pid"]: row["time_namespace_offset_ns"] for row in found}
    assert offsets == {inner: 3_600_000_000_000, os.getpid(): 0}
    (start_ns,) = (row["start_ns"] for row in found if row["pid"] == inner)
    assert before - 20_000_000 < start_ns < context.clock.now_ns()  # Starts are told in hundredths of a second.


def test_command_lines_are_not_kept_unless_asked_for(context: Context) -> None:
    assert all(row["arguments"] is None for row in next(process.run(context)).rows.to_pylist())


def test_secrets_on_a_command_line_are_masked() -> None:
    shown = process.without_secrets("vllm serve --api-key sk-123 --hf-token=hf_abc --model m --max-num-seqs 8")
    assert shown == "vllm serve --api-key *** --hf-token=*** --model m --max-num-seqs 8"


@pytest.mark.parametrize(
    ("line", "role"),
    [
        ("/usr/bin/python3 /usr/local/bin/vllm serve m", "api_server"),
        ("VLLM::EngineCore", "engine"),
        ("VLLM::Worker_TP0", "worker"),
        ("/usr/local/bin/envoy -c x.yaml", "proxy"),
        ("/usr/sbin/sshd", None),
    ],
)
def test_the_role_at_a_model_server_is_read_from_the_command_line(line: str, role: str | None) -> None:
    assert process.role_of(line) == role


def test_a_process_that_is_gone_is_no_error() -> None:
    gone = 4_000_000
    assert proc.stat(gone) is None
    assert proc.arguments(gone) == []
    assert proc.cgroup_path(gone) is None
    assert proc.namespace(gone, "net") is None
