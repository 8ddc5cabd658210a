"""The images: built by buildah from Debian's own packages, run by containerd and runc as the manifest says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.collectors.test_agent_tls import made
from tests.collectors.test_container_events import containerd
from tests.deploy import containers
from tests.deploy.containers import ROOT, Images, running
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.needs_bpf, pytest.mark.timeout(1800)]
MANIFEST, FULL = (ROOT / f"deploy/manifests/kubernetes-{size}.yaml" for size in ("minimal", "full"))
NETWORK = f"warpline-images-{os.getpid()}"
CLIENT = """
import httpx
with httpx.Client() as client:
    for number in range(1, 24):
        ask = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "MARKED-PROMPT"}]}
        headers = {"traceparent": f"00-{number:032x}-{1:016x}-01"}
        client.post("http://127.0.0.1:8000/v1/chat/completions", json=ask, headers=headers).raise_for_status()
print("answered")
"""
READING = 'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-23",device="nvidia0",modelName="M",Hostname="n"} 97.25'
EXPORTER = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer
class Exporter(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{READING}' + bytes([10]))
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", 9400), Exporter).serve_forever()
"""
"""A double of dcgm-exporter: there is no GPU here."""
NEEDS = ("buildah", "mmdebstrap", "containerd", "runc", "ctr", "ip")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    missing = [each for each in NEEDS if not shutil.which(each)]
    if missing:
        pytest.skip(f"cannot build and run images without {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("images")
    found = Images(folder)
    try:
        said = found.build()
        assert not said, said[-3000:]
        yield found
    finally:  # What a build that failed leaves mounted no later run of the tests can delete: each would end in an error.
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
def tracefs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Linux kernel's list of probes, which the machine itself may not have mounted."""
    folder = tmp_path_factory.mktemp("tracefs")
    subprocess.run(["mount", "-t", "tracefs", "tracefs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def socket() -> Iterator[Path]:
    with containerd() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the containers of a pod mount: a token, empty folders, names of the chart's services."""
    return laid_out(tmp_path)


def laid_out(folder: Path) -> Path:
    (folder / "token").mkdir(parents=True)
    (folder / "token/tokens").write_text("0123456789abcdef\n")
    (folder / "token/tokens").chmod(0o444)
    (folder / "hosts").write_text("127.0.0.1 localhost warpline-correlator warpline-dashboard\n")
    for name in ("state", "tmp", "state/ebpf"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name).chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Secret of the correlator's certificate holds; collectors show the same."""
    made_in, secret = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("secret")
    authority = made(made_in, "authority.test")
    pair = made(made_in, "warpline-correlator", authority)
    for name, file in (("ca.crt", authority.certificate), ("tls.crt", pair.certificate), ("tls.key", pair.key)):
        shutil.copy(file, secret / name)
        (secret / name).chmod(0o444)
    secret.chmod(0o755)  # The correlator is not root.
    return secret


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


def told(folder: Path, view: str) -> str:
    """What the correlator tells of the last hour, as CSV."""
    ask = ["-m", "warpline.cli", "query", view, "--since", "1h", "--format", "csv"]
    shown = {"WARPLINE_QUERY_URL": "http://127.0.0.1:4320", "WARPLINE_QUERY_TOKEN_FILE": str(folder / "token/tokens")}
    return inside(*ask, **shown)


def requests_found(folder: Path) -> int:
    """How many of the client's requests the correlator tells of."""
    return told(folder, "request").count("/v1/chat/completions")


def watches(page: str) -> bool:
    """Whether the HTTP source runs in full: what compiling costs on a busy machine lowers its detail for a while."""
    return all(
        f'warpline_source_{name}{{source="http_exchange"}} {value}' in page
        for name, value in (("up", 1), ("detail", 2))
    )


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_each_image_lists_what_it_holds_and_holds_no_more_than_its_group(images: Images) -> None:
    locked = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    held: dict[str, set[str]] = {}
    for process in ("collector", "correlator", "dashboard"):
        root, entry, _ = images.mount(f"warpline-{process}:0.1.0")
        bill: dict[str, Any] = json.loads((root / "usr/share/warpline/bill-of-materials.json").read_text())
        held[process] = {each["name"] for each in bill["components"] if each["purl"].startswith("pkg:pypi/")}
        assert {each["purl"].split("/")[0] for each in bill["components"]} == {"pkg:pypi", "pkg:deb"}
        assert held[process] - {"warpline"} <= locked
        assert entry == ["warpline"]
        assert not (root / "usr/bin/gcc").exists() and "pip" not in held[process]
        assert not list((root / "var/cache/apt").rglob("*.deb")) and not list((root / "var/lib/apt/lists").iterdir())
        has_bcc = any(each["name"] == "python3-bpfcc" for each in bill["components"])
        assert has_bcc == (process == "collector")
        scanner = list((root / "opt/warpline").glob("lib/python3.11/site-packages/warpline/otlp/_scan*.so"))
        assert len(scanner) == 1
    assert "streamlit" in held["dashboard"] - held["collector"] - held["correlator"]
    assert "duckdb" in held["correlator"] - held["collector"] - held["dashboard"]


@pytest.mark.parametrize("process", ["collector", "correlator", "dashboard"])
def test_an_endpoints_certificate_is_held_against_the_authorities_that_the_world_trusts(
    images: Images, process: str
) -> None:
    root, _, _ = images.mount(f"warpline-{process}:0.1.0")
    ask = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    command = ["chroot", root, "/opt/warpline/bin/python", "-c", ask]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) > 100


def test_the_three_run_with_what_the_manifest_gives_them_and_follow_23_requests(
    bpf: None, images: Images, network: str, socket: Path, folder: Path, tracefs: Path
) -> None:
    before = containers.registered_probes(tracefs)
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
                until(lambda: watches(fetched("9464/metrics")), 240)
                confined = {name: status_of(containers.pid_of(socket, name)) for name in ("ebpf", "correlator")}
                assert inside("-c", CLIENT) == "answered\n"
                until(lambda: requests_found(folder) == 23, 240)
                registered = containers.registered_probes(tracefs)
                attached = containers.bpf_programs_of(containers.pid_of(socket, "ebpf"))
                assert len(attached & containers.bpf_programs()) > 8
            until(lambda: not attached & containers.bpf_programs(), 60)
            assert containers.registered_probes(tracefs) == registered == before, (
                "uprobes are multi links, and leave no event"
            )
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


SOURCES = {
    "gpu": ("dcgm", "cuda_kernel", "engine_step"),
    "net": ("hubble", "tetragon", "envoy_log", "container_events"),
    "cluster": ("cluster_state", "engine_metrics"),
}
"""What each container is asked to run, of which this machine has no GPU, no agent and no cluster."""


def test_the_collectors_without_capabilities_reach_a_correlator_that_asks_for_their_certificate(
    images: Images, network: str, socket: Path, folder: Path, certificates: Path, tmp_path: Path
) -> None:
    pods = {name: laid_out(tmp_path / name) for name in ("node", "cluster")}
    for each in (folder, *pods.values()):
        (each / "tls").symlink_to(certificates)
    homes = {"gpu": pods["node"], "net": pods["node"], "cluster": pods["cluster"]}
    exporter = subprocess.Popen(["ip", "netns", "exec", network, sys.executable, "-c", EXPORTER])
    try:
        with ExitStack() as stack:
            stack.enter_context(running(socket, images, FULL, "correlator", folder, network))
            until(lambda: fetched("4320/healthz") != "", 240)
            for name, home in homes.items():
                stack.enter_context(running(socket, images, FULL, name, home, network))
            wanted = {source for sources in SOURCES.values() for source in sources}
            until(lambda: wanted <= set(re.findall(r'"(\w+)"', told(folder, "source"))), 240)
            until(lambda: "97.25" in told(folder, "gpu_sample"), 240)
            for name, port in (("gpu", 9465), ("net", 9466), ("cluster", 9464)):
                assert all(
                    f'warpline_source_up{{source="{each}"}}' in fetched(f"{port}/metrics") for each in SOURCES[name]
                )
                confined = status_of(containers.pid_of(socket, name))
                assert int(confined["CapEff"], 16) == 0
                assert (confined["NoNewPrivs"], confined["Seccomp"]) == ("1", "2")
    finally:
        exporter.kill()
        exporter.wait()
    assert all("Traceback" not in (home / f"{name}.log").read_text() for name, home in homes.items())
