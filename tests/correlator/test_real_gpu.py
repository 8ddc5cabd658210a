"""What the recordings of a real GPU say: the joins hold on them as they do on the double, and the clocks are one clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from correlator import explain
from correlator.storage.store import Store
from tests import golden

REQUESTS = {"real_gpu": 23, "real_prefill": 14}


@pytest.fixture(scope="module", params=REQUESTS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Store]]:
    opened = golden.stored(golden.SAMPLES / request.param, Path(tmp_path_factory.mktemp("real")))
    yield request.param, opened
    opened.close()


def only(store: Store, statement: str) -> tuple[int, ...]:
    (row,) = store.query(statement).to_pylist()
    return tuple(row.values())


def test_every_request_is_followed_from_the_clients_socket_to_its_kernels(case: tuple[str, Store]) -> None:
    name, store = case
    paths = store.view("request_path").read_all().to_pylist()
    assert len(paths) == REQUESTS[name]
    for path in paths:
        assert path["missing"] is None and path["server"] and path["client"]
        assert path["steps"] == path["executed_steps"] >= 11, "one step a token"
        assert path["launches"] == path["executions"] > 8000


def test_gpu_time_is_conserved_to_the_nanosecond(case: tuple[str, Store]) -> None:
    name, store = case
    busy, kernels = only(store, "SELECT sum(busy_ns)::BIGINT, sum(kernel_ns)::BIGINT FROM gpu_busy")
    account = {row["went_to"]: row for row in store.view("gpu_account").read_all().to_pylist()}
    assert account["requests"]["share_ns"] + account["unattributed"]["share_ns"] == kernels
    assert account["requests"]["time_ns"] + account["unattributed"]["time_ns"] == busy < kernels, "two streams overlap"
    assert sum(row["time_ns"] for row in account.values()) == account["requests"]["watched_ns"]
    assert account["requests"]["requests"] == REQUESTS[name] and account["requests"]["evidence"] == "exact"
    assert account["requests"]["energy_j"] > 10


def test_each_execution_has_one_launch_and_begins_after_it(case: tuple[str, Store]) -> None:
    pairs, least, executions = only(
        case[1],
        "SELECT count(*), min(k.start_ns - l.start_ns), (SELECT count(*) FROM gpu_kernel) FROM gpu_kernel k"
        " JOIN launch l USING (process_uid, session, correlation_id)",
    )
    assert pairs == executions > 30_000
    assert 0 < least < 10_000, "ns; CUPTI's clock is the node's"


def test_nothing_of_it_is_simulated_of_doubtful_time_or_lost(case: tuple[str, Store]) -> None:
    assert only(case[1], "SELECT count(*) FROM gpu_kernel WHERE simulated OR validity <> 'ok'") == (0,)
    assert case[1].view("loss_total").read_all().num_rows == 0


def test_a_step_ends_with_the_last_of_its_kernels(case: tuple[str, Store]) -> None:
    (chosen,) = case[1].query("SELECT internal_id FROM request ORDER BY duration_ns DESC LIMIT 1")[0].to_pylist()
    ends = case[1].query(
        "SELECT l.step_ordinal, min(k.start_ns) AS start_ns, max(k.end_ns) AS end_ns FROM gpu_kernel k"
        " JOIN launch l USING (process_uid, session, correlation_id) GROUP BY ALL"
    )
    true = {row["step_ordinal"]: (row["start_ns"], row["end_ns"]) for row in ends.to_pylist()}
    steps = case[1].view("request_step", {"request": chosen}).read_all().to_pylist()
    assert {s["step_ordinal"]: (s["start_ns"], s["end_ns"]) for s in steps} == {
        s["step_ordinal"]: true[s["step_ordinal"]] for s in steps
    }
    lasted = sum(s["end_ns"] - s["start_ns"] for s in steps)
    assert len(steps) >= 11 and lasted > 4 * sum(s["occupancy_ns"] for s in steps), "launched one by one"


def test_the_slowest_request_is_told_which_prompt_delayed_it(case: tuple[str, Store]) -> None:
    name, store = case
    slowest = "SELECT request_uid FROM request ORDER BY duration_ns DESC LIMIT 1"
    (chosen,) = store.query(slowest)["request_uid"].to_pylist()
    found = explain.explain(lambda view, **asked: store.view(view, asked).read_all(), chosen)
    sentences = [cause.sentence for cause in found.causes]
    long = store.query("SELECT internal_id FROM request WHERE prompt_tokens > 7000")["internal_id"].to_pylist()
    told = [f"its tokens waited for the prompts of others in the same steps: 250 ms, by {each}" for each in long]
    assert len(told) == (name == "real_prefill") and set(told) <= set(sentences)
    assert any("the host did not launch in time" in each for each in sentences)
