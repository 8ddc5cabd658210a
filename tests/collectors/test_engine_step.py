"""The step ledger: what the plugin writes in the engine is what the collector reads, and the engine never notices."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors import engine_step
from collectors.rings.ledger import Ledger
from collectors.rings.ring_file import NotARing
from collectors.rings.step_file import StepFile, StepRecord
from collectors.vllm_plugin.warpline_vllm import hooks, ring
from tests.collectors import vllm_shapes
from tests.collectors.gpu_doubles import watching
from tests.collectors.vllm_shapes import output


@pytest.fixture(autouse=True)
def ring_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WARPLINE_RING_DIR", str(tmp_path / "rings"))
    return tmp_path / "rings"


def _wrapped(steps: list) -> tuple[type, type, hooks.Recorder]:
    """Scheduler and worker classes of our own, wrapped as vLLM's are."""
    scheduler = type("Scheduler", (vllm_shapes.Scheduler,), dict(vllm_shapes.Scheduler.__dict__))
    worker = type("Worker", (vllm_shapes.Worker,), dict(vllm_shapes.Worker.__dict__))
    recorder = hooks.Recorder()
    hooks.wrap_scheduler(scheduler, recorder)
    hooks.wrap_worker(worker, recorder)
    return scheduler(steps), worker(), recorder


def _serve(steps: list) -> hooks.Recorder:
    scheduler, worker, recorder = _wrapped(steps)
    for _ in steps:
        planned = scheduler.schedule()
        ran = worker.execute_model(planned)
        assert worker.sample_tokens(None) == "sampled"
        assert scheduler.update_from_output(planned, ran) == f"{len(planned.num_scheduled_tokens)} outputs"
    return recorder


STEPS = [
    output({"a": (100, 0, 64)}, {}),
    output({"b": (7, 0, 7)}, {"a": (64, 0, 36)}),
    output({}, {"a": (100, 1, 1), "b": (7, 1, 1)}),
    output({}, {"b": (8, 2, 4)}, scheduled_spec_decode_tokens={"b": [1, 2, 3]}, preempted_req_ids={"a"}),
    output({}, {"a": (32, 2, 70), "b": (12, 6, 1)}, resumed={"a"}),
    output({}, {"a": (102, 3, 1)}, finished_req_ids={"b"}),
    output({}, {}, finished_req_ids={"a"}),
]


def _read(tmp_path: Path, recorder: hooks.Recorder):
    with watching(engine_step, tmp_path) as seen:
        pass
    recorder.ring().close()
    return seen


def test_members_have_their_tokens_context_and_phase(tmp_path: Path) -> None:
    seen = _read(tmp_path, _serve(STEPS))
    columns = (
        "step_ordinal",
        "internal_id",
        "scheduled_tokens",
        "computed_before_tokens",
        "phase",
        "recomputed_tokens",
    )
    assert [tuple(row[name] for name in columns) for row in seen.rows("step_member")] == [
        (0, "a", 64, 0, "prefill", 0),
        (1, "b", 7, 0, "prefill", 0),
        (1, "a", 36, 64, "prefill", 0),
        (2, "a", 1, 100, "decode", 0),
        (2, "b", 1, 7, "decode", 0),
        (3, "b", 4, 8, "decode", 0),
        (4, "a", 70, 32, "recompute", 69),
        (4, "b", 1, 12, "decode", 0),
        (5, "a", 1, 102, "decode", 0),
    ]
    assert {(row["level"], row["evidence"]) for row in seen.rows("step_member")} == {("plugin", "exact")}
    assert seen.losses() == {}


def test_drafts_and_cached_tokens_are_told(tmp_path: Path) -> None:
    seen = _read(tmp_path, _serve(STEPS))
    rows = {(row["step_ordinal"], row["internal_id"]): row for row in seen.rows("step_member")}
    assert (rows[3, "b"]["draft_tokens"], rows[3, "b"]["accepted_tokens"]) == (3, 3)
    assert rows[4, "a"]["cached_tokens"] == 32
    assert sum(row["cached_tokens"] for row in rows.values()) == 32
    assert all(row["sampled"] for row in rows.values())


def test_steps_add_up_and_ranks_pair_with_the_scheduler_by_hash(tmp_path: Path) -> None:
    seen = _read(tmp_path, _serve(STEPS))
    steps = [row for row in seen.rows("engine_step") if row["rank"] is None]
    ranks = {row["ordinal"]: row for row in seen.rows("engine_step") if row["rank"] == 0}
    assert [row["ordinal"] for row in steps] == list(range(7))
    for row in steps:
        assert row["context_tokens"] + row["generation_tokens"] == row["scheduled_tokens"]
        assert row["scheduled_tokens"] == 0 or ranks[row["ordinal"]]["member_hash"] == row["member_hash"]
        assert row["scheduled_tokens"] == 0 or row["start_ns"] <= ranks[row["ordinal"]]["start_ns"] < row["end_ns"]
    assert {row["ordinal"]: row["preempted"] for row in steps if row["preempted"]} == {3: 1}
    assert len(ranks) == 6


def test_a_requests_life_is_told_as_far_as_a_scheduler_knows_it(tmp_path: Path) -> None:
    seen = _read(tmp_path, _serve(STEPS))
    last = {row["internal_id"]: row for row in seen.rows("engine_request")}
    assert (last["a"]["prompt_tokens"], last["a"]["output_tokens"], last["a"]["preemptions"]) == (100, 5, 1)
    assert (last["b"]["prompt_tokens"], last["b"]["output_tokens"], last["b"]["preemptions"]) == (7, 7, 0)
    assert all(row["end_ns"] > row["start_ns"] for row in last.values())
    told = [(row["internal_id"], row["kind"], row["step_ordinal"]) for row in seen.rows("engine_event")]
    expected = [
        ("a", "scheduled", 0), ("a", "first_token", 0), ("b", "scheduled", 1), ("b", "first_token", 1),
        ("a", "preempted", 3), ("a", "resumed", 4), ("b", "finished", 5), ("a", "finished", 6),
    ]  # fmt: skip
    assert told == expected


class _Ends(vllm_shapes.Scheduler):
    """Tells which requests ended as vLLM's scheduler does."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        ends = scheduler_output.ends
        told = [SimpleNamespace(request_id=each, finish_reason=ends.get(each)) for each in model_runner_output.req_ids]
        return {0: SimpleNamespace(outputs=told)}

    def finish_requests(self, request_ids: list[str], finished_status: int) -> list[Any]:
        return [SimpleNamespace(request_id=each, get_finished_reason=lambda: finished_status) for each in request_ids]


def test_why_and_when_a_request_ended_is_told_with_the_step_in_which_it_did(tmp_path: Path) -> None:
    plan = [output({"a": (4, 0, 4), "b": (5, 0, 5), "c": (6, 0, 6)}, {}), output({}, {"a": (4, 1, 1), "b": (5, 1, 1)})]
    plan.append(output({}, {}, finished_req_ids={"a", "b", "c"}))
    for step, ends in zip(plan, ({"c": 0}, {"a": 1}, {}), strict=True):
        step.ends = ends
    recorder = hooks.Recorder()
    kind = type("Scheduler", (_Ends,), {**vllm_shapes.Scheduler.__dict__, **_Ends.__dict__})
    hooks.wrap_scheduler(kind, recorder)
    scheduler, worker = kind(plan), vllm_shapes.Worker()
    for number, step in enumerate(plan):
        assert scheduler.schedule() is step
        scheduler.update_from_output(step, worker.execute_model(step))
        if number == 1:
            assert [each.request_id for each in scheduler.finish_requests(["b", "unknown"], 2)] == ["b", "unknown"]
    seen = _read(tmp_path, recorder)
    last = {row["internal_id"]: row for row in seen.rows("engine_request")}
    assert {each: row["finish_reason"] for each, row in last.items()} == {"a": "length", "b": "abort", "c": "stop"}
    assert {each: row["output_tokens"] for each, row in last.items()} == {"a": 2, "b": 2, "c": 1}
    ended = [row for row in seen.rows("engine_event") if row["kind"] in ("finished", "aborted")]
    assert [(row["internal_id"], row["kind"], row["step_ordinal"]) for row in ended] == [
        ("c", "finished", 0), ("a", "finished", 1), ("b", "aborted", None),
    ]  # fmt: skip
    assert seen.losses() == {}


def test_a_dummy_step_is_marked(tmp_path: Path) -> None:
    _, worker, recorder = _wrapped([])
    worker.execute_dummy_batch()
    seen = _read(tmp_path, recorder)
    assert [(row["dummy"], row["rank"], row["scheduled_tokens"]) for row in seen.rows("engine_step")] == [(True, 0, 0)]


def test_launches_of_a_dummy_step_bear_its_number_and_none_after_it(tmp_path: Path) -> None:
    _, worker, recorder = _wrapped([])
    told: list[int] = []
    recorder.tell_library = told.append  # type: ignore[method-assign]
    worker.execute_dummy_batch()
    worker.execute_dummy_batch()
    steps = _read(tmp_path, recorder).rows("engine_step")
    assert told == [-2, -1, -3, -1]
    assert [row["ordinal"] for row in steps] == [-2, -3]


def test_a_layout_that_does_not_add_up_switches_it_off_and_the_engine_goes_on(tmp_path: Path) -> None:
    wrong = output({"a": (10, 0, 10)}, {})
    wrong.total_num_scheduled_tokens = 11
    seen = _read(tmp_path, _serve([STEPS[0], wrong, STEPS[1]]))
    assert len(seen.rows("step_member")) == 1
    assert [
        why for why in seen.losses() if why.startswith("not collecting, because Mismatch: 1 members with 10 tokens")
    ]


@pytest.mark.parametrize("broken", ["scheduled_new_reqs", "num_scheduled_tokens", "scheduled_cached_reqs"])
def test_a_field_that_is_gone_never_raises_into_the_engine(tmp_path: Path, broken: str) -> None:
    step = output({"a": (10, 0, 10)}, {})
    scheduler, _, recorder = _wrapped([step])
    delattr(step, broken)
    assert scheduler.schedule() is step
    file = StepFile(recorder.ring().path)
    assert "not collecting" in file.reason
    file.close()
    recorder.ring().close()


def test_without_a_ring_directory_the_engine_goes_on(tmp_path: Path, ring_dir: Path) -> None:
    ring_dir.write_text("a file where the directory should be")
    scheduler, worker, _ = _wrapped(STEPS[:1])
    planned = scheduler.schedule()
    assert scheduler.update_from_output(planned, worker.execute_model(planned)) == "1 outputs"


def test_an_error_of_the_engine_stays_the_engines(tmp_path: Path) -> None:
    scheduler, _, _ = _wrapped([])
    with pytest.raises(StopIteration):
        scheduler.schedule()


def test_a_ring_that_went_round_tells_exactly_how_many_records_are_gone(ring_dir: Path) -> None:
    written = ring.StepRing(ring_dir, size=4096)
    for number in range(1, 1001):
        written.write(ring.EXECUTED, number.to_bytes(4, "little") * (1 + number % 7))
        if number == 10:
            file = StepFile(written.path)
            assert len(file.take()[0]) == 10
        if number == 990:
            assert file.take() == ([], 0)
    records, lost = file.take()
    assert [int.from_bytes(each.payload[:4], "little") for each in records] == list(range(991, 1001))
    assert lost == 980
    written.close()
    file.close()


def test_records_survive_every_turn_of_the_ring(ring_dir: Path) -> None:
    written = ring.StepRing(ring_dir, size=1024)
    file = StepFile(written.path)
    chance = random.Random(23)
    seen = []
    for number in range(997):
        written.write(ring.EXECUTED, number.to_bytes(4, "little") + bytes(chance.randrange(200)))
        records, lost = file.take()
        assert lost == 0
        seen += [int.from_bytes(each.payload[:4], "little") for each in records]
    assert seen == list(range(997))
    written.close()
    file.close()


def test_random_bytes_are_counted_and_never_raise(tmp_path: Path) -> None:
    chance = random.Random(7)
    records = [StepRecord(chance.randrange(6), chance.randbytes(chance.randrange(300))) for _ in range(499)]
    assert Ledger().add(records, 0).malformed > 400
    junk = tmp_path / "steps-1.ring"
    for size in (0, 10, 100, 5000):
        junk.write_bytes(os.urandom(size))
        with pytest.raises(NotARing):
            StepFile(junk)


def test_a_process_that_attached_late_is_told_without_its_prompt() -> None:
    from collectors.vllm_plugin.warpline_vllm import steps

    record = StepRecord(1, b"".join(steps.scheduled(9, 100, STEPS[2])))
    changes = Ledger().add([record], 10**12)
    assert changes.steps[0].phase.tolist() == [0, 0]
    assert {each.prompt for each in changes.requests.values()} == {-1}


_VLLM = os.environ.get("VLLM_PYTHON")


@pytest.mark.slow
@pytest.mark.skipif(not _VLLM, reason="VLLM_PYTHON names no Python that has vLLM")
@pytest.mark.parametrize("scheduling", ["plain", "async"])
def test_of_vllms_own_scheduler_every_member_of_every_step_is_told(tmp_path: Path, root: Path, scheduling: str) -> None:
    plugin = {"PYTHONPATH": str(root / "collectors" / "vllm_plugin"), "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [str(_VLLM), str(root / "tests" / "collectors" / "vllm_workload.py"), str(tmp_path), scheduling]
    done = subprocess.run(command, env={**os.environ, **plugin}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with watching(engine_step, tmp_path) as seen:
        seen.wait_for("step_member", 1)
    truth = json.loads((tmp_path / "truth.json").read_text())
    told: dict[int, dict[str, list[int]]] = {}
    for row in seen.rows("step_member"):
        amounts = [row["scheduled_tokens"], row["computed_before_tokens"]]
        told.setdefault(row["step_ordinal"], {})[row["internal_id"]] = amounts
    assert [told[each] for each in sorted(told)] == [step["members"] for step in truth["steps"]]
    steps = {row["ordinal"]: row["preempted"] for row in seen.rows("engine_step")}
    assert [steps[each] for each in sorted(told)] == [len(step["preempted"]) for step in truth["steps"]]
    last = {row["internal_id"]: row for row in seen.rows("engine_request")}
    columns = ("prompt_tokens", "output_tokens", "preemptions", "finish_reason")
    lives = {each: [row[name] for name in columns] for each, row in last.items()}
    assert lives == truth["requests"]
    assert sum(preemptions for _, _, preemptions, _ in truth["requests"].values()) > 0
    assert Counter(reason for *_, reason in truth["requests"].values()) == {"length": 36, "abort": 1}
    assert sum(row["recomputed_tokens"] for row in seen.rows("step_member")) > 0
    assert seen.losses() == {}
