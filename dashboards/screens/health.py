"""Pipeline health: which sources run, what is missing, how fresh the data is, how well clocks agree, what the disk holds."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from dashboards import parts, read, state, store_disk, words

MOST_DOWN = 8
"""Reasons why sources are down that are told in full."""
LEVELS = {0: "0 off", 1: "1 least", 2: "2 ordinary", 3: "3 all"}


def show() -> None:
    """Show the page."""
    st.title("Pipeline health")
    chosen = state.controls("1h")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    sources, losses = read.frame("source"), read.frame("loss_recent", **chosen.bounds)
    tables, clocks = read.frame("table_recent", **chosen.bounds), read.frame("clock_now")
    newest = tables["newest_ns"].dropna()
    lag = max(time.time_ns() - int(newest.max()), 0) if len(newest) else None
    parts.facts(
        (
            "Sources up",
            f"{int(sources['up'].sum()) if len(sources) else 0} of {len(sources)}",
            "Sources that run, of all that were tried",
        ),
        (
            "Lost",
            words.count(losses["lost"].sum() if len(losses) else 0),
            "Records known to be missing, in the time range",
        ),
        ("Rows", words.count(tables["rows"].sum()), "Rows of the main tables, in the time range"),
        ("Newest row", "–" if lag is None else f"{words.duration(lag)} ago", "How long ago the newest row happened"),
        (
            "Clocks agree within",
            words.duration(clocks["half_width_ns"].max() if len(clocks) else None),
            "Greatest half-width of the bounds between two nodes",
        ),
    )
    st.subheader("Sources")
    _sources(sources)
    st.subheader("Losses")
    _losses(losses, chosen, told=len(sources) > 0)
    st.subheader("Store")
    store_disk.show()
    left, right = st.columns(2)
    with left:
        st.subheader("Rows by table")
        _tables(tables[tables["rows"] > 0], chosen)
    with right:
        st.subheader("Clocks between nodes")
        _clocks(clocks)


def _sources(found: pd.DataFrame) -> None:
    if found.empty:
        parts.nothing(
            "No source has reported yet",
            "`warpline collect` runs them; `warpline check` says which can run on a machine.",
            icon=":material/sensors_off:",
        )
        return
    found = found.sort_values(["up", "node", "source"])
    told = _down(found[~found["up"].astype(bool)])
    over = found["cost_ratio"].fillna(0).astype(float) > found["budget_ratio"].fillna(1).astype(float)
    table = pd.DataFrame(
        {
            "State": ["up" if up else "down" for up in found["up"]],
            "Source": found["source"],
            "Node": found["node"],
            "Detail": [LEVELS.get(each, str(each)) for each in found["detail"]],
            "Rows": found["rows"].map(words.count),
            "Lost": found["lost"].map(words.count),
            "Cost": found["cost_ratio"].astype(float),
            "Budget": found["budget_ratio"].astype(float),
            "In budget": ["no" if each else "yes" for each in over],
            "Said": state.local(found["time_ns"]),
            "Why not": found["reason"].where(~found["up"].astype(bool)).fillna(""),
        }
    )
    columns = {
        "Cost": st.column_config.NumberColumn("Cost, of a core", format="percent"),
        "Budget": st.column_config.NumberColumn("Budget", format="percent", help="Over it, a source takes less detail"),
        "Detail": st.column_config.TextColumn(help="The level in force: 0 off, 1 least, 2 ordinary, 3 all"),
        "Said": st.column_config.DatetimeColumn("Last word", format="MMM D HH:mm:ss"),
        "Why not": st.column_config.TextColumn(width="large"),
    }
    parts.table(table.drop(columns="Why not") if told else table, column_config=columns, alt="Sources by state")


def _down(found: pd.DataFrame) -> bool:
    """Say in full why sources do not run, for a cell of the table cuts the sentence off; return whether all was said."""
    if found.empty:
        return True
    by = found.assign(reason=found["reason"].fillna("no reason told")).groupby(["source", "reason"], sort=False)["node"]
    lines = [
        f"- `{source}` on {', '.join(nodes[:3])}{f' and {len(nodes) - 3} more' if len(nodes) > 3 else ''}: {reason}"
        for (source, reason), nodes in by.agg(list).items()
    ]
    more = [f"- and {len(lines) - MOST_DOWN} more reasons, in the table"] if len(lines) > MOST_DOWN else []
    st.warning("**Down**\n" + "\n".join([*lines[:MOST_DOWN], *more]), icon=":material/sensors_off:")
    return not more


def _losses(found: pd.DataFrame, chosen: state.Range, told: bool) -> None:
    if found.empty and not told:
        st.caption("No source has reported: what is missing is not known.")
        return
    if found.empty:
        st.success(f"Nothing is known to be missing in {chosen.said}.", icon=":material/check_circle:")
        return
    lost = [
        f"at least {each:,}" if bound else f"{each:,}"
        for each, bound in zip(found["lost"], found["lower_bound"], strict=True)
    ]
    table = pd.DataFrame(
        {
            "Lost": lost,
            "Reason": found["reason"],
            "Lost by": found["source"],
            "Node": found["node"],
            "From": state.local(found["start_ns"]),
            "To": state.local(found["end_ns"]),
        }
    )
    when = st.column_config.DatetimeColumn(format="MMM D HH:mm:ss")
    parts.table(table, column_config={"From": when, "To": when}, alt="Losses by reason")


def _tables(found: pd.DataFrame, chosen: state.Range) -> None:
    if found.empty:
        st.caption(f"No table has rows in {chosen.said}.")
        return
    shown = found.sort_values("rows", ascending=False)
    table = pd.DataFrame(
        {
            "Table": shown["name"],
            "Rows": shown["rows"].map(words.count),
            "Newest": state.local(shown["newest_ns"]),
        }
    )
    when = st.column_config.DatetimeColumn(format="MMM D HH:mm:ss.SSS")
    parts.table(table, column_config={"Newest": when}, alt="Rows by table")


def _clocks(found: pd.DataFrame) -> None:
    if found.empty:
        st.caption("No two nodes exchanged enough messages to bound their clocks; on one node none is needed.")
        return
    table = pd.DataFrame(
        {
            "Nodes": found["node"] + " → " + found["other_node"],
            "Ahead by at least": found["low_ns"].map(words.duration),
            "At most": found["high_ns"].map(words.duration),
            "Known by": found["method"].replace("_", " ", regex=True),
            "Status": found["status"],
            "Messages": found["forward"].astype("Int64") + found["reverse"].astype("Int64"),
        }
    )
    parts.table(table, alt="Bounds between nodes' clocks")


show()
