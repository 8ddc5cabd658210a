"""What the telemetry sources share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.wire import generate, prometheus, stream
from tests.collectors.telemetry_doubles import Seen, context, text_server_double
from warpline.errors import SourceError


def test_the_generated_modules_are_current(tmp_path: Path) -> None:
    for made in generate.generate(tmp_path):
        assert made.read_text() == (generate.HERE / made.name).read_text(), f"run python -m {generate.__name__}"


@given(st.text())
def test_no_page_makes_the_parser_fail(text: str) -> None:
    page = prometheus.parse(text)
    assert len(page.series) == len(page.values)
    for series in page.series:
        prometheus.labels(series)


def test_a_bad_line_costs_itself_alone() -> None:
    page = prometheus.parse(
        '# TYPE a counter\na{b="}"} 1 1700000000\nbroken\nc{d="x"} 2e+010 # {trace_id="1"} 4\ne NaN\n'
    )
    assert page.malformed == 1
    assert page.series == ['a{b="}"}', 'c{d="x"}', "e"]
    assert page.values[:2] == [1, 2e10]
    assert page.types == {"a": "counter"}
    assert prometheus.labels('a{b="}"}') == ("a", {"b": "}"})
    assert prometheus.labels('a{b="') is None


def test_a_page_without_end_is_read_up_to_a_bound_and_the_rest_counted(tmp_path: Path) -> None:
    most = prometheus._MOST_SERIES
    page = "".join(f"a{number} 1\n" for number in range(most + 23))
    seen = Seen()
    with text_server_double(lambda path: (200, page)) as address:
        scraped = prometheus.Target(f"http://{address}", context(tmp_path, seen)).scrape()
    assert scraped is not None
    assert len(scraped[1].series) == most
    assert seen.lost() == {"page too long": 23}


@pytest.mark.parametrize(
    ("setting", "addresses"),
    [
        ("", []),
        ("node:9400", ["http://node:9400/metrics"]),
        ("http://a:1/m , https://b:2", ["http://a:1/m", "https://b:2/metrics"]),
    ],
)
def test_an_address_may_be_short(setting: str, addresses: list[str]) -> None:
    assert prometheus.addresses(setting) == addresses


class Unavailable(grpc.RpcError):  # type: ignore[misc]
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which streams measure how long a peer has been away."""
    made = Clock()
    monkeypatch.setattr(stream, "time", made)
    return made


def test_a_stream_that_was_silent_for_long_is_connected_again(tmp_path: Path, clock: Clock) -> None:
    seen, calls = Seen(), []

    def connect() -> Iterator[list[bytes]]:
        calls.append(1)
        yield []
        clock.now_s += 2 * stream._GIVE_UP_S
        if len(calls) == 1:
            raise Unavailable
        yield [b"x"]

    told = stream.persist(connect, "agent", context(tmp_path, seen))
    assert next(batch for batch in told if batch) == [b"x"]
    assert len(calls) == 2
    assert seen.lost() == {"disconnected": 1}


def test_an_agent_that_stays_away_is_left_to_the_collector(tmp_path: Path, clock: Clock) -> None:
    seen = Seen()

    def connect() -> Iterator[list[bytes]]:
        clock.now_s += 0.9 * stream._GIVE_UP_S
        raise Unavailable
        yield []

    with pytest.raises(SourceError, match="agent: UNAVAILABLE for 60 s; see whether it runs"):
        list(stream.persist(connect, "agent", context(tmp_path, seen)))
    assert seen.lost() == {"disconnected": 1}, "said once"
