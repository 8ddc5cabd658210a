"""The whole correlator on free ports: batches go in by the OTLP door and come out of the query API."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from correlator.process import Correlator
from tests.correlator.storing import NOON, kernels, small, syscalls
from warpline import bundle, otlp, recording, sample, schema
from warpline.batch import Batch
from warpline.cli import main
from warpline.client import Client
from warpline.errors import SettingsError, SourceError, StoreError
from warpline.governor import Governor
from warpline.settings import Settings

ANY = "127.0.0.1:0"


def free(tmp_path: Path, **more: Any) -> Settings:
    addresses = {f"correlator_{door}_address": ANY for door in ("grpc", "http", "query")}
    return small(tmp_path, **addresses, **more)


@contextmanager
def running(settings: Settings) -> Iterator[tuple[Correlator, Client, Settings]]:
    correlator = Correlator(settings)
    correlator.start()
    mine = replace(
        settings,
        query_url=f"http://{correlator.query.address}",
        collector_endpoint=f"http://{correlator.receiver.http_address}",
    )
    try:
        yield correlator, Client(mine), mine
    finally:
        assert correlator.stop()


def send(settings: Settings, *batches: Batch, **headers: str) -> int:
    body = otlp.encode(batches, {})
    url = f"{settings.collector_endpoint}/v1/logs"
    return urllib3.request("POST", url, body=body, headers={"content-type": otlp.PROTOBUF, **headers}).status


def eventually(read: Any, wanted: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while (found := read()) != wanted:
        assert time.monotonic() < deadline, f"{found} is not {wanted}"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line logs to a stream that a test may have captured and closed while the correlator still runs."""
    monkeypatch.setattr("warpline.log.start", lambda level: None)


@pytest.fixture(scope="module")
def correlator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Correlator, Client, Settings]]:
    with running(free(tmp_path_factory.mktemp("state"))) as found:
        assert send(found[2], kernels("k/1/1", 70_000), syscalls("s/1/1", range(50))) == 200
        eventually(lambda: found[1].view("syscall").num_rows, 50)
        yield found


Running = tuple[Correlator, Client, Settings]


def test_a_batch_that_was_acknowledged_is_soon_in_its_view(correlator: Running) -> None:
    rows = correlator[1].view("gpu_kernel", order="start_ns")
    assert rows["correlation_id"].to_pylist() == list(range(70_000))


def test_views_are_listed_with_columns_and_parameters(correlator: Running) -> None:
    found = {each["name"]: each for each in correlator[1].views()}
    assert found["request_timeline"]["parameters"] == ["request_uid", "since_ns", "until_ns"]
    assert found["request"]["columns"]["start_ns"] == "BIGINT" and found["request"]["doc"].startswith(
        "One HTTP request"
    )


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/view/nothing", 404, "there is none; views are"),
        ("/api/view/request_timeline", 400, "request_timeline: missing parameters: request_uid; it takes"),
        ("/api/view/syscall?limit=x", 400, "give a whole number"),
        ("/api/view/syscall?colour=red", 400, "syscall: unknown parameters: colour; it takes"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(
    correlator: Running, path: str, status: int, sentence: str
) -> None:
    answer = urllib3.request("GET", f"http://{correlator[0].query.address}{path}")
    assert answer.status == status and sentence in answer.json()["error"]
    with pytest.raises(StoreError) as raised:
        correlator[1].get(path)
    assert sentence in str(raised.value)


def test_metrics_and_the_loss_table_agree(correlator: Running) -> None:
    process, client, _settings = correlator
    bad = schema.table("log_record").batch({"time_ns": [NOON], "attributes": ["{no json"]})
    process.store.write([Batch(schema.table("log_record"), bad, "bad/1/1")])
    eventually(lambda: client.view("loss_total").filter(_is("source", "store"))["lost"].to_pylist(), [1])
    text = urllib3.request("GET", f"http://{process.query.address}/metrics").data.decode()
    assert 'warpline_lost_total{reason="rows that the store refuses",source="store"} 1.0' in text
    assert 'warpline_ingest_rows_total{table="gpu_kernel"} 70000.0' in text


def _is(column: str, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.field(column) == value


def test_what_somebody_wishes_for_is_told_to_collectors_until_it_ends(correlator: Running) -> None:
    url = f"http://{correlator[0].query.address}/api/detail"
    wish = {"detail": {"*": 3}, "windows": [[1, 2]], "seconds": 30}
    assert urllib3.request("GET", url).json() == {"detail": {}, "windows": []}
    assert urllib3.request("POST", url, json={**wish, "seconds": 0}).status == 202
    assert urllib3.request("POST", url, json={**wish, "node": "other"}).status == 202
    assert urllib3.request("GET", f"{url}?node=mine").json() == {"detail": {}, "windows": []}
    assert urllib3.request("POST", url, json=wish).status == 202
    assert urllib3.request("GET", f"{url}?node=mine").json() == {"detail": {"*": 3}, "windows": [[1, 2]]}
    assert urllib3.request("POST", url, json={"detail": {"*": 9}}).status == 400


@pytest.mark.parametrize("shape", ["table", "csv", "json", "arrow"])
def test_the_command_line_prints_a_view(
    correlator: Running, shape: str, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPLINE_QUERY_URL", f"http://{correlator[0].query.address}")
    assert main(["query", "syscall", "--limit", "2", "--order", "start_ns", "--format", shape]) == 0
    out = capfdbinary.readouterr().out
    assert b"read" in out and b"result" in out


def test_a_table_that_does_not_fit_the_terminal_has_a_line_for_each_value(
    correlator: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPLINE_QUERY_URL", f"http://{correlator[0].query.address}")
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["query", "syscall", "--limit", "2", "--order", "start_ns", "--format", "table"]
    assert main(asked) == 0
    wide = capsys.readouterr().out.splitlines()
    assert len([line for line in wide if line.startswith("── row ")]) == 2
    assert [line.split() for line in wide if line.startswith("name")] == [["name", "read"]] * 2
    assert main([*asked, "--columns", "name, start_ns"]) == 0
    assert "┃ name ┃ start_ns" in capsys.readouterr().out.splitlines()[1]
    assert main([*asked, "--columns", "start"]) == 2 and "did you mean 'start_ns'?" in capsys.readouterr().err


def test_a_view_as_of_a_moment_is_printed_as_of_now(
    correlator: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPLINE_QUERY_URL", f"http://{correlator[0].query.address}")
    before = time.time_ns()
    assert main(["query", "saturation", "--format", "json"]) == 0
    assert before <= json.loads(capsys.readouterr().out)["time_ns"] <= time.time_ns()
    assert main(["query", "saturation", "now_ns=5", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["time_ns"] == 5


def test_the_command_line_says_what_is_wrong(
    correlator: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPLINE_QUERY_URL", f"http://{correlator[0].query.address}")
    assert main(["query", "nothing"]) == 1 and "there is none" in capsys.readouterr().err
    assert main(["query", "syscall", "--since", "soon"]) == 2 and "such as 10m" in capsys.readouterr().err
    monkeypatch.setenv("WARPLINE_QUERY_URL", "http://127.0.0.1:9")
    assert main(["query", "syscall"]) == 1 and "is `warpline correlate` running?" in capsys.readouterr().err


def test_a_recording_of_the_store_replays_to_the_same_rows(
    correlator: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recording.record(correlator[1], tmp_path / "case", NOON, NOON + 10_000_000_000, "a test")
    assert recorded.rows["gpu_kernel"] == 70_000 and recorded.rows["syscall"] == 50
    kernels_of = list(sample.rows_of(tmp_path / "case", "gpu_kernel"))
    times = np.concatenate([batch.rows["start_ns"].to_numpy() for batch in kernels_of])
    assert len(times) == 70_000 and np.all(np.diff(times) >= 0)
    with running(free(tmp_path / "state")) as (_process, client, settings):
        monkeypatch.setenv("WARPLINE_COLLECTOR_ENDPOINT", settings.collector_endpoint)
        for _ in range(2):
            assert main(["replay", str(tmp_path / "case")]) == 0
        assert main(["replay", str(tmp_path / "case"), "--now"]) == 0
        eventually(lambda: client.view("syscall").num_rows, 100)
        rows = client.view("syscall", until_ns=NOON * 2 - NOON + 86_400_000_000_000, order="start_ns")
        assert rows["result"].to_pylist() == list(range(50))
        assert client.view("syscall", since_ns=time.time_ns() - 60_000_000_000).num_rows == 50


def test_a_bundle_is_recorded_in_parts_with_its_progress(correlator: Running, tmp_path: Path) -> None:
    shares: list[float] = []
    window = NOON, NOON + 10_000_000_000
    found = bundle.record(correlator[1], tmp_path / "whole", window, "", pseudonyms=False, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    named = bundle.record(correlator[1], tmp_path / "named", window, "", pseudonyms=True)
    assert found.rows == named.rows and found.rows["gpu_kernel"] == 70_000
    parts = [part for _, part in _rows_of(correlator[1], "gpu_kernel", window)]
    assert sum(parts) == 70_000 and len(parts) > 1  # Never a whole table at once.
    with pytest.raises(SourceError, match="nothing was stored in that window"):
        bundle.record(correlator[1], tmp_path / "none", (1, 2), "", pseudonyms=False)


def test_a_bundle_knows_engines_and_services_that_began_long_before_and_no_process_of_another_day(
    tmp_path: Path,
) -> None:
    day_ns = 86_400_000_000_000
    process, exchange, service = (schema.table(name) for name in ("process", "http_exchange", "service_state"))
    began = {"n1:engine:1": 5 * day_ns, "n1:cron:2": 4 * day_ns, "n1:shell:3": day_ns // 2}
    rows = {"start_ns": [NOON - ago for ago in began.values()], "process_uid": list(began), "node": "n1"}
    served = {"start_ns": NOON, "end_ns": NOON + 1, "node": "n1", "process_uid": "n1:engine:1", "side": "server"}
    scaled = {"time_ns": NOON - 3 * day_ns, "kind": "Revision", "object_uid": "uid-1", "replicas": 2}
    with running(free(tmp_path / "state", correlator_retention_days=0)) as (_process, client, settings):
        told = (
            Batch(process, process.batch(rows), "p/1"),
            Batch(service, service.batch(scaled, rows=1), "s/1"),
            Batch(exchange, exchange.batch(served, rows=1), "x/1"),
        )
        assert send(settings, *told) == 200
        eventually(lambda: client.table("http_exchange").num_rows, 1)
        found = bundle.record(client, tmp_path / "case", (NOON - 1, NOON + 1), "", pseudonyms=False)
    assert found.rows == {"http_exchange": 1, "process": 2, "service_state": 1} and found.start_ns == NOON
    kept = [
        uid for batch in sample.rows_of(tmp_path / "case", "process") for uid in batch.rows["process_uid"].to_pylist()
    ]
    assert kept == ["n1:engine:1", "n1:shell:3"]


def _rows_of(client: Client, name: str, window: tuple[int, int]) -> Iterator[tuple[str, int]]:
    for table, parts in recording.stored(client, *window):
        if table.name == name:
            yield from ((name, part.num_rows) for part in parts)


def test_only_who_shows_the_token_is_answered(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with running(free(tmp_path, correlator_token_file=str(token))) as (process, client, settings):
        assert urllib3.request("GET", f"http://{process.query.address}/healthz").status == 200
        with pytest.raises(StoreError, match="no valid bearer token"):
            client.views()
        assert Client(replace(settings, query_token_file=str(token))).views()
        # What collectors are asked for reaches those that know the token, as all of a cluster's do.
        process.query.api.wanted.wish({"windows": [[1, 5]], "seconds": 60})
        asks = replace(settings, collector_query_url=f"http://{process.query.address}")
        for file, windows in (("", ()), (str(token), ((1, 5),))):
            governor = Governor(replace(asks, collector_token_file=file), "n1")
            governor._refresh()
            assert governor.wanted.windows == windows
    with pytest.raises(SettingsError, match="query_token_file"):
        Client(Settings(query_token_file=str(tmp_path / "none")))


def test_a_taken_address_is_told(tmp_path: Path, correlator: Running) -> None:
    taken = correlator[0].query.address
    with pytest.raises(SettingsError, match=r"query api.*free it"):
        Correlator(replace(free(tmp_path), correlator_query_address=taken))


def test_sigterm_drains_and_ends_with_0(tmp_path: Path) -> None:
    flags = {f"WARPLINE_CORRELATOR_{door}_ADDRESS": ANY for door in ("GRPC", "HTTP", "QUERY")}
    child = subprocess.Popen(
        [sys.executable, "-m", "warpline.cli", "correlate"],
        env={"WARPLINE_STATE_DIR": str(tmp_path), "WARPLINE_CORRELATOR_STORE_DELAY_S": "5", **flags},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    door = next(line.split()[-1] for line in child.stderr if line.startswith("OTLP HTTP"))
    assert send(Settings(collector_endpoint=f"http://{door}"), syscalls("s/1/1", range(7))) == 200
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0
    child.stderr.close()
    with running(free(tmp_path)) as (_, client, _):
        assert client.view("syscall").num_rows == 7, "stored before it ended"


def test_a_restart_still_asks_collectors_for_what_was_asked(tmp_path: Path) -> None:
    settings = free(tmp_path, alerts_every_s=0)
    with running(settings) as (process, client, _):
        url = f"http://{process.query.address}/api/detail"
        assert urllib3.request("POST", url, json={"node": "n1", "detail": {"sched": 2}, "seconds": 600}).status == 202
        assert urllib3.request("POST", url, json={"node": "n1", "detail": {"*": 3}, "seconds": 0}).status == 202
        kept = client.keep(since_ns=1, until_ns=2, node="n1")
    with running(settings) as (process, client, _):
        found = urllib3.request("GET", f"http://{process.query.address}/api/detail?node=n1").json()
        assert found == {"detail": {"sched": 2}, "windows": [[1, 2]]}
        assert client.kept() == kept
