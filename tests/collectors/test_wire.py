"""What the telemetry sources share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.wire import generate, prometheus


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
