"""One request: what it was, where its time went, and everything that happened while it lasted, on one axis."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboards import fired, flame, login, parts, read, request_way, sign, standing, state, timeline, words
from warpline.errors import WarplineError

MOST_CAUSES = 5
MOST_DIFFERENCES = 4
MOST_AROUND = 6
TOOK = ("lightbulb", "What took its time")
MET = ("bolt", "What it met with; how much of its time that took is not known")
UNLIKE = ("compare_arrows", "How it differs from its like")
NEARBY = ("radar", "Near it in time; as far as is known not its cause")
"""Icon and heading of each group of what stands out."""
ENERGY = st.column_config.NumberColumn(format="%.3g")


def show() -> None:
    """Show the page of the request that the address names as `id`."""
    wanted = st.query_params.get("id", "")
    if not wanted:
        return _ask()
    found = read.frame("request_found", id=wanted)
    if found.empty:
        return _unknown(wanted)
    row = _attempt(found)
    about = read.about(str(row["request_uid"]))
    _header(row, about["shares"])
    parts.strip(parts.phases(row, about["phases"]), "Where the request's time went")
    place = st.empty()
    place.caption(":material/hourglass_empty: Looking for what stands out …")
    _timeline(row)
    _causes(place, row, about["findings"])
    _more(row, about)


def _causes(place: DeltaGenerator, row: pd.Series, findings: list[dict[str, Any]]) -> None:
    """Say why the request took as long as it did, the heaviest first; the timeline is on the screen before it is known."""
    start, end = int(row["start_ns"]), int(row["end_ns"])
    try:
        found, alerts = read.explained(str(row["request_uid"])), fired.within(start, end)
    except WarplineError as error:
        place.caption(f":material/cloud_off: What stands out could not be read: {error}")
        return
    with place.container(key="causes"):
        fired.show("Fired around it", alerts, f"/alerts?window={start - fired.LATE_NS}-{end + fired.LATE_NS}")
        standing_at = st.empty()
        # In its place from the start: nothing below moves when it is known.
        standing_at.caption(":material/leaderboard: Comparing it with its like …")
        _say(_grouped(found, findings), [*found["missing"], *found.get("unwatched", [])])
        _standing(standing_at, row)


def _standing(place: DeltaGenerator, row: pd.Series) -> None:
    """Say whether its time is ordinary, once all that is known sooner stands there."""
    try:
        text = standing.said(row)
    except WarplineError as error:
        text = f"How long its like took could not be read: {error}"
    place.caption(f":material/leaderboard: {text}", help="Answered requests of its path and model.")


def _grouped(found: dict[str, Any], findings: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return findings by (icon, heading): what took a known part of its time, what may have, and what is no cause of it."""
    causes = [*found["causes"], *findings][:MOST_CAUSES]
    return {
        TOOK: [each for each in causes if each.get("ns")],
        MET: [each for each in causes if not each.get("ns")],
        UNLIKE: found.get("differs", [])[:MOST_DIFFERENCES],
        NEARBY: found.get("around", [])[:MOST_AROUND],
    }


def _say(said: dict[tuple[str, str], list[dict[str, Any]]], missing: list[str]) -> None:
    """Show findings under the heading of their group, each with its icon and how it is known."""
    for (icon, heading), found in said.items():
        if found:
            st.caption(heading)
        for each in found:
            text, sure = parts.linked(str(each["sentence"])), each.get("confidence")
            known = parts.evidence(each["evidence"]) + (f" {math.floor(sure * 10_000) / 100:g} %" if sure else "")
            st.markdown(
                f":material/{icon}: {text[:1].upper()}{text[1:]} {known}", help=str(each.get("method", "")) or None
            )
    if not any(said.values()):
        st.caption("Nothing stands out: its time went as the strip above shows.")
    if missing:
        st.caption(
            f"Not recorded, so that less is explained: {'; '.join(each.replace(': ', ' – ', 1) for each in missing)}."
        )


def _ask() -> None:
    _search("")
    parts.nothing(
        "Which request?",
        "Paste any id that it is known by.",
        "Or pick one on the page Requests.",
        icon=":material/view_timeline:",
    )
    st.page_link("screens/requests.py", label="Requests", icon=":material/list_alt:")


def _search(known: str) -> None:
    """Show the page's title and the field for an id, with the one that the address names."""
    st.title("Request")
    wanted = st.text_input("Id of a request", known, placeholder="x-request-id, chatcmpl-…, trace id", type="search")
    if wanted and wanted != known:
        st.query_params["id"] = wanted.strip()
        st.rerun()


def _unknown(wanted: str) -> None:
    _search(wanted)
    days = read.settings().correlator_retention_days
    st.warning(
        f"**No request is known by** `{wanted}`\n\n- It may have aged out: {days} days are kept.\n"
        "- It may not have arrived yet: rows need about a second.\n"
        "- Its server may not be watched: see [Pipeline health](/health).",
        icon=":material/history:",
    )
    st.page_link("screens/requests.py", label="Search requests", icon=":material/list_alt:")


def _attempt(found: pd.DataFrame) -> pd.Series:
    """Return the attempt chosen, where one id names several."""
    if len(found) == 1:
        return found.iloc[0]
    number = st.segmented_control(
        f"{len(found)} attempts are known by this id",
        list(range(1, len(found) + 1)),
        default=1,
        key="attempt",
        bind="query-params",
    )
    return found.iloc[(number or 1) - 1]


def _header(row: pd.Series, shares: list[dict[str, Any]]) -> None:
    said, colour = words.outcome(*(row[name] for name in words.OUTCOME))
    left, right = st.columns([5, 2], vertical_alignment="center")
    left.markdown(
        f"### {row['method'] or ''} {row['path'] or ''} :{colour}-badge[{said}] {parts.evidence(row['evidence'])}\n"
        f"`{_identity(row)}` · {row['node'] if words.missing(row['pod']) else row['pod']} · "
        f"{state.said(int(row['start_ns']))}"
    )
    with right.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        state.zone_control()
        logs = words.filled(read.settings().dashboard_logs_url, row)
        if logs:
            st.link_button("Logs", logs, icon=":material/article:", type="tertiary")
        st.page_link(
            "screens/compare.py",
            label="Compare",
            icon=":material/compare_arrows:",
            query_params={"a": row["request_uid"]},
        )
    single = not words.missing(row["chunks"]) and int(row["chunks"]) < 2
    parts.facts(
        *_times(row),
        (
            "Chunks",
            words.count(row["chunks"]),
            "Pieces in which the server sent the response; a client that reads late gets several of them in one",
        ),
        (
            "Longest gap",
            "–" if single else words.duration(row["longest_gap_ns"]),
            "It came in one piece" if single else "Longest time between two of them, where the server sent them",
        ),
        ("Received", words.size(row["request_bytes"]), "Length of the request, head and body"),
        ("Sent", words.size(row["bytes"]), "Length of the response, head and body"),
        (
            "Retransmits",
            words.count(row["retransmits"]),
            "Segments sent again while it lasted, by its client and by its server. The timeline also says how many its "
            "connections sent again in their whole life, and what a proxy's connections did",
        ),
        *((label, said, title) for label, said, title in parts.spent(shares) if said != "–"),
    )


def _times(row: pd.Series) -> list[tuple[str, str, str]]:
    """Return how long it took and when its first byte came, at each socket that was watched."""
    where = parts.wall(row)[2]
    whole = " Shares of its time, below, are of this."
    took = "From the request's first byte to the response's last, at the {}'s socket."
    byte = "To the first byte of the response's body, at the {}'s socket."
    if row["side"] != "server" or words.missing(row["client_start_ns"]):
        side = "server" if row["side"] == "server" else "client"
        return [
            (f"Duration, {side}", words.duration(row["duration_ns"]), took.format(side) + whole),
            (f"First byte, {side}", words.duration(row["ttft_ns"]), byte.format(side)),
        ]
    client, at_client = int(row["client_end_ns"]) - int(row["client_start_ns"]), where.startswith("at the client")
    return [
        (
            "Duration, client",
            words.duration(client),
            took.format("client") + (whole if at_client else ""),
        ),
        (
            "Duration, server",
            words.duration(row["duration_ns"]),
            took.format("server") + ("" if at_client else whole + " The client's node has another clock."),
        ),
        ("First byte, client", words.duration(row["client_ttft_ns"]), byte.format("client")),
        ("First byte, server", words.duration(row["ttft_ns"]), byte.format("server")),
    ]


def _identity(row: pd.Series) -> str:
    return next(
        (str(row[key]) for key in ("response_id", "request_id", "trace_id") if not words.missing(row[key])),
        row["request_uid"],
    )


def _timeline(row: pd.Series) -> None:
    uid = str(row["request_uid"])
    tracks = read.tracks("request", uid)
    query = sign.signed({"request": uid}, login.user())
    timeline.show(tracks, f"request/{uid}", query, state.zone())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"{words.counted(tracks['bars'], 'bar')} on {words.counted(len(tracks['nodes']), 'node')}. "
            "Times of a launch are the host's; a GPU execution's are the GPU's."
        )
        st.link_button("Chrome / Perfetto trace", f"/wl/trace?{query}", icon=":material/download:")
        perfetto = read.settings().dashboard_perfetto_url
        if perfetto:
            st.link_button("Open Perfetto", perfetto, icon=":material/open_in_new:")


@st.fragment
def _more(row: pd.Series, about: dict[str, list[dict[str, Any]]]) -> None:
    """Show one of the tabs."""
    parts.tabs(
        {
            "GPU share and energy": lambda: _shares(about["shares"]),
            "Kernels": lambda: _kernels(row, bool(about["shares"])),
            "Who delayed whom": lambda: _blame(about["blame"], bool(about["shares"])),
            "Its way": lambda: request_way.show(row),
            "All facts": lambda: _facts(row),
        }
    )


def _kernels(row: pd.Series, shared: bool) -> None:
    if not shared:
        return _no_share()
    found = read.kernels(row)
    flame.show(
        found.rename(columns={"share_ns": "total_ns"}),
        "its GPU time",
        "flame",
        "Flame graph of this request's share of GPU time: class of kernel, then kernel",
    )
    st.caption(
        "This request's share of each kernel, summed over all GPUs: click a class to open it. "
        "The timeline shows the kernels themselves, which ran for its neighbours too."
    )
    table = pd.DataFrame(
        {
            "Kernel": found["name"].fillna("no execution on record"),
            "Class": found["kernel_class"],
            "Its GPU time": found["share_ns"].map(words.duration),
            "Of its GPU time": found["share_ns"] / max(found["share_ns"].sum(), 1),
            "Energy, J": found["share_j"],
            "Executions": found["executions"],
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    columns = {"Of its GPU time": bar, "Energy, J": ENERGY, "Kernel": st.column_config.TextColumn(width="large")}
    parts.table(table, column_config=columns, alt="This request's GPU time by kernel")
    parts.download(found, "kernels")


def _no_share() -> None:
    parts.nothing(
        "No GPU time is attributed to this request",
        "Its engine's steps must be known (the vLLM plugin, or the engine wire), "
        "and its GPUs watched (the CUPTI library).",
        "[Pipeline health](/health) says which sources run.",
        icon=":material/memory:",
    )


def _shares(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return _no_share()
    found = pd.DataFrame(rows)
    parts.facts(
        *parts.spent(rows),
        (
            "Busy time, shared out",
            words.duration(found["busy_ns"].sum()),
            "Its part of the time in which the GPUs ran anything",
        ),
        ("Steps", words.count(parts.steps(found)), "Engine steps that it took part in"),
    )
    table = pd.DataFrame(
        {
            "Phase": found["phase"],
            "Kernels": found["kernel_class"].replace(words.SHARED_BY),
            "GPU time": found["share_ns"].map(words.duration),
            "Of its GPU time": found["share_ns"] / max(found["share_ns"].sum(), 1),
            "Energy, J": found["share_j"].astype(float),
            "Steps": found["steps"],
            "GPUs": found["gpus"],
            "Evidence": found["evidence"],
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    parts.table(
        table,
        column_config={"Of its GPU time": bar, "Energy, J": ENERGY},
        alt="GPU time of this request by phase and class",
    )


def _blame(rows: list[dict[str, Any]], attributed: bool) -> None:
    if not rows and attributed:
        st.success(
            "**No other request delayed it, and it delayed none**: its engine steps are known, and show no such wait.",
            icon=":material/check_circle:",
        )
        return
    if not rows:
        return parts.nothing(
            "No delay between requests is known",
            "Its engine steps tell of that, and no GPU time is attributed to any of them: they come from the vLLM plugin, "
            "or from the source `engine_wire`.",
            "The tab *Its way* says how far it is followed, and what is missing.",
            icon=":material/hourglass_empty:",
        )
    found = pd.DataFrame(rows)
    for role, column in zip(("delayed by", "delayed"), st.columns(2), strict=True):
        part = found[found["role"] == role]
        said = "It was delayed by" if role == "delayed by" else "It delayed"
        column.markdown(f"**{said}** {words.duration(part['delay_ns'].sum()) if len(part) else 'nobody'}")
        if len(part):
            table = part.assign(delay=part["delay_ns"].map(words.duration))[["other", "kind", "delay", "evidence"]]
            column.dataframe(table, hide_index=True, placeholder=parts.NONE, alt=f"Requests that this one {role}")


def _facts(row: pd.Series) -> None:
    known = [(key, str(value)) for key, value in row.items() if not words.missing(value)]
    parts.table(pd.DataFrame(known, columns=["fact", "value"]), height=420, alt="Every fact of the request")
    parts.download(pd.DataFrame([row]), "request")


show()
