"""The images: built by buildah from Debian's own packages, run by containerd and runc as the manifest says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.collectors.test_container_events import containerd
from tests.deploy import containers
from tests.deploy.containers import ROOT, Images, running
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.needs_bpf, pytest.mark.timeout(1800)]
MANIFEST = ROOT / "deploy/manifests/kubernetes-minimal.yaml"
NETWORK = "warpline-images"
CLIENT = """
import httpx
with httpx.Client() as client:
    for number in range(1, 24):
        ask = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "MARKED-PROMPT"}]}
        headers = {"traceparent": f"00-{number:032x}-{1:016x}-01"}
        client.post("http://127.0.0.1:8000/v1/chat/completions", json=ask, headers=headers).raise_for_status()
print("answered")
"""
NEEDS = ("buildah", "mmdebstrap", "containerd", "runc", "ctr", "ip")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    missing = [each for each in NEEDS if not shutil.which(each)]
    if missing:
        pytest.skip(f"cannot build and run images without {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("images")
    found = Images(folder)
    said = found.build()
    assert not said, said[-3000:]
    yield found
    subprocess.run([*found.buildah, "umount", "--all"], capture_output=True, check=False)
    subprocess.run([*found.buildah, "rm", "--all"], capture_output=True, check=False)
    # buildah leaves its store mounted on itself.
    subprocess.run(["umount", "--recursive", folder / "storage/overlay"], capture_output=True, check=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", NETWORK], check=True)
    subprocess.run(["ip", "-n", NETWORK, "link", "set", "lo", "up"], check=True)
    yield NETWORK
    subprocess.run(["ip", "netns", "delete", NETWORK], check=True)


@pytest.fixture(scope="module")
def socket() -> Iterator[Path]:
    with containerd() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the containers mount: a token, empty folders, names of the chart's services."""
    (tmp_path / "token").mkdir()
    (tmp_path / "token/tokens").write_text("0123456789abcdef\n")
    (tmp_path / "token/tokens").chmod(0o444)
    (tmp_path / "hosts").write_text("127.0.0.1 localhost warpline-correlator warpline-dashboard\n")
    for name in ("state", "tmp", "state/ebpf"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name).chmod(0o777)
    return tmp_path


def inside(*command: str, **variables: str) -> str:
    """Run Python in the containers' network; return what it prints, nothing where it fails."""
    words = ["ip", "netns", "exec", NETWORK, sys.executable, *command]
    environment = {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment).stdout


def fetched(path: str) -> str:
    """Fetch from within the containers' network."""
    return inside(
        "-c", "import sys, httpx; print(httpx.get(sys.argv[1]).raise_for_status().text)", f"http://127.0.0.1:{path}"
    )


def requests_found(folder: Path) -> int:
    """How many of the client's requests the correlator tells of."""
    ask = ["-m", "warpline.cli", "query", "request", "--since", "1h", "--format", "csv"]
    shown = {"WARPLINE_QUERY_URL": "http://127.0.0.1:4320", "WARPLINE_QUERY_TOKEN_FILE": str(folder / "token/tokens")}
    return inside(*ask, **shown).count("/v1/chat/completions")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_each_image_lists_what_it_holds_and_holds_no_more_than_its_group(images: Images) -> None:
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)) | {
        "pip",
        "setuptools",
    }
    held: dict[str, set[str]] = {}
    for process in ("collector", "correlator", "dashboard"):
        root, entry, _ = images.mount(f"warpline-{process}:0.1.0")
        bill: dict[str, Any] = json.loads((root / "usr/share/warpline/bill-of-materials.json").read_text())
        held[process] = {each["name"] for each in bill["components"] if each["purl"].startswith("pkg:pypi/")}
        assert {each["purl"].split("/")[0] for each in bill["components"]} == {"pkg:pypi", "pkg:deb"}
        assert held[process] - {"warpline"} <= locked
        assert entry == ["warpline"]
        assert not (root / "usr/bin/gcc").exists()
        has_bcc = any(each["name"] == "python3-bpfcc" for each in bill["components"])
        assert has_bcc == (process == "collector")
        scanner = list((root / "opt/warpline").glob("lib/python3.11/site-packages/warpline/otlp/_scan*.so"))
        assert len(scanner) == 1
    assert "streamlit" in held["dashboard"] - held["collector"] - held["correlator"]
    assert "duckdb" in held["correlator"] - held["collector"] - held["dashboard"]


def test_the_three_run_with_what_the_manifest_gives_them_and_follow_23_requests(
    bpf: None, images: Images, network: str, socket: Path, folder: Path
) -> None:
    server = [sys.executable, "-m", "uvicorn", "demo.server:app", "--port", "8000", "--header", "x-double-of:vllm"]
    served = subprocess.Popen(["ip", "netns", "exec", network, *server, "--log-level", "error"], cwd=ROOT)
    try:
        with (
            running(socket, images, MANIFEST, "correlator", folder, network),
            running(socket, images, MANIFEST, "dashboard", folder, network),
        ):
            until(lambda: fetched("4320/healthz") != "", 240)
            until(lambda: fetched("8501/_stcore/health") != "", 240)
            with running(socket, images, MANIFEST, "ebpf", folder, network):
                until(lambda: 'warpline_source_up{source="http_exchange"} 1' in fetched("9464/metrics"), 240)
                confined = {name: status_of(containers.pid_of(socket, name)) for name in ("ebpf", "correlator")}
                assert inside("-c", CLIENT) == "answered\n"
                until(lambda: requests_found(folder) == 23, 240)
                attached = containers.bpf_programs_of(containers.pid_of(socket, "ebpf"))
                assert len(attached & containers.bpf_programs()) > 8
            until(lambda: not attached & containers.bpf_programs(), 60)
    finally:
        served.terminate()
        served.wait()
    wanted = {"BPF": 39, "PERFMON": 38, "SYS_PTRACE": 19, "DAC_READ_SEARCH": 2, "CHECKPOINT_RESTORE": 40}
    assert int(confined["ebpf"]["CapEff"], 16) == sum(1 << bit for bit in wanted.values())
    assert int(confined["correlator"]["CapEff"], 16) == 0
    for found in confined.values():
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert confined["correlator"]["Uid"].split() == ["65532"] * 4
    said = (folder / "ebpf.log").read_text()
    assert "Traceback" not in said
