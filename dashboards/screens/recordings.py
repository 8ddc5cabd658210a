"""Recordings: imported Kineto, Nsight Systems and Triton files, each with its timeline, its kernels and its steps."""

from __future__ import annotations

import json

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import flame, login, parts, read, sign, state, theme, timeline, words

FORMATS = ("kineto", "nsys", "triton")


def show() -> None:
    """Show the list, or the recording that the address names as `id`."""
    found = read.frame("recording_list")
    found = found[found["format"].isin(FORMATS)].reset_index(drop=True)
    if found.empty:
        st.title("Recordings")
        parts.nothing(
            "No recording was imported yet",
            "`warpline import kineto trace.json.gz` reads a PyTorch profiler's trace.",
            "`warpline import nsys report.sqlite` reads an export of Nsight Systems.",
            "The same file is stored once, however often it is imported.",
            icon=":material/video_library:",
        )
        return
    ids = found["recording_uid"].tolist()
    wanted = st.query_params.get("id", "")
    if wanted and wanted not in ids:
        st.warning(f"No recording `{wanted}` is in the store: it may have aged out.", icon=":material/history:")
    left, right = st.columns([5, 2], vertical_alignment="bottom")
    left.title("Recordings")
    with right.container(horizontal=True, horizontal_alignment="right"):
        state.zone_control()
    names = dict(zip(ids, found["name"], strict=True))
    picked = st.selectbox(
        "Recording", ids, ids.index(wanted) if wanted in ids else 0, format_func=lambda uid: f"{names[uid]}  ({uid})"
    )
    if picked != wanted:
        for name in ("t0", "t1") if wanted else ():  # Another recording's window says nothing of this one.
            st.query_params.pop(name, None)
        st.query_params["id"] = picked
    _recording(found[found["recording_uid"] == picked].iloc[0])


def _recording(row: pd.Series) -> None:
    uid = str(row["recording_uid"])
    error = "unknown" if words.missing(row["clock_error_ns"]) else words.duration(row["clock_error_ns"])
    parts.facts(
        ("Format", str(row["format"]), "What wrote it"),
        ("Rows", words.count(row["rows"]), "Rows that it holds"),
        (
            "Lasts",
            words.duration(int(row["end_ns"]) - int(row["start_ns"]) if not words.missing(row["end_ns"]) else None),
            "",
        ),
        ("Began", state.said(int(row["start_ns"])), "In node time"),
        ("Clock", str(row["clock"] or "unknown"), f"How its times became node time; they may be off by: {error}"),
    )
    parts.simulated_notice(bool(row["simulated"]) if not words.missing(row["simulated"]) else False)
    tracks = read.tracks("recording", uid)
    query = sign.signed({"recording": uid}, login.user())
    timeline.show(tracks, f"recording/{uid}", query, state.zone(), timeline.tall(tracks))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{tracks['bars']:,} bars. Times of a launch are the host's; a GPU execution's are the GPU's.")
        st.link_button("Chrome / Perfetto trace", f"/wl/trace?{query}", icon=":material/download:")
    _more(uid, row["summary"])


@st.fragment
def _more(uid: str, summary: object) -> None:
    """Show one of the tabs."""
    parts.tabs(
        {
            "Kernels": lambda: _kernels(uid),
            "GPUs": lambda: _busy(uid),
            "Steps": lambda: _steps(uid),
            "What was read": lambda: _summary(summary),
        }
    )


def _kernels(uid: str) -> None:
    found = read.frame("recording_kernel_top", recording=uid)
    if found.empty:
        parts.nothing("It holds no GPU execution", "A recording made on the CPU alone has launches and ranges at most.")
        return
    by_class = found.assign(kernel_class=found["kernel_class"].fillna(found["kind"]))
    flame.show(by_class, "GPU time", "flame", "Flame graph of GPU time: class of kernel, then kernel")
    table = pd.DataFrame(
        {
            "Name": found["name"],
            "Kind": found["kind"],
            "Class": found["kernel_class"],
            "Count": found["executions"],
            "Total": found["total_ns"].map(words.duration),
            "Of all": found["share_ratio"],
            "Mean": found["mean_ns"].map(words.duration),
            "Least": found["least_ns"].map(words.duration),
            "Longest": found["most_ns"].map(words.duration),
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    parts.table(
        table,
        column_config={"Of all": bar, "Name": st.column_config.TextColumn(width="large")},
        alt="Kernels by total time",
    )
    parts.download(found, f"kernels-{uid}")


def _busy(uid: str) -> None:
    found = read.frame("recording_busy", recording=uid)
    if found.empty:
        st.caption("No GPU worked in this recording.")
        return
    table = pd.DataFrame(
        {
            "Rank": found["rank"],
            "GPU": found["gpu_uuid"],
            "Executions": found["executions"],
            "Busy": found["busy_ns"].map(words.duration),
            "Busy share": found["busy_ratio"],
            "Idle": found["idle_ns"].map(words.duration),
            "Kernel time": found["kernel_ns"].map(words.duration),
        }
    )
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    parts.table(table, column_config={"Busy share": bar}, alt="How busy each GPU was")
    st.caption(
        "Busy is the union of a GPU's executions; kernel time is their sum, which is more where streams overlap."
    )


def _steps(uid: str) -> None:
    found = read.frame("recording_step", recording=uid)
    if found.empty:
        parts.nothing(
            "It tells of no engine steps",
            "Steps come from annotations that vLLM and SGLang write when they are profiled.",
        )
        return
    figure = theme.figure(
        go.Bar(x=found["ordinal"], y=found["duration_ns"].astype(float) / 1e6, marker_color=theme.SERIES[0]),
        height=220,
        xaxis={"title": "step"},
        yaxis={"title": "ms"},
    )
    st.plotly_chart(figure, config={"displayModeBar": False}, alt="Duration of each step")
    shown = found[["ordinal", "rank", "duration_ns", "requests", "context_tokens", "generation_tokens", "annotation"]]
    parts.table(
        shown.assign(duration_ns=found["duration_ns"].map(words.duration)),
        hide_index=True,
        alt="Steps of the recording",
    )


def _summary(text: object) -> None:
    try:
        found = json.loads(str(text))
    except ValueError:
        found = None
    if not found:
        st.caption("The import left no summary.")
        return
    st.json(found)


show()
