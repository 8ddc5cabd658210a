"""The timeline's part of the query API, over a real store: scopes, tracks, exact bars, links, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from correlator.timeline import chunks
from tests.dashboards import double, scene


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
    assert titles[-8:] == [f"GPU {number}" for number in range(8)]
    assert tracks["simulated"] is True
    assert sum(row["bars"] for row in rows(tracks, "kernel")) == 3_000 // 8 * 8
    assert tracks["clocks"][0]["low_ns"] == -240_000


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


def test_readings_of_gpus_come_as_lines_of_few_points(client: TestClient) -> None:
    lines = get(client, "lines", points=50)["lines"]
    assert {line["index"] for line in lines} == set(range(8))
    assert all(len(line["at"]) == len(line["value"]) <= 51 for line in lines)


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
