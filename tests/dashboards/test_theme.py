"""Colours that all pages share."""

from __future__ import annotations

import re

from dashboards import theme


def test_what_is_written_on_a_colour_can_be_read() -> None:
    def luminance(colour: str) -> float:
        parts = [
            int(part * (3 - len(part)), 16) / 255 for part in re.findall("." if len(colour) == 4 else "..", colour[1:])
        ]
        return sum(
            weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
            for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    for colour in {*theme.PHASES.values(), *theme.CLASSES.values()}:
        dark, light = sorted(map(luminance, (colour, theme.ink(colour))))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{theme.ink(colour)} on {colour}"
