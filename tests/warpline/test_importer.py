from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from correlator.process import Correlator
from warpline import cli, importer
from warpline.client import Client
from warpline.errors import SettingsError, SourceError, StoreError
from warpline.settings import Settings

TOKEN = "ghp_" + "Ab1" * 12


@pytest.fixture
def correlator(tmp_path: Path) -> Iterator[Settings]:
    """A whole correlator on free ports; the settings that reach it."""
    there = {name: "127.0.0.1:0" for name in ("grpc_address", "http_address", "query_address")}
    settings = Settings(
        state_dir=str(tmp_path / "correlator"),
        correlator_memory_limit_mb=512,
        **{f"correlator_{name}": address for name, address in there.items()},  # type: ignore[arg-type]
    )
    running = Correlator(settings)
    running.start()
    yield Settings(
        state_dir=str(tmp_path / "here"),
        collector_endpoint=f"http://{running.receiver.http_address}",
        query_url=f"http://{running.query.address}",
    )
    running.stop()


def shown(settings: Settings, view: str, uid: str, least: int = 1) -> list[dict[str, Any]]:
    """A view's rows, once there are `least` of them: what is acknowledged becomes queryable within a moment."""
    deadline = time.monotonic() + 20
    while True:
        rows = Client(settings).view(view, recording=uid).to_pylist()
        if len(rows) >= least or time.monotonic() > deadline:
            return rows
        time.sleep(0.1)


def test_a_file_is_found_out_imported_and_shown(correlator: Settings, root: Path) -> None:
    shares: list[float] = []
    path = root / "tests/collectors/data/kineto_small.json"
    found = importer.run(path, correlator, progress=shares.append)
    assert (found.format, found.summary["rows"]["gpu_kernel"]) == ("kineto", 5)
    assert shares and shares[-1] == 1.0
    (busy,) = shown(correlator, "recording_busy", found.recording_uid)
    assert busy["busy_ns"] == 101_750


def test_the_same_file_twice_is_stored_once(correlator: Settings, root: Path) -> None:
    path = root / "tests/collectors/data/kineto_small.json"
    first = importer.run(path, correlator)
    shown(correlator, "recording_launch", first.recording_uid)
    importer.run(path, correlator)
    marker = importer.run(root / "tests/collectors/data/triton_small.json", correlator)
    wait_for_recording(correlator, marker.recording_uid)
    assert len(shown(correlator, "recording_launch", first.recording_uid)) == 3
    assert [r["recording_uid"] for r in Client(correlator).table("recording").to_pylist()].count(
        first.recording_uid
    ) == 1


def wait_for_recording(settings: Settings, uid: str) -> None:
    deadline = time.monotonic() + 20
    while uid not in Client(settings).table("recording")["recording_uid"].to_pylist():
        assert time.monotonic() < deadline, "the import did not become queryable"
        time.sleep(0.1)


def test_a_file_cut_in_half_leaves_nothing_behind(correlator: Settings, root: Path, tmp_path: Path) -> None:
    whole = gzip.compress((root / "tests/collectors/data/kineto_small.json").read_bytes())
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="ends too early"):
        importer.run(cut, correlator, "kineto")
    wait_for_recording(
        correlator, importer.run(root / "tests/collectors/data/triton_small.json", correlator).recording_uid
    )
    assert Client(correlator).table("gpu_kernel").num_rows == 0
    assert Client(correlator).table("launch").num_rows == 0


def test_an_import_that_dies_half_way_is_not_shown_and_completes_when_repeated(
    correlator: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "tests/collectors/data/kineto_small.json"
    send = importer.Door.send
    sent: list[str] = []

    def die_late(door: importer.Door, batch: Any) -> None:
        if batch.table.name == "recording":
            raise KeyboardInterrupt
        sent.append(batch.table.name)
        send(door, batch)
        door.flush()

    with monkeypatch.context() as patched:
        patched.setattr(importer.Door, "send", die_late)
        with pytest.raises(KeyboardInterrupt):
            importer.run(path, correlator)
    assert "gpu_kernel" in sent
    wait_for_recording(
        correlator, importer.run(root / "tests/collectors/data/triton_small.json", correlator).recording_uid
    )
    stored = Client(correlator).table("gpu_kernel")
    assert stored.num_rows == 5
    uid = stored["recording_uid"][0].as_py()
    assert shown(correlator, "recording_busy", uid, least=0) == []
    importer.run(path, correlator)
    assert shown(correlator, "recording_busy", uid)[0]["executions"] == 5


def test_what_a_reader_lost_is_in_the_loss_table(correlator: Settings, tmp_path: Path) -> None:
    events = [
        {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "ts": 5.0, "dur": 1.0, "args": {"device": 0}},
        {"ph": "X", "cat": "kernel", "name": "back", "pid": 0, "tid": 7, "ts": 5.0, "dur": -2.0, "args": {"device": 0}},
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"baseTimeNanoseconds": 1_767_189_312_000_000_000, "traceEvents": events}))
    wait_for_recording(correlator, importer.run(path, correlator).recording_uid)
    losses = [r for r in Client(correlator).table("loss").to_pylist() if r["source"] == "kineto"]
    assert [(r["reason"], r["lost"]) for r in losses] == [("execution that ends before it begins", 1)]


def test_a_secret_in_a_recording_reaches_neither_store_nor_export_nor_talk(
    correlator: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    event = {"ph": "X", "cat": "user_annotation", "name": f"login({TOKEN})", "pid": 9, "tid": 9, "ts": 5.0, "dur": 1.0}
    trace = {"metadata": {"system": {"env": {"GITHUB_TOKEN": TOKEN}}}, "baseTimeNanoseconds": 1_767_189_312_000_000_000}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(trace | {"traceEvents": [event]}))
    toml = tmp_path / "warpline.toml"
    toml.write_text(
        f'state_dir = "{correlator.state_dir}"\ncollector_endpoint = "{correlator.collector_endpoint}"\n'
        f'query_url = "{correlator.query_url}"\n'
    )
    assert cli.main(["--settings", str(toml), "import", str(path)]) == 0
    uid = importer.run(path, correlator).recording_uid
    wait_for_recording(correlator, uid)
    out = tmp_path / "out.json.gz"
    assert cli.main(["--settings", str(toml), "export", "--recording", uid, "-o", str(out)]) == 0
    text = gzip.decompress(out.read_bytes()).decode()
    assert "login([removed])" in text
    talk = "".join(capfd.readouterr())
    assert "removed, never stored: 1 environment variables" in talk
    kept = b"".join(each.read_bytes() for each in tmp_path.rglob("*") if each.is_file() and each != path)
    for place in (text.encode(), talk.encode(), kept):
        assert TOKEN.encode() not in place


def test_a_correlator_that_is_not_there_is_said_in_a_sentence(tmp_path: Path, root: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(importer, "PATIENCE_S", 0.3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    settings = Settings(state_dir=str(tmp_path), collector_endpoint=endpoint)
    with pytest.raises(StoreError, match=r"start `warpline correlate`"):
        importer.run(root / "tests/collectors/data/kineto_small.json", settings)


def test_a_file_of_no_known_format_names_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("hello")
    with pytest.raises(SourceError, match="kineto, nsys, triton"):
        importer.reader_of(path)
    with pytest.raises(SourceError, match="no such file"):
        importer.reader_of(tmp_path / "absent")


def test_a_format_without_a_file_is_misuse(tmp_path: Path) -> None:
    toml = tmp_path / "warpline.toml"
    toml.write_text(f'state_dir = "{tmp_path}"\n')
    assert cli.main(["--settings", str(toml), "import", "kineto"]) == SettingsError.exit_code
