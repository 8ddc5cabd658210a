"""KV transfers, as vLLM's own scheduler waited for them: recorded (vllm_transfers.py), and anew where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors import engine_step
from collectors.rings.ledger import Ledger
from collectors.rings.step_file import TRANSFER, StepFile, StepRecord
from collectors.vllm_plugin.warpline_vllm import hooks, ring
from tests.collectors.gpu_doubles import watching

_DATA = Path(__file__).parent / "data"
_VLLM = os.environ.get("VLLM_PYTHON")
_KNOWN = {
    "cmpl-nixl": "cmpl-far-1", "cmpl-mooncake": "xfer-2", "cmpl-broken": "cmpl-far-3", "cmpl-lost": "cmpl-far-4",
    "cmpl-dropped": "cmpl-far-5", "cmpl-offered": "cmpl-offered", "cmpl-pushed": "xfer-7",
}  # fmt: skip
_SENT = ("cmpl-offered", "cmpl-pushed")


@pytest.fixture(autouse=True)
def ring_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WARPLINE_RING_DIR", str(tmp_path / "rings"))
    return tmp_path / "rings"


def _told(rows: list[dict[str, Any]], truth: dict[str, Any]) -> None:
    """What the scheduler began and ended is told once each, at the time of the call that did."""
    assert {row["internal_id"]: row["outcome"] for row in rows} == {k: v["outcome"] for k, v in truth.items()}
    assert {row["internal_id"]: row["transfer_id"] for row in rows} == _KNOWN
    assert len(rows) == len(truth) == 7
    offsets = []
    for row in rows:
        assert row["direction"] == ("sent" if row["internal_id"] in _SENT else "received")
        assert row["transfer_bytes"] is None and row["descriptors"] is None
        for name, column in (("begun", "start_ns"), ("ended", "end_ns")):
            low, high = truth[row["internal_id"]][name]
            offsets.append((row[column] - high, row[column] - low))
    # Node time is the scheduler's clock and one offset: there is one with which every moment lies inside its call.
    assert max(low for low, _ in offsets) <= min(high for _, high in offsets)


@pytest.mark.parametrize("policy", ["recompute", "fail"])
def test_what_vllms_scheduler_waited_for_is_told_with_its_times_ids_and_outcome(tmp_path: Path, policy: str) -> None:
    recorded = json.loads((_DATA / f"vllm-0.33.0-transfers-{policy}.json").read_text())
    written = ring.StepRing(tmp_path / "rings")
    for kind, payload in recorded["records"]:
        written.write(kind, bytes.fromhex(payload))
    with watching(engine_step, tmp_path) as seen:
        pass
    written.close()
    _told(seen.rows("kv_transfer"), recorded["transfers"])
    finished = {row["internal_id"]: row["finish_reason"] for row in seen.rows("engine_request")}
    ran = {each: reason for each, reason in recorded["finished"].items() if each in finished}
    assert finished == ran and len(ran) == (7 if policy == "recompute" else 5)
    assert seen.losses() == {}


@pytest.mark.slow
@pytest.mark.skipif(not _VLLM, reason="VLLM_PYTHON names no Python that has vLLM")
@pytest.mark.parametrize("policy", ["recompute", "fail"])
def test_vllms_scheduler_tells_the_recorded_transfers_again(tmp_path: Path, root: Path, policy: str) -> None:
    folders = (root / "collectors" / "vllm_plugin", root / "tests" / "simulator")
    plugin = {"PYTHONPATH": os.pathsep.join(map(str, folders)), "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [str(_VLLM), str(root / "tests" / "collectors" / "vllm_transfers.py"), str(tmp_path), policy]
    done = subprocess.run(command, env={**os.environ, **plugin}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with watching(engine_step, tmp_path) as seen:
        seen.wait_for("kv_transfer", 7)
    truth = json.loads((tmp_path / "truth.json").read_text())
    recorded = json.loads((_DATA / f"vllm-0.33.0-transfers-{policy}.json").read_text())
    _told(seen.rows("kv_transfer"), truth["transfers"])
    assert truth["finished"] == recorded["finished"]
    assert [kind for kind, _ in truth["records"]] == [kind for kind, _ in recorded["records"]]
    assert seen.losses() == {}


class _Scheduler:
    """Waits for KV caches as vLLM's does, and calls what it is asked to."""

    failed_recving_kv_req_ids: frozenset[str] = frozenset()

    def schedule(self) -> None: ...

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> None: ...

    def _set_kv_fetch_stage(self, request: Any, stage: str | None) -> str:
        return f"{request.request_id} {stage}"


def _wrapped() -> tuple[Any, hooks.Recorder]:
    kind = type("Scheduler", (_Scheduler,), dict(_Scheduler.__dict__))
    recorder = hooks.Recorder()
    hooks.wrap_scheduler(kind, recorder)
    return kind(), recorder


def test_a_request_that_says_otherwise_what_it_waits_for_ends_transfers_alone(tmp_path: Path) -> None:
    scheduler, recorder = _wrapped()
    good, bad = (SimpleNamespace(request_id=each, kv_transfer_params=None) for each in "ab")
    del bad.kv_transfer_params
    for request, stage in ((good, "in_progress"), (good, "completed_waiting"), (bad, "in_progress"), (good, None)):
        assert scheduler._set_kv_fetch_stage(request, stage) == f"{request.request_id} {stage}"
    recorder.write(ring.UPDATED, lambda: (b"goes on",))
    file = StepFile(recorder.ring().path)
    assert file.reason.startswith("not collecting, because KV transfers: AttributeError")
    assert [record.kind for record in file.take()[0]] == [TRANSFER, ring.UPDATED]
    file.close()
    recorder.ring().close()


def test_a_transfer_whose_end_comes_before_its_start_or_of_no_request_is_counted_as_malformed() -> None:
    from collectors.vllm_plugin.warpline_vllm.transfers import LAYOUT

    payloads = [LAYOUT.pack(5, 4, 0, 1) + b"a", LAYOUT.pack(4, 5, 0, 1), LAYOUT.pack(4, 5, 2, 1) + b"a", b"short"]
    found = Ledger().add([StepRecord(TRANSFER, each) for each in payloads], 0)
    assert (found.malformed, found.transfers) == (4, [])
