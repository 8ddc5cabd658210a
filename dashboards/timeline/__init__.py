"""The timeline component: plain modules of JavaScript, joined into the one that Streamlit mounts.

Why no framework and no bundler: the parts are small, each imports by name what another exports, and joining them in order
is a few lines. Why a canvas: it is flat in the number of bars, where every chart of DOM nodes or traces is not.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import streamlit as st

ORDER = (
    "format", "palette", "theme", "wire", "layout", "panel", "frame", "paint_over", "paint_rows", "paint_head", "view",
    "input", "timeline",
)  # fmt: skip
"""The modules, each after those that it imports from."""

HEIGHT, _LEAST = 620, 200
"""Height of the rows' window, and the least of it, in pixels."""
_HERE = Path(__file__).parent
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)


@functools.cache
def source() -> str:
    """Return the component's JavaScript as one module."""
    parts = []
    for name in ORDER:
        text = _IMPORT.sub("", (_HERE / f"{name}.js").read_text("utf-8"))
        exported = text.replace("export default ", "\0").replace("export ", "").replace("\0", "export default ")
        # A block of its own keeps a part's private names private; what it exports is handed out by name.
        names = re.findall(r"^export (?:async )?(?:function|class|const) (\w+)", text, re.MULTILINE)
        if name == ORDER[-1]:
            parts.append(exported)
        else:
            parts.append(
                f"const {{ {', '.join(names)} }} = (() => {{\n{exported}\nreturn {{ {', '.join(names)} }};\n}})();"
            )
    return "\n".join(parts)


@functools.cache
def _component() -> Any:
    css = (_HERE / "timeline.css").read_text("utf-8")
    return st.components.v2.component("warpline_timeline", html='<div class="wl"></div>', css=css, js=source())


def show(tracks: dict[str, Any], subject: str, query: str, zone: str, height: int = HEIGHT) -> None:
    """Mount the timeline of `tracks`; `subject` names what it is about, `query` is its signed query string.

    It asks for what belongs to the reading that `tracks` is of: times count from its start, which moves as a live one grows.
    The window, once a person moves it, stands in the page's address as t0 and t1, in ns from the timeline's start.
    """
    data = {
        "tracks": tracks,
        "subject": subject,
        "query": f"{query}&version={tracks.get('version', '')}",
        "address": "/wl",
        "zone": zone,
        "height": height,
        "view": _window(),
        "own": any(track["lane"] == "member" for group in tracks["groups"] for track in group["tracks"]),
    }
    _component()(key=f"timeline-{subject}", data=data)


def tall(tracks: dict[str, Any]) -> int:
    """Return the height, in pixels, that shows all rows of `tracks`, HEIGHT at most: for what has no readings to add.

    The sizes are those of `layout.js`.
    """
    own = [track["rows"] for group in tracks["groups"] for track in group["tracks"]]
    needed = (
        24 * len(tracks["groups"]) + 18 * sum(map(len, own)) + 2 * len(own) + 8 + 24 * bool(tracks.get("hidden_rows"))
    )
    return min(max(needed, _LEAST), HEIGHT)


def _window() -> list[int] | None:
    """Return the window that the address asks for, None where it asks for none or for no window."""
    ends = [st.query_params.get(key, "") for key in ("t0", "t1")]
    if not all(re.fullmatch(r"-?\d{1,18}", each) for each in ends):
        return None
    first, last = (int(each) for each in ends)
    return [first, last] if last > first else None
