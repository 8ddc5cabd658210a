"""Colours and sizes that pages share."""

from __future__ import annotations

import re
from typing import Any

from dashboards import theme, timeline


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, #rgb or #rrggbb, as WCAG 2 defines it."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [
        int(part * (3 - len(part)), 16) / 255 for part in re.findall("." if len(colour) == 4 else "..", colour[1:])
    ]
    return sum(
        weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
        for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


def test_what_is_written_on_a_colour_can_be_read() -> None:
    for colour in {*theme.PHASES.values(), *theme.CLASSES.values()}:
        assert contrast(colour, theme.ink(colour)) >= 4.5, f"{theme.ink(colour)} on {colour}"


def test_the_least_of_a_map_is_seen_on_dark_and_light() -> None:
    assert contrast(theme.HEAT[0][1], "#151412") > 2
    assert contrast(theme.HEAT[0][1], "#ffffff") > 2


def test_a_timeline_is_as_tall_as_its_rows_and_no_taller_than_a_screen() -> None:
    def tracks(rows: int) -> dict[str, Any]:
        return {"groups": [{"tracks": [{"rows": [{}] * rows}]}]}

    assert timeline.tall(tracks(1)) == 200
    assert timeline.tall(tracks(10)) == 24 + 10 * 18 + 2 + 8
    assert timeline.tall(tracks(1_000)) == timeline.HEIGHT
