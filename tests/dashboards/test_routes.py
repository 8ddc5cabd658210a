"""Routes beside the pages: signed addresses alone are answered, and by the query API's own bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dashboards import routes, sign
from tests.dashboards import scene


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(Starlette(routes=routes.routes())) as found:
        yield found


QUERY = sign.signed({"request": scene.REQUEST_ID}, "")


def test_a_signed_address_gets_a_chunk(client: TestClient, correlator: str, reading: Callable[..., None]) -> None:
    reading(correlator)
    answer = client.get(f"/wl/chunk?{QUERY}&level=20&first=0&tiles=2")
    assert answer.status_code == 200
    assert answer.content[:4] == b"WLT2"


def test_a_chunk_is_packed_for_who_can_unpack_it(
    client: TestClient, correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    address = f"/wl/chunk?{QUERY}&level=20&first=0&tiles=2"
    packed, plain = (client.get(address, headers={"accept-encoding": each}) for each in ("gzip", "identity"))
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])


@pytest.mark.parametrize("part", routes.PARTS)
def test_no_route_answers_an_unsigned_address(part: str, client: TestClient) -> None:
    answer = client.get(f"/wl/{part}?request={scene.REQUEST_ID}&level=20&first=0&tiles=2")
    assert answer.status_code == 403
    assert "not signed" in answer.json()["error"]


def test_a_signature_for_one_request_opens_no_other(client: TestClient) -> None:
    assert client.get(f"/wl/chunk?{QUERY.replace(scene.REQUEST_ID, 'another')}").status_code == 403
    assert client.get(f"/wl/chunk?{QUERY}&recording=x").status_code == 403


def test_a_signature_does_not_open_another_users_data(client: TestClient) -> None:
    mine = sign.signed({"request": "x"}, "me@example.com")
    assert client.get(f"/wl/chunk?{mine.replace('me%40', 'you%40')}").status_code == 403


def test_behind_a_proxy_the_address_is_good_for_its_user_alone(
    client: TestClient, correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator, dashboard_auth="header")
    address = f"/wl/chunk?{sign.signed({'request': scene.REQUEST_ID}, 'me')}&level=20&first=0&tiles=1"
    assert client.get(address).status_code == 403
    assert client.get(address, headers={"X-Forwarded-User": "you"}).status_code == 403
    assert client.get(address, headers={"X-Forwarded-User": "me"}).status_code == 200


def test_an_address_expires(client: TestClient) -> None:
    old = sign.signed({"request": "x"}, "", time.time() - 4 * 3600)
    answer = client.get(f"/wl/chunk?{old}")
    assert answer.status_code == 403
    assert "expired" in answer.json()["error"]


def test_an_address_stays_the_same_within_an_hour_so_that_reruns_fetch_nothing() -> None:
    assert sign.signed({"request": "x"}, "", 7_200.0) == sign.signed({"request": "x"}, "", 10_799.0)


def test_an_unknown_part_is_said_to_be_none(client: TestClient) -> None:
    assert client.get(f"/wl/secrets?{QUERY}").status_code == 404


def test_the_correlators_refusal_comes_through_as_a_sentence(
    client: TestClient, correlator: str, reading: Callable[..., None]
) -> None:
    reading(correlator)
    answer = client.get(f"/wl/chunk?{QUERY}&level=99&first=0&tiles=2")
    assert answer.status_code == 502
    assert "level 99" in answer.json()["error"]
