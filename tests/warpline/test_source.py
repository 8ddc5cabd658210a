import inspect
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from warpline import schema, source
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context, Runner

CLOCK_PAIR = schema.table("clock_pair")
EACH_SOURCE = pytest.mark.parametrize("name", source.names())


@EACH_SOURCE
def test_a_source_has_what_the_framework_asks_for(name: str) -> None:
    found = source.load(name)
    assert set(found.TABLES) <= set(schema.TABLES)
    assert found.SCOPE in ("node", "cluster", "any", "recording")
    assert list(inspect.signature(found.check).parameters) == ["settings"]
    if found.SCOPE == "recording":
        assert list(inspect.signature(source.load_recording(name).read).parameters) == ["path", "context"]
    else:
        assert list(inspect.signature(found.run).parameters) == ["context"]


@EACH_SOURCE
def test_a_source_says_what_it_hooks_costs_and_needs(name: str) -> None:
    doc = inspect.getdoc(source.load(name)) or ""
    assert doc.count("\n") >= 2, "say what it sees, by which hook, since when, at which cost and with which privilege"


@EACH_SOURCE
def test_check_answers_with_nothing_or_one_line(name: str) -> None:
    reason = source.load(name).check(Settings())
    assert reason is None or (reason.strip() and "\n" not in reason)


class Flaky:
    TABLES = (CLOCK_PAIR,)
    SCOPE = "node"

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error = failures, error

    def check(self, settings: Settings) -> str | None:
        return None

    def run(self, context: Context) -> Iterator[Batch]:
        if self.failures:
            self.failures -= 1
            raise self.error
        row = {"time_ns": 1, "node": "n", "boot_id": "b"}
        clocks = dict.fromkeys(("monotonic_ns", "boottime_ns", "realtime_ns", "half_width_ns"), 1)
        yield Batch(CLOCK_PAIR, CLOCK_PAIR.batch(row | clocks, rows=1))
        context.stop.wait()


def run_until(tmp_path: Path, flaky: Flaky, wanted: int) -> list[Batch]:
    seen: list[Batch] = []
    enough = threading.Event()

    def emit(batch: Batch) -> None:
        seen.append(batch)
        if sum(b.table is CLOCK_PAIR for b in seen) >= wanted:
            enough.set()

    context = Context("flaky", "n", Settings(), NodeClock(tmp_path), emit)
    runner = Runner(flaky, context)
    runner.start()
    assert enough.wait(20)
    context.stop.set()
    assert runner.join(5)
    return seen


@pytest.mark.parametrize("error", [SourceError("the peer is away"), ZeroDivisionError("a bug")])
def test_a_source_that_fails_is_restarted_and_says_why(tmp_path: Path, error: Exception) -> None:
    seen = run_until(tmp_path, Flaky(1, error), 1)
    states = [b.rows.to_pylist()[0] for b in seen if b.table.name == "source_state"]
    assert str(error) in states[0]["reason"]
    assert not states[0]["up"]
    assert any(state["up"] for state in states)
    assert states[-1]["reason"] == "stopped"


def test_what_a_source_loses_becomes_a_row(tmp_path: Path) -> None:
    seen: list[Batch] = []
    context = Context("probe", "n", Settings(), NodeClock(tmp_path), seen.append)
    context.lost("ring overrun", 17, 5, 9, lower_bound=True)
    context.lost("nothing", 0)
    assert [b.table.name for b in seen] == ["loss"]
    row = seen[0].rows.to_pylist()[0]
    assert (row["source"], row["reason"], row["lost"], row["start_ns"], row["end_ns"]) == (
        "probe",
        "ring overrun",
        17,
        5,
        9,
    )
    assert row["lower_bound"]


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(SourceError, match="clock"):
        source.load("crystal_ball")


def test_the_clock_source_reads_every_second_until_it_is_stopped(tmp_path: Path) -> None:
    context = Context("clock", "n", Settings(), NodeClock(tmp_path), lambda batch: None)
    batches = source.load("clock").run(context)
    assert next(batches).table.name == "node"
    pair = next(batches).rows.to_pylist()[0]
    assert abs(pair["realtime_ns"] - time.time_ns()) < 5_000_000_000
    context.stop.set()
    assert list(batches) == []
