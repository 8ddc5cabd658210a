"""Requests: search, sort and filter; one row opens its timeline, two compare."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboards import parts, read, state, words

SORTS = {
    "newest": "-start_ns",
    "slowest": "-duration_ns",
    "slowest at its client": "-client_duration_ns",
    "slowest first token": "-ttft_ns",
    "longest gap": "-longest_gap_ns",
    "most retransmits": "-retransmits",
}
"""What a person sorts by → the view's column."""

LIMIT = 5000
PAGE = 50
MS = 1_000_000


def show() -> None:
    """Show the page."""
    st.title("Requests")
    chosen = state.controls("all")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    method = state.method()
    filters, sort = _filters(chosen)
    found = read.frame("request_search", **chosen.bounds, **filters, method=method, order=SORTS[sort], limit=LIMIT)
    if found.empty:
        return _empty(chosen, method)
    shown = _page(found)
    _table(shown)


def _filters(chosen: state.Range) -> tuple[dict[str, str], str]:
    facets = read.frame("request_facet", **chosen.bounds)
    values = {name: facets.loc[facets["facet"] == name, "value"].tolist() for name in ("path", "pod")}
    columns = st.columns([3, 2, 2, 1.4, 1.2, 1.2, 1.8])
    text = columns[0].text_input(
        "Search", placeholder="any id, pod, path, node, status", key="q", bind="query-params", type="search"
    )
    path = columns[1].selectbox("Path", ["any", *values["path"]], key="path", bind="query-params")
    pod = columns[2].selectbox("Pod or node", ["any", *values["pod"]], key="pod", bind="query-params")
    outcome = columns[3].selectbox("Outcome", ["any", "ok", "failed", "open"], key="outcome", bind="query-params")
    least = columns[4].number_input("At least, ms", min_value=0, value=0, step=50, key="least", bind="query-params")
    most = columns[5].number_input(
        "At most, ms", min_value=0, value=0, step=50, key="most", bind="query-params", help="0 sets no bound"
    )
    sort = columns[6].selectbox("Sort", list(SORTS), key="sort", bind="query-params")
    anything = {"any": "*"}
    return {
        "text": (text or "").strip() or "*",
        "path": anything.get(path, path),
        "pod": anything.get(pod, pod),
        "outcome": anything.get(outcome, outcome),
        "least_ns": str(int(least) * MS),
        "most_ns": str(int(most) * MS if most else 1 << 62),
    }, sort


def _empty(chosen: state.Range, method: str) -> None:
    if not len(read.frame("request_search", **read.EVERY, limit=1)):
        return parts.welcome()
    advice = ["Clear the search, or set the filters back to *any*."]
    if method != "*":
        advice.insert(0, "Choose *all* above to see scrapes, probes and other GETs, too.")
    advice = [*parts.elsewhere("requests", chosen, "http_exchange", "span"), *advice]
    days = read.settings().correlator_retention_days
    parts.nothing(
        f"No request fits in {chosen.said}", *advice, f"What is older than the retention ({days} days) is gone."
    )


def _page(found: pd.DataFrame) -> pd.DataFrame:
    pages = -(-len(found) // PAGE)
    with st.container(horizontal=True, vertical_alignment="center"):
        most = f"The first **{LIMIT:,}** requests in this order"
        said = most if len(found) == LIMIT else f"**{words.counted(len(found), 'request')}**, all of them"
        st.caption(f"{said}. Select one row for its timeline, two to compare.")
        parts.download(found, "requests")
    number = 1
    if pages > 1:
        number = st.pagination(pages, key="page", bind="query-params")
    return found.iloc[(number - 1) * PAGE : number * PAGE].reset_index(drop=True)


def _table(shown: pd.DataFrame) -> None:
    table = pd.DataFrame(
        {
            "open": [parts.request_link(uid) for uid in shown["request_uid"]],
            "began": state.local(shown["start_ns"]),
            "outcome": [words.outcome(*each)[0] for each in zip(*(shown[name] for name in words.OUTCOME), strict=True)],
            "request": shown["method"].fillna("") + " " + shown["path"].fillna(""),
            "pod": shown["pod"].fillna(shown["node"]),
            "duration": shown["duration_ns"].astype("Float64") / MS,
            "at client": shown["client_duration_ns"].astype("Float64") / MS,
            "first byte": shown["ttft_ns"].astype("Float64") / MS,
            "longest gap": shown["longest_gap_ns"].astype("Float64") / MS,
            "chunks": shown["chunks"],
            "sent": shown["bytes"].astype("Float64") / 1000,
            "retransmits": shown["retransmits"],
            "evidence": shown["evidence"],
            "sides": [
                "both" if not words.missing(each) else "one"
                for each in shown["client_start_ns"].where(shown["side"] == "server")
            ],
            "id": shown["response_id"].fillna(shown["request_id"]).fillna(shown["request_uid"]),
        }
    )
    event = parts.table(
        table,
        height=min(38 + 35 * len(table), 900),
        on_select="rerun",
        selection_mode="multi-row",
        key="picked",
        column_config=_columns(float(table["duration"].max() or 1)),
        alt="Requests that fit the search, one a row",
    )
    _offer(shown, event.selection.rows)


def _columns(longest: float) -> dict[str, object]:
    milliseconds = st.column_config.NumberColumn
    return {
        "open": st.column_config.LinkColumn("", display_text="timeline", width="small"),
        "began": st.column_config.DatetimeColumn("Began", format="MMM D HH:mm:ss.SSS"),
        "outcome": st.column_config.TextColumn("Outcome", width="small"),
        "request": st.column_config.TextColumn("Request", width="medium"),
        "pod": st.column_config.TextColumn("Pod or node"),
        "duration": st.column_config.ProgressColumn(
            "Duration",
            help="At its server, from the first byte to the last; at its client where no server was seen",
            format="%.1f ms",
            min_value=0.0,
            max_value=longest,
        ),
        "at client": milliseconds(
            "At its client", format="%.1f ms", help="The same from the client's socket, where that was watched"
        ),
        "first byte": milliseconds(
            "First byte", format="%.1f ms", help="From the request's first byte to the first of the response's body"
        ),
        "longest gap": milliseconds(
            "Longest gap", format="%.1f ms", help="Longest time between two pieces of the response"
        ),
        "chunks": milliseconds("Chunks", width="small"),
        "sent": st.column_config.NumberColumn("Sent", format="%.1f kB", width="small"),
        "retransmits": milliseconds("Resent", width="small", help="Segments of its connection that were sent again"),
        "evidence": st.column_config.TextColumn(
            "Evidence", help="How its two sides were joined: exact, or derived", width="small"
        ),
        "sides": st.column_config.TextColumn(
            "Sides seen", help="Whether client and server were both watched", width="small"
        ),
        "id": st.column_config.TextColumn("Id"),
    }


def _offer(shown: pd.DataFrame, picked: list[int]) -> None:
    ids = [str(shown["request_uid"].iloc[row]) for row in picked if row < len(shown)]
    if len(ids) == 1:
        st.page_link(
            "screens/request.py",
            label="Open its timeline",
            icon=":material/view_timeline:",
            query_params={"id": ids[0]},
        )
    elif len(ids) == 2:
        st.page_link(
            "screens/compare.py",
            label="Compare the two",
            icon=":material/compare_arrows:",
            query_params={"a": ids[0], "b": ids[1]},
        )
    elif len(ids) > 2:
        st.caption("Two at most can be compared: select one or two rows.")


show()
