"""The timeline's part of the query API, over a real store: scopes, tracks, exact bars, links, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from correlator.timeline import chunks
from tests.dashboards import double, scene, scene_parts


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = double.store(tmp_path_factory.mktemp("scene"), scene.scene(3_000, 40).batches)
    with TestClient(Starlette(routes=list(chunks.routes(store)))) as found:
        yield found
    store.close()


def get(client: TestClient, part: str, **query: Any) -> Any:
    answer = client.get(f"/api/timeline/{part}", params={"request": scene.REQUEST_ID, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows(tracks: dict[str, Any], lane: str) -> list[dict[str, Any]]:
    return [
        row for group in tracks["groups"] for track in group["tracks"] if track["lane"] == lane for row in track["rows"]
    ]


def test_tracks_go_from_the_clients_socket_to_the_gpus(client: TestClient) -> None:
    tracks = get(client, "tracks")
    titles = [group["title"] for group in tracks["groups"]]
    assert titles[:4] == ["Client", "Mesh hops", "Network", "Server"]
    assert titles[-9:] == [*(f"GPU {number}" for number in range(8)), "Host ranges"]
    assert {row["depth"] for row in rows(tracks, "annotation")} == {0, 1, 2, 3}
    assert tracks["simulated"] is True
    assert sum(row["bars"] for row in rows(tracks, "kernel")) == 3_000 // 8 * 8
    assert tracks["clocks"][0]["low_ns"] == -240_000


def test_what_a_connection_sent_again_before_a_request_is_no_alarm_of_the_request(client: TestClient) -> None:
    tracks = get(client, "tracks")
    bars = [
        get(client, "at", row=row["id"], at_ns=int(tracks["from_ns"]) + row["first_ns"], slack_ns=10)["bar"]
        for row in rows(tracks, "connection")
    ]
    assert sorted((bar["name"], bar["class"]) for bar in bars) == [
        ("2 retransmits while this request lasted", "resent"),
        ("tcp client · 15 retransmits in its whole life", "connection"),
        ("tcp server · 69 retransmits in its whole life", "connection"),
    ]
    (client_row,) = rows(tracks, "exchange.client")[:1]
    (resent,) = (row for row in rows(tracks, "connection") if row["depth"] == 1)
    assert (resent["first_ns"], resent["last_ns"]) == (client_row["first_ns"], client_row["last_ns"])


def test_chunks_are_told_as_sent_by_the_server_and_read_by_the_client(client: TestClient) -> None:
    tracks = get(client, "tracks")
    found = {}
    for side in ("client", "server"):
        row = next(row for row in rows(tracks, f"exchange.{side}") if row["depth"] == 1)
        at = int(tracks["from_ns"]) + row["last_ns"] - 10
        found[side] = get(client, "at", row=row["id"], at_ns=at, slack_ns=10)["bar"]["name"]
    assert found["client"].endswith(" chunks read")
    assert found["server"].endswith(" chunks sent")


@pytest.mark.parametrize("known_by", [scene.REQUEST_ID, scene.RESPONSE_ID, scene.INTERNAL_ID])
def test_any_id_of_a_request_opens_the_same_timeline(client: TestClient, known_by: str) -> None:
    same = client.get("/api/timeline/tracks", params={"request": known_by}).json()
    assert same["from_ns"] == get(client, "tracks")["from_ns"]


def test_other_requests_are_not_among_its_tracks(client: TestClient) -> None:
    assert len(rows(get(client, "tracks"), "exchange.server")) == 2


def test_a_window_without_a_request_shows_all_that_happened_in_it(client: TestClient) -> None:
    tracks = get(client, "tracks")
    window = {"from_ns": tracks["from_ns"], "to_ns": tracks["to_ns"]}
    every = client.get("/api/timeline/tracks", params=window).json()
    assert every["bars"] >= tracks["bars"] - 4  # Connections are shown where an exchange of the request is.


def test_a_kernel_is_told_to_the_nanosecond_with_its_launch_and_its_step(client: TestClient) -> None:
    tracks = get(client, "tracks")
    row = rows(tracks, "kernel")[0]
    found = get(client, "at", row=row["id"], at_ns=int(tracks["from_ns"]) + row["first_ns"], slack_ns=10)
    bar = found["bar"]
    assert int(bar["start_ns"]) - int(tracks["from_ns"]) == row["first_ns"]
    assert bar["duration_ns"] == int(bar["end_ns"]) - int(bar["start_ns"])
    assert [link["lane"] for link in found["links"]] == ["launch"]
    assert found["links"][0]["evidence"] == "exact"
    assert int(found["links"][0]["start_ns"]) < int(bar["start_ns"])
    own = [each for each in found["step"] if each["own"]]
    assert len(own) == 1
    assert own[0]["owner"] == scene.INTERNAL_ID


def test_a_lone_bar_shorter_than_a_pixel_keeps_its_own_duration(client: TestClient) -> None:
    tracks = get(client, "tracks")
    row = rows(tracks, "launch")[0]
    at = int(tracks["from_ns"]) + row["first_ns"]
    assert get(client, "at", row=row["id"], at_ns=at, slack_ns=2_000_000)["bar"]["duration_ns"] < 4_000


def test_a_search_says_how_many_there_are_and_gives_the_longest_first(client: TestClient) -> None:
    found = get(client, "find", text="ncclDevKernel")
    lasted = [bar["duration_ns"] for bar in found["bars"]]
    assert found["found"] > 200
    assert len(lasted) == 200
    assert lasted == sorted(lasted, reverse=True)


def test_the_profile_of_all_the_time_counts_every_kernel(client: TestClient) -> None:
    names = get(client, "profile")["names"]
    kernels = [each for each in names if each["lane"] == "kernel"]
    assert sum(each["bars"] for each in kernels) == 3_000 // 8 * 8
    assert 0 < sum(each["own_ns"] for each in kernels) < sum(each["total_ns"] for each in kernels)


def test_a_pointer_that_hovers_is_told_the_same_nanoseconds_at_no_cost(client: TestClient) -> None:
    tracks = get(client, "tracks")
    row = rows(tracks, "kernel")[0]
    asked = {"row": row["id"], "at_ns": int(tracks["from_ns"]) + row["first_ns"], "slack_ns": 10}
    brief, whole = get(client, "at", brief=1, **asked), get(client, "at", **asked)
    assert "links" not in brief
    for key in ("start_ns", "end_ns", "duration_ns", "name", "class", "lane", "row"):
        assert brief["bar"][key] == whole["bar"][key]


def test_the_critical_path_is_the_requests_time_told_once_and_goes_down_to_its_own_kernels(client: TestClient) -> None:
    tracks, path = get(client, "tracks"), get(client, "path")
    lasted = rows(tracks, "exchange.client")[0]
    assert sum(each["total_ns"] for each in path["totals"]) == lasted["last_ns"] - lasted["first_ns"]
    found = {each["lane"]: each["total_ns"] for each in path["totals"]}
    assert {"exchange.client", "hop", "exchange.server", "phase", "member", "kernel"} <= found.keys()
    own = sum(each["own_ns"] for each in get(client, "profile")["names"] if each["lane"] == "kernel")
    assert 0 < found["kernel"] < own  # Eight GPUs ran at once, and count once.
    starts, ends = [each[1] for each in path["stretches"]], [each[2] for each in path["stretches"]]
    assert starts == sorted(starts)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    known = {row["id"] for group in tracks["groups"] for track in group["tracks"] for row in track["rows"]}
    assert {each[0] for each in path["stretches"]} <= known


def test_throttling_and_an_xid_are_marks_between_the_readings_that_tell_of_them(client: TestClient) -> None:
    marks = get(client, "lines")["marks"]
    throttled = [mark for mark in marks if mark["kind"] == "throttled"]
    xid = [mark for mark in marks if mark["kind"] == "xid"]
    assert {mark["what"] for mark in throttled} == {"power"}
    assert {mark["index"] for mark in throttled} == {0}
    assert [(mark["what"], mark["index"]) for mark in xid] == [("XID 94", 1)]
    assert all(mark["end_ns"] > mark["start_ns"] for mark in marks)
    assert all(0 < mark["amount"] <= mark["end_ns"] - mark["start_ns"] for mark in throttled)


def test_a_window_between_two_readings_still_has_lines(client: TestClient) -> None:
    tracks = get(client, "tracks")
    since = int(tracks["from_ns"]) + 7_000_000
    found = get(client, "lines", since_ns=since, until_ns=since + 1_000)["lines"]
    assert len(found) == len(get(client, "lines")["lines"])
    assert all(line["at"][0] < 0 and line["at"][-1] > 400 for line in found)


def test_one_reading_alone_of_what_grows_is_no_line(tmp_path: Path) -> None:
    whole = scene.scene(80, 0, gpus=1)
    more = scene_parts.batch(
        "gpu_sample", time_ns=[whole.start_ns + 5], value=[700.0], metric="hw.energy", monotonic=True, simulated=True,
        node=scene_parts.NODE, gpu_uuid=scene_parts.uuid(0), index=0,
    )  # fmt: skip
    store = double.store(tmp_path, [*whole.batches, more])
    with TestClient(Starlette(routes=list(chunks.routes(store)))) as found:
        metrics = {line["metric"] for line in get(found, "lines")["lines"]}
    store.close()
    assert "hw.power" in metrics
    assert "hw.energy" not in metrics


def test_a_mig_instance_has_a_group_of_its_own_and_a_kv_transfer_a_track(tmp_path: Path) -> None:
    whole = scene.scene(80, 0, gpus=1)
    start, mig = whole.start_ns, "MIG-3f2a77c0-1b5e-5d0a-9c55-0a4e7c1d2b11"
    same = {"node": scene_parts.NODE, "process_uid": scene_parts.ENGINE, "simulated": True}
    more = [
        scene_parts.batch(
            "gpu_kernel", start_ns=[start + 10], end_ns=[start + 2_010], gpu_uuid=mig, cuda_stream=7, name="k",
            kind="kernel", **same,
        ),
        scene_parts.batch(
            "gpu", time_ns=[start], node=scene_parts.NODE, gpu_uuid=scene_parts.uuid(0), mig_uuid=mig, index=0,
            profile="3g.40gb", vendor="nvidia", sharing="mps", simulated=True,
        ),
        scene_parts.batch(
            "kv_transfer", start_ns=[start + 50], end_ns=[start + 950], internal_id=scene.INTERNAL_ID, direction="received",
            transfer_bytes=[1 << 20], outcome="done", **same,
        ),
        scene_parts.batch(
            "kv_transfer", start_ns=[start + 2_000], end_ns=[start + 2_500], internal_id=scene.INTERNAL_ID,
            direction="received", outcome="failed", **same,
        ),
        scene_parts.batch(
            "kv_transfer", start_ns=[start + 960], end_ns=[start + 990], internal_id=scene.INTERNAL_ID, direction="sent",
            **same,
        ),
    ]  # fmt: skip
    store = double.store(tmp_path, [*whole.batches, *more])
    with TestClient(Starlette(routes=list(chunks.routes(store)))) as found:
        groups = {group["title"]: group for group in get(found, "tracks")["groups"]}
        phases = [each for each in get(found, "about")["phases"] if each["name"] == "KV transfer"]
    drawn = store.query("SELECT name, class FROM timeline_slice WHERE lane = 'kv_transfer' ORDER BY start_ns")
    store.close()
    assert "shared: mps" in groups["GPU 0 · MIG 3g.40gb"]["hint"]
    tracks = {track["label"]: track["rows"][0]["busy_ns"] for track in groups["KV transfer"]["tracks"]}
    assert tracks == {"received": 1_400, "sent": 30}
    assert [each["end_ns"] - each["start_ns"] for each in phases] == [900, 500]
    told = [("KV received 1048576 bytes", "memory"), ("KV sent", "memory"), ("KV received (failed)", "failed")]
    assert [tuple(row.values()) for row in drawn.to_pylist()] == told


def test_readings_of_gpus_come_as_lines_of_few_points(client: TestClient) -> None:
    lines = get(client, "lines", points=50)["lines"]
    assert {line["index"] for line in lines} == set(range(8))
    assert all(len(line["at"]) == len(line["value"]) <= 53 for line in lines)


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ({"request": "nobody"}, 404, "not in the store"),
        ({"recording": "nothing"}, 404, "not in the store"),
        ({}, 400, "from_ns"),
        ({"from_ns": "5", "to_ns": "5"}, 400, "not after"),
        ({"from_ns": "x", "to_ns": "5"}, 400, "whole number"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_sentence(
    client: TestClient, query: dict[str, str], status: int, said: str
) -> None:
    answer = client.get("/api/timeline/tracks", params=query)
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize("odd", [{"level": "-1"}, {"level": "60"}, {"tiles": "0"}, {"tiles": "9"}, {"first": "many"}])
def test_odd_chunks_are_refused(client: TestClient, odd: dict[str, str]) -> None:
    asked = {"request": scene.REQUEST_ID, "level": "12", "first": "0", "tiles": "1", **odd}
    answer = client.get("/api/timeline/chunk", params=asked)
    assert answer.status_code == 400
    assert json.loads(answer.content)["error"].startswith("timeline:")
