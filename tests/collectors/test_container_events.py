"""Container runtimes' events: every real line goes through, a real containerd's stream, and the CRI's as a double."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest

from collectors import container_events
from collectors.wire.runtime_pb2 import ContainerEventResponse
from tests.collectors.telemetry_doubles import Seen, context, grpc_double, running
from tests.waiting import until
from warpline.settings import Settings

LINE = re.compile(
    r"^(?:(?P<day>\S+) (?P<time>\d\S+) \+0000 UTC )?(?P<namespace>\S+) (?P<topic>/\S+) (?P<content>\{.*\})$"
)
MICROK8S = "3cfb678e10f8481394a688d67aa2c9429f83c062cbb7ee0fb6d2e2a352a86929"


def told(file: Path) -> list[tuple[int, str, str, dict[str, Any]]]:
    """The events that lines of `ctr events` print."""
    found = []
    for line in file.read_text().splitlines():
        match = LINE.match(line)
        assert match is not None, line
        seconds = datetime.fromisoformat(f"{match['day']}T{match['time'][:8]}+00:00").timestamp() if match["day"] else 0
        fraction = int(match["time"][9:].ljust(9, "0")) if match["day"] else 1
        found.append(
            (int(seconds) * 10**9 + fraction, match["namespace"], match["topic"], orjson.loads(match["content"]))
        )
    return found


def test_every_real_line_becomes_a_row_or_is_of_no_container(shared_data: Path) -> None:
    for file in (shared_data / "container/ctr-events").glob("*.log"):
        events = told(file)
        rows = [container_events.Containerd().row(*event) for event in events]
        others = sum(event[2].startswith(("/snapshot/", "/content/", "/namespaces/")) for event in events)
        assert len(events) == sum(row is not None for row in rows) + others, file.name
        container_events.batch([row for row in rows if row is not None], "n").rows.validate(full=True)


def test_lines_of_microk8s_and_docker_are_read_as_by_hand(shared_data: Path) -> None:
    folder = shared_data / "container/ctr-events"
    rows = [container_events.Containerd().row(*event) for event in told(folder / "microk8s-ctr-events-2021.log")]
    kept = [row for row in rows if row is not None]
    assert [row["kind"] for row in kept] == ["image_updated"] * 4 + ["created", "task_created"]
    assert kept[0]["image"] == "docker.io/library/alpine:latest"
    assert (kept[4]["container_id"], kept[4]["time_ns"]) == (MICROK8S, 1617277828_426144194)
    kept = [
        container_events.Containerd().row(*event) or {} for event in told(folder / "flatcar-ctr-events-moby-2022.log")
    ]
    assert [row["kind"] for row in kept] == ["created", "task_created", "started", "exited"]
    assert kept[3]["exit_code"] == 0, "a status that is left out is zero"


def test_the_end_of_a_probe_is_not_the_containers() -> None:
    runtime = container_events.Containerd()
    end = {"container_id": "c", "id": "probe-1", "exit_status": 1}
    row = runtime.row(5, "k8s.io", "/tasks/exit", end)
    assert row is not None
    assert (row["kind"], row["exit_code"]) == ("exec_exited", 1)
    row = runtime.row(5, "k8s.io", "/tasks/exit", {"container_id": "c", "id": "c", "exit_status": 137})
    assert row is not None
    assert (row["kind"], row["exit_code"]) == ("exited", 137)


def test_labels_name_the_pod_and_are_asked_for_once() -> None:
    asked = []

    def ask(container_id: str, namespace: str) -> dict[str, Any]:
        asked.append((container_id, namespace))
        labels = {"io.kubernetes.pod.uid": "u", "io.kubernetes.pod.name": "p", "io.kubernetes.container.name": "main"}
        return {"labels": labels, "image": "vllm:1"}

    runtime = container_events.Containerd(ask)
    rows = [
        runtime.row(1, "k8s.io", topic, {"container_id": "c"})
        for topic in ("/tasks/create", "/tasks/start", "/tasks/oom")
    ]
    assert asked == [("c", "k8s.io")]
    assert {(row["pod_uid"], row["container"], row["image"]) for row in rows if row} == {("u", "main", "vllm:1")}
    assert [row["kind"] for row in rows if row] == ["task_created", "started", "oom"]


@contextmanager
def containerd() -> Iterator[Path]:
    """A real containerd with its own directories; yields its socket. The path is short: a socket's has 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="wcd"))
    socket, config = directory / "c.sock", directory / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\n  address = "{socket}"\n'
    )
    with (directory / "log").open("wb") as out:
        server = subprocess.Popen(["containerd", "-c", str(config)], stdout=out, stderr=out)
    try:
        until(lambda: socket.is_socket() or server.poll() is not None)
        assert server.poll() is None, (directory / "log").read_text()[-2000:]
        yield socket
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(directory, ignore_errors=True)


def run_containers(socket: Path, count: int) -> None:
    root = socket.parent / "rootfs"
    root.mkdir()
    (root / "a.c").write_text("#include <unistd.h>\nint main(int n, char **a) { usleep(500000); return n; }")
    subprocess.run(["gcc", "-static", "-o", str(root / "a"), str(root / "a.c")], check=True)
    for each in range(count):
        labels = ["--label", "io.kubernetes.pod.uid=uid-7", "--label", "io.kubernetes.container.name=engine"]
        command = ["ctr", "-a", str(socket), "-n", "k8s.io", "run", "--rm", "--rootfs", *labels, str(root), f"t{each}"]
        subprocess.run([*command, "/a", *["x"] * each], capture_output=True, timeout=60)


@pytest.mark.skipif(
    shutil.which("containerd") is None or shutil.which("runc") is None, reason="no containerd and runc here"
)
def test_a_real_containerds_containers_are_seen_with_their_pods(tmp_path: Path) -> None:
    seen = Seen()
    with containerd() as socket:
        where = context(tmp_path, seen, "container_events", container_sockets=f"/nowhere.sock,{socket}")
        assert container_events.check(where.settings) is None
        with running(container_events, where, seen):
            until(lambda: _subscribed(socket, seen))
            run_containers(socket, 3)
            until(
                lambda: sum(row["kind"] == "deleted" and row["container_id"].startswith("t") for row in _of(seen)) == 3
            )
    rows = _of(seen)
    wanted = ["created", "task_created", "started", "exited", "task_deleted", "deleted"]
    for each in range(3):
        mine = [row for row in rows if row["container_id"] == f"t{each}"]
        assert [row["kind"] for row in mine] == wanted
        assert [row["time_ns"] for row in mine] == sorted(row["time_ns"] for row in mine)
        assert mine[3]["exit_code"] == each + 1
        assert {(row["pod_uid"], row["container"]) for row in mine} == {("uid-7", "engine")}
    assert abs(rows[-1]["time_ns"] - where.clock.now_ns()) < 60_000_000_000
    assert seen.lost() == {}


def _of(seen: Seen) -> list[dict[str, Any]]:
    return [row for row in seen.rows("container_state") if (row["container_id"] or "").startswith("t")]


def _subscribed(socket: Path, seen: Seen) -> bool:
    """Say whether the source hears yet: a container that is made and removed shows it."""
    command = ["ctr", "-a", str(socket), "-n", "k8s.io", "containers"]
    subprocess.run([*command, "create", "--rootfs", "/", "probe"], capture_output=True, check=True)
    subprocess.run([*command, "delete", "probe"], capture_output=True, check=True)
    return bool(seen.rows("container_state"))


def test_a_runtime_without_containerds_events_is_heard_by_the_cri(tmp_path: Path) -> None:
    def event(kind: int, container: str, **status: Any) -> bytes:
        answer = ContainerEventResponse(container_id=container, container_event_type=kind, created_at=10**18 + kind)  # type: ignore[arg-type]
        answer.pod_sandbox_status.id = "sandbox"
        answer.pod_sandbox_status.metadata.uid = "u"
        answer.pod_sandbox_status.metadata.name = "vllm-0"
        one = answer.containers_statuses.add(id="c", **status)
        one.metadata.name = "engine"
        one.image.image = "vllm:1"
        return answer.SerializeToString()

    def events_double(request: bytes, call: Any) -> Iterator[bytes]:
        yield event(0, "sandbox")
        yield event(0, "c")
        yield b"\xff\xff"
        yield event(1, "c")
        yield event(2, "c", exit_code=137, reason="OOMKilled")
        yield event(3, "c")
        call.abort(grpc.StatusCode.UNAVAILABLE, "restart")

    seen = Seen()
    socket = f"{tmp_path}/crio.sock"
    with grpc_double({"/runtime.v1.RuntimeService/GetContainerEvents": events_double}, f"unix:{socket}"):
        where = context(tmp_path, seen, "container_events", container_sockets=socket)
        with running(container_events, where, seen):
            until(lambda: len(seen.rows("container_state")) >= 10)
    rows = seen.rows("container_state")[:5]
    assert [(row["kind"], row["container"], row["exit_code"], row["reason"]) for row in rows] == [
        ("created", None, None, "sandbox"),
        ("created", "engine", None, None),
        ("started", "engine", None, None),
        ("oom", "engine", 137, "OOMKilled"),
        ("deleted", "engine", None, None),
    ]
    assert {(row["pod_uid"], row["pod"], row["namespace"]) for row in rows} == {("u", "vllm-0", None)}
    assert seen.lost()["event not understood"] >= 1
    assert seen.lost()["disconnected"] >= 1
    again = Seen()
    with running(container_events, context(tmp_path, again, "container_events", container_sockets=socket), again):
        until(lambda: "collector was away" in again.lost())
    away = next(row for row in again.rows("loss") if row["reason"] == "collector was away")
    assert away["lower_bound"]
    assert abs(away["start_ns"] - 10**18) < 10**9, "the time of the last event"


def test_a_node_without_a_runtime_says_so_in_a_line() -> None:
    assert container_events.check(Settings(container_sockets="/a.sock,/b.sock")) == (
        "none of /a.sock,/b.sock is there; mount the runtime's socket or set container_sockets"
    )
