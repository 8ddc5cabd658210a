"""The model server's double: what it did, what its processes wrote down and what the sources say of it agree."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest

from collectors import cuda_kernel, engine_step
from demo import load
from demo.engine import MODEL, kv, launch, wire
from tests.collectors.gpu_doubles import Watcher, needs_compiler, truth, watching

pytestmark = needs_compiler


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def _fault(url: str, **values: float) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/demo/fault", json.dumps(values).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


@dataclass
class Run:
    """One served load and everything that is known of it."""

    log: list[dict[str, Any]]
    gpu: Watcher
    steps: Watcher
    truth: list[dict[str, str]]


def _serve(directory: Path, requests: int, in_flight: int, **faults: float) -> Run:
    environment = {"WARPLINE_DOUBLE_TRUTH": str(directory / "truth.csv")}
    with (
        watching(cuda_kernel, directory) as gpu,
        watching(engine_step, directory) as steps,
        launch.start(directory, environment=environment) as server,
    ):
        if faults:
            _fault(server.url, **faults)
        sent = asyncio.run(load.run(server.url, requests, in_flight, model=MODEL))
        assert [each.status for each in sent] == [200] * requests
        log = json.loads(_get(f"{server.url}/demo/log"))
    return Run(log, gpu, steps, truth(directory))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield _serve(tmp_path_factory.mktemp("engine"), 23, 11)


def test_each_request_has_its_prompt_and_its_tokens_in_the_ledger(served: Run) -> None:
    assert len(served.log) == 23
    last = {row["internal_id"]: row for row in served.steps.rows("engine_request")}
    scheduled: Counter[str] = Counter()
    for row in served.steps.rows("step_member"):
        scheduled[row["internal_id"]] += row["scheduled_tokens"]
    for request in served.log:
        row = last[request["internal_id"]]
        assert (row["prompt_tokens"], row["output_tokens"]) == (request["prompt_tokens"], request["chunks"])
        assert row["finish_reason"] == "length"
        assert scheduled[request["internal_id"]] == request["prompt_tokens"] + request["chunks"] - 1
    assert set(last) == {each["internal_id"] for each in served.log}


def test_every_execution_is_the_devices_own_and_belongs_to_a_step(served: Run) -> None:
    anchor = served.gpu.context.clock.anchor_ns
    rows = served.gpu.rows("gpu_kernel")
    told = Counter((row["kind"], row["start_ns"] - anchor, row["end_ns"] - anchor) for row in rows)
    log = Counter((r["kind"], int(r["start_ns"]), int(r["end_ns"])) for r in served.truth if r["kind"] != "node")
    assert told == log
    steps = {row["ordinal"] for row in served.steps.rows("engine_step") if row["rank"] == 0}
    assert {row["step_ordinal"] for row in rows} == steps
    launched = {row["correlation_id"]: row["step_ordinal"] for row in served.gpu.rows("launch")}
    assert all(launched[row["correlation_id"]] == row["step_ordinal"] for row in rows)
    assert served.gpu.losses() == served.steps.losses() == {}


def test_a_steps_executions_lie_inside_its_run(served: Run) -> None:
    window = {r["ordinal"]: (r["start_ns"], r["end_ns"]) for r in served.steps.rows("engine_step") if r["rank"] == 0}
    for row in served.gpu.rows("gpu_kernel"):
        start, end = window[row["step_ordinal"]]
        assert start <= row["start_ns"] <= row["end_ns"] <= end


def test_decode_steps_are_one_graph_and_others_are_eager(served: Run) -> None:
    kinds: dict[int, Counter[str]] = defaultdict(Counter)
    for row in served.gpu.rows("gpu_kernel"):
        kinds[row["step_ordinal"]][row["kind"]] += 1
    seen = set()
    for step in served.steps.rows("engine_step"):
        if step["rank"] is None and step["requests"]:
            # A prompt's last token alone is a row like a decode's, and may ride in the graph.
            graph = step["scheduled_tokens"] == step["requests"]
            seen.add(graph)
            assert kinds[step["ordinal"]]["graph"] == int(graph)
            assert (kinds[step["ordinal"]]["kernel"] > 2) != graph
    assert seen == {True, False}


def test_everything_is_marked_as_simulated(served: Run) -> None:
    tables = [(served.gpu, "gpu_kernel"), (served.gpu, "launch"), (served.gpu, "gpu"), (served.steps, "step_member")]
    tables += [(served.steps, "engine_step"), (served.steps, "engine_request"), (served.steps, "engine_event")]
    for watcher, table in tables:
        assert watcher.rows(table)
        assert all(row["simulated"] for row in watcher.rows(table))


def test_a_small_kv_cache_preempts_and_the_ledger_tells_what_was_computed_twice(tmp_path: Path) -> None:
    run = _serve(tmp_path, 17, 17, kv_blocks=13)
    rows = run.steps.rows("step_member")
    again = sum(row["recomputed_tokens"] for row in rows)
    assert again > 0
    assert any(row["phase"] == "recompute" for row in rows)
    scheduled = sum(row["scheduled_tokens"] for row in rows)
    assert scheduled - again == sum(each["prompt_tokens"] + each["chunks"] - 1 for each in run.log)
    kinds = Counter(row["kind"] for row in run.steps.rows("engine_event"))
    assert kinds["preempted"] == kinds["resumed"] > 0
    assert kinds["scheduled"] == kinds["first_token"] == kinds["finished"] == 17


def test_a_slower_clock_stretches_every_kernel_and_the_gpus_page_says_so(tmp_path: Path) -> None:
    with watching(cuda_kernel, tmp_path) as gpu, launch.start(tmp_path) as server:
        asyncio.run(load.run(server.url, 3, 1, model=MODEL))
        assert _fault(server.url, clock_ratio=0.25)["clock_ratio"] == 0.25
        asyncio.run(load.run(server.url, 3, 1, model=MODEL))
        page = _get(f"{server.url}/dcgm/metrics")
    clock = next(line for line in page.splitlines() if line.startswith("DCGM_FI_DEV_SM_CLOCK"))
    assert float(clock.split()[-1]) == 495
    assert "(simulated)" in clock
    logits = [row["end_ns"] - row["start_ns"] for row in gpu.rows("gpu_kernel") if row["name"] == "logits_gemm_kernel"]
    assert sorted(set(logits)) == [152_000, 608_000]


def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    async def leave(url: str) -> None:
        body = {"model": MODEL, "prompt": "go on", "max_tokens": 100_000, "stream": True}
        async with (
            httpx.AsyncClient(timeout=10) as client,
            client.stream("POST", f"{url}/v1/completions", json=body) as r,
        ):
            async for _ in r.aiter_lines():
                return

    async def until_idle(url: str) -> str:
        async with httpx.AsyncClient(timeout=10) as client:
            for _ in range(100):
                page = (await client.get(f"{url}/metrics")).text
                if 'running{model_name="warpline-double (simulated)",engine="0"} 0' in page:
                    return page
                await asyncio.sleep(0.05)
        return "still running"

    with launch.start(tmp_path, watched=False) as server:
        asyncio.run(leave(server.url))
        assert "kv_cache_usage_perc" in asyncio.run(until_idle(server.url))


def test_an_engine_whose_api_server_was_killed_ends_too(tmp_path: Path) -> None:
    with launch.start(tmp_path) as server:
        engine = psutil.Process(server.engine_pid)
        server.process.kill()
        engine.wait(30)


def test_a_prompt_that_the_cache_cannot_hold_is_refused_and_the_engine_goes_on(tmp_path: Path) -> None:
    with launch.start(tmp_path, watched=False) as server:
        _fault(server.url, kv_blocks=2)
        body = json.dumps({"prompt": "word " * 100}).encode()
        headers = {"content-type": "application/json"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/completions", body, headers), timeout=10)
        assert refused.value.code == 503
        refused.value.close()
        body = json.dumps({"prompt": "word", "max_tokens": 5}).encode()
        request = urllib.request.Request(f"{server.url}/v1/completions", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read())["usage"] == {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}


def test_matrix_multiplications_can_be_slowed_and_nothing_else_is(tmp_path: Path) -> None:
    ran: list[dict[str, int]] = []
    for times in (1, 3):
        run = _serve(tmp_path / str(times), 3, 1, gemm_slowdown=times)
        ran.append({})
        for row in run.truth:
            if row["kind"] == "kernel":
                ran[-1][row["name"]] = int(row["end_ns"]) - int(row["start_ns"])
    assert {name: round(ran[1][name] / ran[0][name], 2) for name in ran[0]} == {
        name: 3 if name in ("qkv_gemm_kernel", "mlp_gemm_kernel") else 1 for name in ran[0]
    }


def test_a_fault_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with launch.start(tmp_path, watched=False) as server:
        for values in (
            {"clock_ratio": 0},
            {"clock_ratio": 2},
            {"gemm_slowdown": 0.5},
            {"kv_blocks": 0},
            {"nonsense": 1},
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                _fault(server.url, **values)
            assert refused.value.code == 400
            refused.value.close()


def test_messages_have_the_length_and_the_positions_of_vllms() -> None:
    request = wire.EngineCoreRequest(
        "a-1", [1, 2], None, wire.SamplingParams(5), None, 1.5, trace_headers={"traceparent": "x"}, external_req_id="a"
    )
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(request))
    assert len(sent) == 22
    assert (sent[0], sent[1], sent[5], sent[14], sent[16]) == ("a-1", [1, 2], 1.5, {"traceparent": "x"}, "a")
    output = wire.EngineCoreOutput("a-1", [7], finish_reason=1, events=[wire.EngineCoreEvent(1, 2.5)])
    stats = wire.SchedulerStats(iteration_details=wire.IterationDetails(1, 1, 2, 0, 0, 3.0))
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(wire.EngineCoreOutputs(0, [output], stats, 9.5)))
    assert len(message) == 9
    assert len(message[1][0]) == 19
    assert message[1][0][7] == [{"type": 1, "timestamp": 2.5}]
    assert message[2]["prefix_cache_stats"]["preempted_requests"] == 0
    assert message[3] == 9.5


def _ask(url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    answer = httpx.post(f"{url}/v1/completions", json={"model": MODEL, "prompt": "word " * 97, **body}, timeout=30)
    return answer.status_code, answer.json()


def test_a_prompt_that_another_engine_prefilled_comes_as_bytes_and_only_its_last_token_is_computed(
    tmp_path: Path,
) -> None:
    environment = {"WARPLINE_DOUBLE_GPU": "1"}
    with (
        watching(engine_step, tmp_path) as steps,
        launch.start(tmp_path, environment=environment, host="127.0.0.2") as server,
    ):
        status, answer = _ask(server.url, max_tokens=1, kv_transfer_params={"do_remote_decode": True})
        offered = answer["kv_transfer_params"]
        assert status == 200 and offered["remote_url"] == server.url and offered["tokens"] == 97
        status, answer = _ask(server.url, max_tokens=5, kv_transfer_params=offered)
        assert status == 200 and answer["usage"]["completion_tokens"] == 5
        page = _get(f"{server.url}/metrics")
        away = offered | {"remote_url": "http://127.0.0.2:9"}
        assert _ask(server.url, max_tokens=5, kv_transfer_params=away)[0] == 502
        _fault(server.url, weights_on_host_mb=5, memory_taken_mib=60_000)
        before = _readings(_get(f"{server.url}/dcgm/metrics"))
        assert _ask(server.url, max_tokens=3)[0] == 200
        after = _readings(_get(f"{server.url}/dcgm/metrics"))
    assert f"vllm:nixl_bytes_transferred_sum{{{_LABELS}}} {97 * kv.TOKEN_BYTES}" in page
    assert f"vllm:nixl_xfer_time_seconds_count{{{_LABELS}}} 1" in page
    assert 'UUID="GPU-77617270-6c69-6e65-2d64-6f75626c6531"' in next(iter(before))
    assert _value(before, "PCIE_RX") < _value(after, "PCIE_RX")
    assert _value(after, "FB_FREE") == 81_559 - 60_000 - 15_000
    members = [row for row in steps.rows("step_member") if row["phase"] == "prefill"]
    assert [row["scheduled_tokens"] for row in members if row["computed_before_tokens"]] == [1]


_LABELS = 'model_name="warpline-double (simulated)",engine="0"'


def _readings(page: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def _value(readings: dict[str, float], word: str) -> float:
    return next(value for series, value in readings.items() if word in series)
