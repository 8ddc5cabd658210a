"""Incidents: opened bundles, and how to make and open one."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboards import parts, read, state, words


def show() -> None:
    """Show the page."""
    st.title("Incidents")
    found = read.frame("recording_list")
    found = found[found["format"].isin(["incident", "sample_trace"])]
    if found.empty:
        parts.nothing(
            "No incident bundle was opened here",
            "`warpline incident record -o FILE` writes the last minutes of what is stored, or a window that you name, as "
            "one portable file.",
            "`warpline incident open FILE` shows a bundle in a dashboard of its own: all pages then show it as they "
            "showed the incident.",
            "`warpline replay DIRECTORY` sends a sample trace into this one, through the same door as live rows.",
            icon=":material/work_history:",
        )
        return
    state.zone_control()
    table = pd.DataFrame(
        {
            "": [_link(*each) for each in zip(found["start_ns"], found["end_ns"], strict=True)],
            "Name": found["name"],
            "Format": found["format"],
            "Began": state.local(found["start_ns"]),
            "Lasted": [
                words.duration(None if words.missing(end) else end - start)
                for start, end in zip(found["start_ns"], found["end_ns"], strict=True)
            ],
            "Rows": found["rows"],
        }
    )
    link = st.column_config.LinkColumn("", display_text="its requests", width="small")
    parts.table(table, column_config={"": link}, alt="Bundles that were opened")


def _link(start: int, end: object) -> str:
    last = int(start) + 3600 * state.SECOND_NS if words.missing(end) else int(end)  # type: ignore[call-overload]
    return f"/requests?window={int(start)}-{last}"


show()
