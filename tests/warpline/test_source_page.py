"""The page of sources says what the sources' own modules say."""

from __future__ import annotations

from pathlib import Path

from warpline import source, source_page

PAGE = Path(__file__).resolve().parents[2] / "docs/sources.md"


def test_the_page_of_sources_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == source_page.page(), (
        "run: python -m warpline.source_page >docs/sources.md"
    )


def test_every_source_says_what_it_sees_needs_fills_and_costs() -> None:
    rows = [line for line in source_page.page().splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in rows] == source.names()
    for line in rows:
        cells = [each.strip() for each in line.strip("|").split("|")]
        assert len(cells) == 7, line
        assert all(len(each) >= 3 for each in cells), line
        for table in source.load(cells[0].strip("`")).TABLES:
            assert f"`{table.name}`" in cells[4]
