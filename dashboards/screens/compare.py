"""Compare: two requests, or one against its like: where their times differ, phase by phase and kernel by kernel."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import cohort, parts, read, state, theme, words

ENGINE = ("queue", "prefill", "decode")
"""Phases that an engine alone tells of."""
SIDES = ("a", "b")
NOT_WATCHED = "No GPU time is attributed to {}: its steps or its GPUs were not watched."
FACTS = (
    ("Duration", "duration_ns", words.duration),
    ("First byte", "ttft_ns", words.duration),
    ("Longest gap", "longest_gap_ns", words.duration),
    ("Chunks", "chunks", words.count),
    ("Received", "request_bytes", words.size),
    ("Sent", "bytes", words.size),
    ("Retransmits", "retransmits", words.count),
)


def show() -> None:
    """Show the page for the requests that the address names as `a` and `b`."""
    st.title("Compare")
    ids = {side: st.query_params.get(side, "") for side in SIDES}
    for side, column in zip(SIDES, st.columns(2), strict=True):
        typed = column.text_input(
            f"Request {side.upper()}", ids[side], placeholder="any id of a request", key=f"in_{side}"
        )
        if typed != ids[side]:
            st.query_params[side] = typed.strip()
            st.rerun()
    if not ids["a"]:
        parts.nothing(
            "Which two?",
            "Select two rows on the page Requests, or paste two ids: phases, facts and kernels then stand side by side.",
            "One id alone is compared with its like: the answered requests of its path within an hour of it.",
            icon=":material/compare_arrows:",
        )
        st.page_link("screens/requests.py", label="Requests", icon=":material/list_alt:")
        return
    first = _find(ids["a"])
    if first is None:
        return
    if ids["b"]:
        second = _find(ids["b"])
        if second is not None:
            _two(first, second)
    else:
        cohort.show(first, FACTS)


def _find(wanted: str) -> pd.Series | None:
    found = read.frame("request_found", id=wanted)
    if found.empty:
        st.warning(
            f"No request is known by `{wanted}`: it may have aged out, or not have arrived yet.",
            icon=":material/history:",
        )
        return None
    return found.iloc[0]


def _two(first: pd.Series, second: pd.Series) -> None:
    phases = [parts.phases(row, read.about(str(row["request_uid"]))["phases"]) for row in (first, second)]
    for side, row, column in zip("AB", (first, second), st.columns(2), strict=True):
        said, colour = words.outcome(*(row[name] for name in words.OUTCOME))
        column.markdown(
            f"**{side}** [{row['method']} {row['path']}]({parts.request_link(row['request_uid'])}) :{colour}-badge[{said}] "
            f"{words.duration(row['duration_ns'])} · {state.said(int(row['start_ns']))}"
        )
    _phases(phases)
    told = [any(name in ENGINE for name, _, _ in each) for each in phases]
    if told[0] != told[1]:
        seen, unseen = ("A", "B") if told[0] else ("B", "A")
        st.caption(f"The engine told of {seen} alone: {unseen} has the phases that its socket shows.")
    left, right = st.columns(2)
    with left:
        st.subheader("Facts")
        rows = [(name, say(first[key]), say(second[key]), _times(first[key], second[key])) for name, key, say in FACTS]
        rows += _spent(first, second)
        parts.table(pd.DataFrame(rows, columns=["Fact", "A", "B", "B is"]), alt="Facts of both requests")
    with right:
        st.subheader("GPU time, by how it is shared")
        _shares(first, second)
    st.subheader("Each one's share of kernels")
    _kernels(first, second)
    st.subheader("Kernels and calls while each lasted")
    _names(first, second)


def _phases(phases: list[list[parts.Phase]]) -> None:
    names = list(dict.fromkeys(name for each in phases for name, _, _ in each))
    longest = max((sum(end - start for _, start, end in side) for side in phases), default=0)
    unit, size = ("s", 1e9) if longest >= 5e9 else ("ms", 1e6)
    traces = [
        go.Bar(
            orientation="h",
            name=name,
            y=["A", "B"],
            marker_color=theme.PHASES.get(name.split(" ")[0], theme.PHASES["after"]),
            x=[sum(end - start for each, start, end in side if each == name) / size for side in phases],
            hovertemplate=f"{name} %{{x:,.4~g}} {unit}<extra></extra>",
        )
        for name in names
    ]
    figure = theme.figure(
        *traces,
        height=190,
        barmode="stack",
        xaxis={"title": f"time from its start, {unit}"},
        yaxis={"autorange": "reversed"},
    )
    st.plotly_chart(figure, key="phases", config={"displayModeBar": False}, alt="Phases of both requests, end to end")


def _times(first: Any, second: Any) -> str:
    """Return what B is of A; where one of them is nothing, or not known, there is no ratio to tell."""
    if not words.missing(first) and not words.missing(second) and first == second:
        return "the same"
    if words.missing(first) or words.missing(second) or not float(first) or not float(second):
        return parts.NONE
    ratio = float(second) / float(first)
    return f"{ratio:.2f} × A" if ratio < 10 else f"{ratio:,.0f} × A"


def _shares(first: pd.Series, second: pd.Series) -> None:
    found = [pd.DataFrame(read.about(str(row["request_uid"]))["shares"]) for row in (first, second)]
    if all(each.empty for each in found):
        st.caption("No GPU time is attributed to either of them.")
        return
    both = pd.concat([each.assign(side=side) for side, each in zip("AB", found, strict=True) if not each.empty])
    table = both.pivot_table(index="kernel_class", columns="side", values="share_ns", aggfunc="sum", fill_value=0)
    table = table.rename(index=words.SHARED_BY).reindex(columns=["A", "B"]).reset_index()
    _deltas(table.rename(columns={"kernel_class": "Kernels"}), "class")


def _spent(first: pd.Series, second: pd.Series) -> list[tuple[str, str, str, str]]:
    """Return GPU time, energy and cost of both as facts, where either is known."""
    shares = [read.about(str(row["request_uid"]))["shares"] for row in (first, second)]
    times = [sum(each["share_ns"] for each in side) or None for side in shares]
    both = zip(*(parts.spent(side) for side in shares), strict=True)
    rows = [(a[0], a[1], b[1], _times(*times) if a[0] == "GPU time" else parts.NONE) for a, b in both]
    return [row for row in rows if (row[1], row[2]) != ("–", "–")]


def _kernels(first: pd.Series, second: pd.Series) -> None:
    found = [read.kernels(row).assign(side=side) for side, row in zip("AB", (first, second), strict=True)]
    both = pd.concat([each for each in found if len(each)] or found[:1])
    if both.empty:
        st.caption("No GPU time is attributed to either of them.")
        return
    both = both.assign(name=both["name"].fillna("no execution on record"))
    table = both.pivot_table(
        index=["kernel_class", "name"], columns="side", values="share_ns", aggfunc="sum", fill_value=0
    )
    table = table.reindex(columns=["A", "B"]).reset_index()
    _deltas(table.rename(columns={"kernel_class": "Class", "name": "Kernel"}), "kernel")


def _names(first: pd.Series, second: pd.Series) -> None:
    profiles = []
    for side, row in zip("AB", (first, second), strict=True):
        names = read.profile(str(row["request_uid"]))
        profiles.append(
            pd.DataFrame(names, columns=["lane", "name", "class", "bars", "total_ns", "longest_ns", "own_ns"]).assign(
                side=side
            )
        )
    both = pd.concat(profiles)
    both = both[both["lane"].isin(["kernel", "launch", "syscall", "off_cpu"])]
    if both.empty:
        st.caption("Neither has GPU work or system calls on record.")
        return
    table = both.pivot_table(
        index=["lane", "name"], columns="side", values=["total_ns", "bars"], aggfunc="sum", fill_value=0
    )
    flat = pd.DataFrame({side: table.get(("total_ns", side), 0) for side in "AB"})
    seen = {side: flat.index.get_level_values("lane").isin(both.loc[both["side"] == side, "lane"]) for side in "AB"}
    for side in "AB":
        # Of a side with nothing at all on a lane, that lane was not watched: 0 s would be a measurement.
        flat[side] = flat[side].astype(float).where(seen[side])
        counts = pd.Series(table.get(("bars", side), 0), index=flat.index).astype("Int64")
        flat[f"Count {side}"] = counts.where(seen[side]).map(words.count)
    flat = flat.reset_index().rename(columns={"lane": "What", "name": "Name"})
    _deltas(flat.assign(What=flat["What"].replace("off_cpu", "off CPU")), "name", "Nothing was seen to run for {}.")
    st.caption(
        "Kernels and calls of the engine while the request lasted: on a shared engine they belong to its neighbours too."
    )


def _deltas(table: pd.DataFrame, key: str, without: str = NOT_WATCHED) -> None:
    """Show a table with a total for A and for B in ns, the greatest change first; a side of NaN is not known at all.

    `without` says so of a side.
    """
    unknown = [side for side in "AB" if table[side].isna().all()]
    table = table.assign(Change=table["B"] - table["A"], most=table[["A", "B"]].max(axis=1))
    table = table.sort_values(["most"] if unknown else ["Change", "most"], key=abs, ascending=False).drop(
        columns="most"
    )
    shown = table.assign(**{side: table[side].map(words.duration) for side in "AB"})
    shown["Change"] = [words.change(value) for value in table["Change"]]
    for side in unknown:
        st.caption(without.format(side))
    parts.table(shown, height=min(38 + 35 * len(shown), 420), alt=f"Totals of A and B by {key}")


show()
