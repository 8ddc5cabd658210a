"""Colours and sizes that all pages share, for light and dark."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

PHASES = {
    "way": "#56B4E9",
    "receive": "#56B4E9",
    "queue": "#E69F00",
    "KV": "#C9B700",
    "wait": "#9AA5B1",
    "prefill": "#D55E00",
    "decode": "#0072B2",
    "stream": "#009E73",
    "after": "#8A8F98",
}
"""Colour of each phase: Okabe and Ito's, as on the timeline."""

CLASSES = {
    "gemm": "#0072B2",
    "dense": "#0072B2",
    "attention": "#D55E00",
    "communication": "#CC79A7",
    "normalisation": "#009E73",
    "elementwise": "#56B4E9",
    "sampling": "#E69F00",
    "memory": "#C9B700",
    "graph": "#5B6B7B",
    "other": "#8A8F98",
}
"""Colour of each class of executions, as on the timeline (`timeline/palette.js`)."""


def ink(colour: str) -> str:
    """Return the ink that can be read on a colour, #rrggbb: dark or white, whichever contrasts more (as in `palette.js`)."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return "#111" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.1916 else "#fff"


INK_ON = {name: ink(colour) for name, colour in CLASSES.items()}
"""Class → the ink of what is written on its colour."""

SERIES = ("#1A86D0", "#E0620D", "#009E73", "#CC79A7", "#D99000", "#56B4E9", "#9467BD", "#728496")
"""Colours of lines, points and bars: Okabe and Ito's, some a little lighter, so that each stands out on light and dark."""
HEAT = ((0, "#35528F"), (0.5, "#7D7C78"), (1, "#FEE838"))
"""Colours of a map, from little to much: Cividis, without its darkest, which a dark page would show as nothing at all."""
EVIDENCE = {"exact": "green", "derived": "blue", "estimated": "orange", "unknown": "gray"}

CSS = """
.block-container, [data-testid="stMainBlockContainer"] { padding-top: 4.2rem; padding-bottom: 3rem; max-width: none;
  padding-left: 2rem; padding-right: 2rem; }
[data-testid="stMetricValue"] { font-variant-numeric: tabular-nums; font-size: 1.7rem; }
[data-testid="stMetric"] { padding: 0.2rem 0; }
[data-testid="stMetric"] > div { padding: 0.15rem 0.9rem; }
.st-key-fired { gap: 0; padding: 0.5rem 0.9rem; }
.st-key-fired [data-testid="stMarkdownContainer"], .st-key-causes [data-testid="stMarkdownContainer"] { margin-bottom: 0; }
.st-key-causes p { margin: 0 !important; }
.st-key-causes [data-testid="stCaptionContainer"] { margin-bottom: 0; }
.st-key-fired p, .st-key-fired li { margin: 0 !important; line-height: 1.45; }
.st-key-fired ul { margin: 0.15rem 0 0 !important; padding-left: 0.2rem; list-style: none; }
.st-key-causes { gap: 0.25rem; }
[data-testid="stCaptionContainer"] code { color: inherit; }
h1 { font-size: 1.75rem !important; padding: 0 0 0.2rem !important; }
.wl-facts { display: flex; flex-wrap: wrap; gap: 0.35rem 2.1rem; margin: 0 !important; padding: 0 !important; }
.wl-facts dt { opacity: 0.66; font-size: 0.78rem; }
.wl-facts dt, .wl-facts dd { margin: 0 !important; padding: 0 !important; }
.wl-facts dd { font-size: 1.28rem; font-variant-numeric: tabular-nums; line-height: 1.3; }
.wl-facts dd small { font-size: 0.78rem; opacity: 0.7; }
.wl-strip { display: flex; height: 26px; border-radius: 6px; overflow: hidden; gap: 1px; }
.wl-strip > div { font: 12px/26px system-ui, sans-serif; }
.wl-strip > div { padding: 0 7px; height: 26px; overflow: hidden; box-sizing: border-box; min-width: 2px; }
.wl-strip > .wl-sliver { padding: 0; }
.wl-strip span, .wl-strip i { display: inline-block; white-space: nowrap; }
.wl-strip i { width: 0; height: 26px; vertical-align: top; }
"""


def chart(height: int = 300) -> dict[str, Any]:
    """Return what every chart's layout has: tight margins, a legend above, no colour of its own for the ground."""
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 28, "b": 36},
        "legend": {"orientation": "h", "traceorder": "normal", "y": 1.02, "yanchor": "bottom", "x": 0},
        "colorway": list(SERIES),
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8A8F98", "activecolor": SERIES[0]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }


def figure(*traces: Any, height: int = 300, **layout: Any) -> go.Figure:
    """Return a figure of the traces in the house's layout."""
    return go.Figure(list(traces)).update_layout(**chart(height), **layout)
