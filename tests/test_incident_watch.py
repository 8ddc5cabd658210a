"""What a trigger has kept becomes a bundle by itself, once its window is over; the newest stay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.correlator.test_serve import eventually, free, running, send
from warpline import bundle, schema
from warpline.batch import Batch
from warpline.cli import main
from warpline.errors import SourceError
from warpline.incident_watch import Watch, Window, merged

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


def kept(cause: str, since_s: int, until_s: int, node: str = "n1") -> dict[str, Any]:
    return {"cause": cause, "node": node, "since_ns": START + since_s * SECOND, "until_ns": START + until_s * SECOND}


class Keeps:
    """A client that answers what was kept, and the files that were written."""

    def __init__(self, *windows: dict[str, Any]) -> None:
        self.windows, self.written = [*windows], list[str]()

    def kept(self) -> list[dict[str, Any]]:
        return self.windows

    def write(self, path: Path, window: Window) -> None:
        self.written.append(f"{path.name} {window.about}")
        path.write_text("a bundle")


def watch(client: Keeps, directory: Path, most: int = 20, causes: tuple[str, ...] = ()) -> Watch:
    return Watch(client, directory, most, causes, client.write)  # type: ignore[arg-type]  # of a client only kept


def test_windows_of_one_cause_that_overlap_on_several_nodes_are_one() -> None:
    windows = [kept("gpu_xid", 0, 120), kept("gpu_xid", 30, 150, "n2"), kept("rows", 10, 20), kept("gpu_xid", 150, 200)]
    assert [
        (each.cause, each.since_ns - START, each.until_ns - START, sorted(each.nodes)) for each in merged(windows)
    ] == [
        ("gpu_xid", 0, 150 * SECOND, ["n1", "n2"]),
        ("rows", 10 * SECOND, 20 * SECOND, ["n1"]),
        ("gpu_xid", 150 * SECOND, 200 * SECOND, ["n1"]),
    ]


def test_a_window_is_recorded_once_when_it_is_over_and_again_when_another_nodes_is_added(tmp_path: Path) -> None:
    client = Keeps(kept("gpu_xid", 0, 120))
    mine = watch(client, tmp_path)
    assert mine.look(START + 120 * SECOND) == []
    (first,) = mine.look(START + 150 * SECOND)
    assert first.name == "20260921T141320-120s-gpu_xid.warpline"
    assert watch(client, tmp_path).look(START + 900 * SECOND) == []
    client.windows.append(kept("gpu_xid", 60, 180, "n2"))
    (second,) = watch(client, tmp_path).look(START + 900 * SECOND)
    assert [path.name for path in tmp_path.iterdir()] == [second.name] == ["20260921T141320-180s-gpu_xid.warpline"]
    assert client.written[-1].endswith("gpu_xid; kept on n1, n2, recorded by itself")


def test_the_newest_stay_and_what_was_dropped_does_not_come_back(tmp_path: Path) -> None:
    client = Keeps(*(kept("gpu_xid", 1000 * number, 1000 * number + 60) for number in range(7)))
    (tmp_path / "by_hand.warpline").write_text("another's")
    for _ in range(2):
        watch(client, tmp_path, most=3).look(START + 10_000 * SECOND)
    assert len(client.written) == 3
    assert sorted(path.name[:15] for path in tmp_path.glob("2026*")) == [
        "20260921T152000",
        "20260921T153640",
        "20260921T155320",
    ]
    assert (tmp_path / "by_hand.warpline").exists()


def test_only_the_causes_that_are_asked_for_are_recorded_and_an_empty_window_is_not_tried_again(tmp_path: Path) -> None:
    client, tries = Keeps(kept("slow_request", 0, 60), kept("gpu_xid", 5, 65)), list[str]()

    def nothing(path: Path, window: Window) -> None:
        tries.append(window.cause)
        raise SourceError("nothing was stored in that window")

    mine = Watch(client, tmp_path, 9, ["gpu_xid"], nothing)  # type: ignore[arg-type]  # of a client only kept
    for second in (100, 200):
        assert mine.look(START + second * SECOND) == []
    assert tries == ["gpu_xid"]


def test_what_a_person_had_kept_is_a_whole_bundle_in_the_directory_without_a_name_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("warpline.log.start", lambda level: None)
    calls = schema.table("syscall")
    now = time.time_ns() - 100 * SECOND
    rows = calls.batch(
        {"start_ns": [now + number * SECOND // 50 for number in range(997)], "node": "gpu-7", "name": "read"}
    )
    with running(free(tmp_path / "state", alerts_every_s=0)) as (_, client, settings):
        assert send(settings, Batch(calls, rows, "s/1")) == 200
        eventually(lambda: client.table("syscall").num_rows, 997)
        client.keep(since_ns=now, until_ns=now + 10 * SECOND, node="gpu-7")
        client.keep(since_ns=now + 95 * SECOND, until_ns=now + 500 * SECOND, node="gpu-7")
        monkeypatch.setenv("WARPLINE_QUERY_URL", settings.query_url)
        for _ in range(2):
            assert main(["incident", "watch", str(tmp_path / "bundles"), "--once", "--pseudonyms"]) == 0
    (file,) = (tmp_path / "bundles").iterdir()
    assert capsys.readouterr().out.count("rows of") == 1
    report = bundle.unpack(file, tmp_path / "opened")
    assert (report.damaged, report.manifest.rows["syscall"]) == ({}, 500)
    assert report.manifest.about == "asked, recorded by itself"
    assert b"gpu-7" not in b"".join(path.read_bytes() for path in (tmp_path / "opened").iterdir())
    assert main(["incident", "verify", str(file)]) == 0
    assert main(["incident", "watch", str(tmp_path / "bundles"), "--most", "0"]) == 2
