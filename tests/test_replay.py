"""A recorded incident in a correlator of its own: the same again and again, at any speed, whatever became of its file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests import golden
from tests.correlator.test_serve import eventually, free, running
from warpline import bundle, own, paced, sample, schema
from warpline.batch import Batch
from warpline.cli import main
from warpline.client import Client
from warpline.commands.replay import _end_ns, _speed
from warpline.errors import SettingsError
from warpline.importer import Door

CASE = golden.SAMPLES / "streaming_server"
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line logs to a stream that a test may have captured and closed."""
    monkeypatch.setattr("warpline.log.start", lambda level: None)


def everything(client: Client) -> dict[str, str]:
    """All views and tables that can be asked for without a parameter, as CSV with sorted rows."""
    plain = [each["name"] for each in client.views() if not each["parameters"]]
    found = {name: client.view(name) for name in [*plain, *(table.name for table in schema.TABLES)]}
    return {name: golden.as_csv(rows) for name, rows in found.items() if rows.num_rows}


def replayed(tmp_path: Path, name: str, speed: float) -> dict[str, str]:
    """What a correlator makes of the sample trace, in this process."""
    settings = free(tmp_path / name, correlator_own_metrics=False, alerts_every_s=0, correlator_retention_days=0)
    with running(settings) as (_, client, mine):
        found = sample.load(CASE)
        if speed:
            door = Door(mine, "replay")
            door.name_for(found.uid)
            paced.sent(CASE, found, speed, lambda batches: [door.send(each) for each in batches] and door.flush())
        else:
            sample.replay(mine, CASE)
        eventually(lambda: client.progress()[0], True, 60)
        client.join_now()
        eventually(lambda: client.progress(), (True, True), 60)
        client.evaluate_rules(found.start_ns, found.end_ns)
        eventually(lambda: client.progress(), (True, True), 60)
        return everything(client)


def test_the_same_incident_twice_and_at_another_speed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = replayed(tmp_path, "first", 0)
    assert {"request", "http_exchange", "alias", "alert"} <= first.keys()
    assert replayed(tmp_path, "second", 0) == first
    assert replayed(tmp_path, "paced", 20) == first


def test_a_bundle_is_replayed_in_a_correlator_of_its_own_with_the_times_that_it_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.pack(CASE, tmp_path / "a.warpline")
    seen: dict[str, pa.Table] = {}
    evaluate = own.Own.evaluate

    def look_first(mine: own.Own, progress: own.Progress) -> int:
        seen.update({name: mine.client.table(name) for name in ("http_exchange", "metric_point")})
        return evaluate(mine, progress)

    monkeypatch.setattr(own.Own, "evaluate", look_first)
    assert main(["replay", str(tmp_path / "a.warpline"), "--speed", "50"]) == 0
    found = sample.load(CASE)
    said = capsys.readouterr().out
    assert f"{sum(found.rows.values()):,} rows" in said and "alerts fired" in said
    assert seen["http_exchange"].num_rows == found.rows["http_exchange"]
    assert found.start_ns <= min(seen["http_exchange"]["start_ns"].to_pylist()) < found.end_ns
    # Nothing of the correlator itself is in it, however long it runs.
    assert seen["metric_point"].num_rows == found.rows.get("metric_point", 0)


@pytest.mark.parametrize("wrong", ["fast", "-1", "0", "nan!"])
def test_a_speed_is_full_or_a_number(wrong: str) -> None:
    assert (_speed("full"), _speed("1"), _speed("2.5")) == (0, 1, 2.5)
    with pytest.raises(SettingsError, match="--speed"):
        _speed(wrong)


@pytest.mark.parametrize(
    ("ago", "ns"), [("0s", 0), ("90s", 90 * SECOND), ("1.5m", 90 * SECOND), ("168h", 604_800 * SECOND)]
)
def test_a_replay_may_end_so_long_ago(ago: str, ns: int) -> None:
    before = time.time_ns()
    found = _end_ns(False, ago)
    assert found is not None and before <= found + ns <= time.time_ns()
    assert _end_ns(False, None) is None and (_end_ns(True, None) or 0) >= before
    with pytest.raises(SettingsError, match="--ago is '7d'"):
        _end_ns(False, "7d")


def test_flags_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    assert main(["replay", str(CASE), "--speed", "2"]) == 2
    assert main(["replay", str(tmp_path / "a.warpline"), "--now"]) == 2
    assert main(["replay", str(tmp_path / "a.warpline"), "--ago", "1h"]) == 2


def slices(directory: Path, length_ns: int) -> Iterator[tuple[int, list[Batch]]]:
    return paced.slices(directory, sample.load(directory), length_ns)


@pytest.mark.parametrize("length_ns", [SECOND // 7, SECOND, 10**6 * SECOND])
def test_slices_hold_every_row_once_in_the_order_of_time(tmp_path: Path, length_ns: int) -> None:
    calls, process = schema.table("syscall"), schema.table("process")
    times = [at * SECOND // 100 for at in range(997)]
    tables = {
        "syscall": calls.batch({"start_ns": times, "node": "n", "name": "read"}),
        "process": process.batch({"start_ns": [-SECOND, 5 * SECOND], "node": "n", "process_uid": ["a", "b"]}),
    }
    sample.write(tmp_path, {name: pa.Table.from_batches([rows]) for name, rows in tables.items()})
    found: dict[str, list[int]] = {"syscall": [], "process": []}
    before = 0
    for end_ns, batches in slices(tmp_path, length_ns):
        for batch in batches:
            seen = batch.rows["start_ns"].to_pylist()
            assert seen[-1] < end_ns and (seen[0] >= before or before == 0)
            found[batch.table.name] += seen
        before = end_ns
    assert found == {"syscall": times, "process": [-SECOND, 5 * SECOND]}
