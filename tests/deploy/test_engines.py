"""What goes into engines' pods and what is asked of dcgm-exporter: valid, the same everywhere, and found by Python."""

from __future__ import annotations

import csv
import os
import re
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from collectors.inject import install
from collectors.inject.build import NAME, compiler
from collectors.wire.gpu_fields import DCGM
from tests.deploy import custom_resources
from warpline import cli
from warpline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINES = sorted((ROOT / "deploy/engines").glob("*.yaml"))
COUNTERS = ROOT / "deploy/dcgm-exporter/dcgm-metrics.csv"
FOUND = """
from importlib.metadata import entry_points
[found] = entry_points(group="vllm.general_plugins", name="warpline")
print(found.dist.name, found.dist.version)
register = found.load()
print(register(), __import__("warpline_vllm").__file__)
"""
RING = """
import os, sys
from pathlib import Path
from warpline_vllm.ring import StepRing
os.umask(0o022)
os.setgroups([]), os.setgid(65534), os.setuid(65534)
ring = StepRing(Path(sys.argv[1]), 65536)
print(ring.path, flush=True)
sys.stdin.read()
"""
WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
Object = dict[str, Any]


def pods(path: Path) -> list[Object]:
    """The pods that a manifest makes, an InferenceService's predictor among them."""
    return [_pod(each) for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def _pod(made: Object) -> Object:
    if made["kind"] == "Deployment":
        return dict(made["spec"]["template"]["spec"])
    return custom_resources.predictor_pod(made)


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.33"])
@pytest.mark.parametrize("path", ENGINES, ids=lambda path: path.stem)
def test_every_engines_pod_is_valid_to_the_letter(path: Path, version: str) -> None:
    for made in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if custom_resources.is_custom(made):
            custom_resources.validate(made, version)
        else:
            kubernetes_validate.validate(made, version, strict=True)


def test_the_part_that_is_warplines_is_the_same_in_every_engine() -> None:
    assert {path.stem for path in ENGINES} == {"vllm", "kserve", "triton", "llm-d"}
    parts = []
    for pod in (pod for path in ENGINES for pod in pods(path)):
        [engine] = pod["containers"]
        parts.append([pod["initContainers"], engine["env"], engine["volumeMounts"], pod["volumes"]])
    assert len(parts) == 5 and all(part == parts[0] for part in parts)


def test_the_init_container_runs_a_command_that_exists_with_no_more_privilege_than_root() -> None:
    [init] = pods(ENGINES[0])[0]["initContainers"]
    args = cli._parser(init["args"][0]).parse_args(init["args"])
    assert args.folder == Path("/warpline") and args.share_rings
    context = init["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]} and context["readOnlyRootFilesystem"]
    assert context["allowPrivilegeEscalation"] is False and context["seccompProfile"] == {"type": "RuntimeDefault"}
    mounted = {mount["mountPath"] for mount in init["volumeMounts"]}
    assert mounted == {str(args.folder), Settings().ring_dir}


@pytest.fixture(scope="module")
def laid_out() -> Iterator[Path]:
    """The folder that an engine's pod mounts, laid out by the init container's own command; rings beside it."""
    if compiler() is None:
        pytest.skip("the library cannot be built without a C compiler")
    with tempfile.TemporaryDirectory() as made:  # Not one of pytest's: another user comes in.
        folder = Path(made)
        folder.chmod(0o755)
        _lay_out(folder)
        yield folder


def _lay_out(folder: Path) -> None:
    command = [sys.executable, "-m", "warpline.cli", "inject", str(folder / "warpline"), "--share-rings"]
    done = subprocess.run(
        command,
        env=os.environ | {"WARPLINE_RING_DIR": str(folder / "rings")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"CUDA_INJECTION64_PATH={folder}/warpline/{NAME}",
        f"PYTHONPATH={folder}/warpline/python",
    ]


def test_a_python_without_the_plugin_installed_finds_it_by_its_entry_point(laid_out: Path) -> None:
    folder = laid_out / "warpline/python"
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", FOUND], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    version, registered = done.stdout.splitlines()
    declared = tomllib.loads((ROOT / "collectors/vllm_plugin/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version == f"{declared['name']} {declared['version']}"
    assert registered == f"None {folder}/warpline_vllm/__init__.py"
    [(group, entries)] = declared["entry-points"].items()
    text = "".join(f"{name} = {what}\n" for name, what in entries.items())
    assert f"[{group}]\n{text}" == install.ENTRY_POINTS


def test_the_library_is_one_that_cuda_can_load(laid_out: Path) -> None:
    load = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); library.InitializeInjection, library.warpline_set_step"
    )
    subprocess.run([sys.executable, "-S", "-c", load, str(laid_out / "warpline" / NAME)], check=True)  # Not in ours.
    assert stat.S_IMODE((laid_out / "warpline" / NAME).stat().st_mode) == 0o755


def test_a_ring_of_an_engine_that_is_not_root_is_open_to_a_collector_without_capabilities(laid_out: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run an engine as another user")
    environment = {"PYTHONPATH": str(laid_out / "warpline/python"), "PYTHONDONTWRITEBYTECODE": "1"}
    engine = subprocess.Popen(
        [sys.executable, "-S", "-c", RING, str(laid_out / "rings")],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert engine.stdout
        ring = Path(engine.stdout.readline().strip())
        read = f"import os, pathlib; p = pathlib.Path({str(ring)!r}); p.open('r+b').close(); p.unlink()"
        done = subprocess.run([*WITHOUT_CAPABILITIES, sys.executable, "-S", "-c", read], capture_output=True, text=True)
    finally:
        engine.communicate("")
    assert done.returncode == 0, done.stderr
    assert not ring.exists()


def counters() -> dict[str, str]:
    """Field of DCGM → its Prometheus type, of the file for dcgm-exporter."""
    lines = [line for line in COUNTERS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = list(csv.reader(lines, skipinitialspace=True))
    assert all(len(row) == 3 for row in rows) and len({row[0] for row in rows}) == len(rows)
    return {field: kind for field, kind, _ in rows}


def test_dcgm_exporter_is_asked_for_every_reading_that_a_view_or_a_rule_or_a_page_uses() -> None:
    texts = [*(ROOT / "correlator").rglob("*.sql"), *(ROOT / "dashboards").rglob("*.py")]
    named = {name for path in texts for name in re.findall(r"'((?:hw|warpline\.gpu)\.[a-z_.]+)'", path.read_text())}
    needed = {(told.metric, told.part) for told in DCGM.values() if told.metric in named}
    asked = {field.removeprefix("DCGM_FI_") for field in counters()}
    given = {(DCGM[each].metric, DCGM[each].part) for each in asked if each in DCGM}
    assert len(needed) > 20
    assert needed <= given, needed - given


def test_each_counter_is_known_and_has_the_type_that_its_meaning_says() -> None:
    for field, kind in counters().items():
        if kind == "label":
            continue
        monotonic = DCGM[field.removeprefix("DCGM_FI_")].monotonic
        assert monotonic is None or kind == ("counter" if monotonic else "gauge"), field


def test_each_counter_is_a_field_of_dcgm(shared_data: Path) -> None:
    lines = (shared_data / "dcgm/fields/dcgm_fields.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    known = {name for row in rows for name in [row[1], *re.split(r"[ ,;]+", row[2])]}
    assert set(counters()) <= known, set(counters()) - known
