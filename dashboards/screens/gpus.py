"""GPUs: every GPU and MIG instance over time, one measure at a glance; what went wrong, whose GPU it was, who ran then."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboards import fired, gpu_map, measures, parts, read, state, words

WITHOUT = (
    "NVIDIA's dcgm-exporter, or AMD's device-metrics-exporter, would add how much of a GPU its kernels fill (SM activity, "
    "memory bandwidth), its power, temperature, clocks, throttling and XIDs, and GPUs that no watched process uses. "
    "The source `dcgm` reads one at port 9400 of its node, or where the setting `dcgm_urls` says."
)

WENT = {"idle": "idle: no kernel seen", "unattributed": "unattributed: kernels of no known step"}
"""Where time went, as view `gpu_account` says → in words, where one word is not enough."""


def show() -> None:
    """Show the page."""
    st.title("GPUs")
    chosen = state.controls("15m")
    parts.live(_body, chosen)


def _body(chosen: state.Range) -> None:
    metrics = read.frame("gpu_metric", **chosen.bounds)
    if metrics.empty:
        seen = read.frame("gpu_seen", **chosen.bounds)
        if seen.empty:
            return _nothing(chosen)
        st.info(
            f"**These GPUs have no readings: what is drawn is told by their kernels.** {WITHOUT}",
            icon=":material/memory:",
        )
    picked, row = _measure(metrics)
    if row is None:
        seen = read.frame("gpu_seen", **chosen.bounds)
        window, named = _seen(seen, picked, chosen)
    else:
        window, named = _readings(row, picked, chosen)
    account = read.frame("gpu_account", **chosen.bounds)
    _unread(account, named, row is None, metrics.empty)
    _trouble(chosen)
    _shares(chosen, named)
    _account(account, named)
    _requests(window)


def _nothing(chosen: state.Range) -> None:
    parts.nothing(
        f"Nothing is known of a GPU in {chosen.said}",
        *parts.elsewhere("gpus", chosen, "gpu_sample", "gpu_kernel"),
        "Readings come from NVIDIA's dcgm-exporter or AMD's device-metrics-exporter (source `dcgm`), "
        "kernels from the library in the CUDA processes (source `cuda_kernel`) or an imported recording.",
        "[Pipeline health](/health) says which sources run, and why the others do not.",
        icon=":material/memory:",
    )


def _measure(metrics: pd.DataFrame) -> tuple[str, pd.Series | None]:
    """Offer the measures that there are, the most telling first; return the title picked and its row, None: seen kernels."""
    ranks = [measures.rank(*each) for each in zip(metrics["metric"], metrics["part"], strict=True)]
    ordered = metrics.assign(rank=ranks).sort_values("rank", kind="stable")
    rows: dict[str, pd.Series | None] = {}
    for _, row in ordered.iterrows():
        title = measures.named(row["metric"], row["part"])[0]
        rows[title if title not in rows else measures.key(row["metric"], row["part"])] = row
    rows[measures.named(*measures.SEEN)[0]] = None
    picked = st.selectbox("Measure", list(rows), key="metric", bind="query-params")
    return picked, rows[picked]


def _readings(row: pd.Series, title: str, chosen: state.Range) -> tuple[tuple[int, int] | None, dict[str, str]]:
    """Draw the readings of one measure; return the window picked and what its GPUs are called."""
    step = gpu_map.interval_ns(int(row["last_ns"]) - int(row["first_ns"]), row["readings"] / row["gpus"])
    part = "-" if words.missing(row["part"]) else row["part"]
    found = read.frame("gpu_heat", **chosen.bounds, metric=row["metric"], part=part, interval_ns=step)
    if found.empty:
        st.caption("One reading of what only grows says nothing yet: the next one will.")
        return None, {}
    parts.simulated_notice(bool(found["simulated"].fillna(False).any()))
    unit = measures.named(row["metric"], row["part"])[1]
    cells = found.assign(gpu=found.apply(_title, axis=1), value=measures.values(found, unit))
    window = gpu_map.draw(cells, step, title, unit)
    many, gpus = words.counted(row["readings"], "reading"), words.counted(row["gpus"], "GPU")
    st.caption(f"{measures.key(row['metric'], row['part'])}: {many} of {gpus}. {gpu_map.HINT}")
    return window, dict(zip(cells["gpu_uuid"], cells["gpu"], strict=True))


def _seen(found: pd.DataFrame, title: str, chosen: state.Range) -> tuple[tuple[int, int] | None, dict[str, str]]:
    """Draw the busy time that executions tell of; return the window picked and what its GPUs are called."""
    if found.empty:
        st.caption(
            f"No kernel was seen in {chosen.said}: they come from the source `cuda_kernel`, or an imported recording."
        )
        return None, {}
    parts.simulated_notice(bool(found["simulated"].fillna(False).any()))
    step = int(found["end_ns"].iloc[0] - found["start_ns"].iloc[0])
    cells = found.assign(gpu=found.apply(_title, axis=1), value=found["busy_ns"].astype(float) / step)
    window = gpu_map.draw(gpu_map.idle_between(cells, step), step, title, "1")
    told = {
        "seconds": "collectors count it by the second, for each process: what two ran at once counts twice, up to 100 %",
        "executions": "the union of the executions on record, so that what ran at once counts once",
    }
    how = "; ".join(text for key, text in told.items() if key in set(found["told_by"]))
    gpus, ran = words.counted(cells["gpu"].nunique(), "GPU"), words.counted(int(found["executions"].sum()), "execution")
    st.caption(
        f"Busy time of seen kernels, no DCGM: {words.duration(found['busy_ns'].sum())} of {gpus}, {ran} ({how}). "
        f"What unwatched processes ran is not in it. {gpu_map.HINT}"
    )
    return window, dict(zip(cells["gpu_uuid"], cells["gpu"], strict=True))


def _title(row: pd.Series) -> str:
    """Return what a person calls a GPU: its place and number, else its UUID's first part."""
    uuid = str(row["gpu_uuid"])
    number = f"GPU {uuid}" if uuid.isdigit() else fired.shortened(uuid)
    told = (
        row["node"] if words.missing(row.get("recording")) else row["recording"],
        None if words.missing(row.get("rank")) else f"rank {row['rank']}",
        number if words.missing(row["index"]) else f"GPU {row['index']}",
        None if words.missing(row.get("gpu_instance")) else f"MIG {row['gpu_instance']}",
    )
    return " · ".join(str(each) for each in told if not words.missing(each))


def _named(uuids: pd.Series, names: dict[str, str]) -> pd.Series:
    """Return GPUs as the map calls them, by the first part of their UUIDs where it does not show them."""
    return uuids.map(names).fillna(uuids.map(fired.shortened, na_action="ignore"))


def _unread(account: pd.DataFrame, named: dict[str, str], kernels: bool, alone: bool) -> None:
    """Say which GPUs worked and are not on the map: one may have an exporter where its neighbour has none."""
    missing = sorted(set(account["gpu_uuid"].dropna()) - set(named))
    if missing and not kernels and not alone:
        which = ", ".join(fired.shortened(each) for each in missing[:4]) + (" …" if len(missing) > 4 else "")
        st.caption(
            f":material/info: Without a reading of this measure, but seen to work: {words.counted(len(missing), 'GPU')} "
            f"({which}). Choose *{measures.named(*measures.SEEN)[0]}* above."
        )


def _trouble(chosen: state.Range) -> None:
    """List what held GPUs back or failed: throttling, XIDs, error counts that grew."""
    found = read.frame("gpu_trouble", **chosen.bounds)
    if found.empty:
        return
    st.subheader(
        "What went wrong", help="A reading that differs from the one before tells of it: it happened between the two"
    )
    table = pd.DataFrame(
        {
            "GPU": found.apply(_title, axis=1),
            "What": [_wrong(*each) for each in zip(found["kind"], found["what"], strict=True)],
            "How much": [_much(*each) for each in zip(found["kind"], found["amount"], found["times"], strict=True)],
            "From": state.local(found["first_ns"]),
            "To": state.local(found["last_ns"]),
        }
    )
    when = st.column_config.DatetimeColumn(format="MMM D HH:mm:ss")
    parts.table(table, column_config={"From": when, "To": when}, alt="Throttling, XIDs and errors of GPUs")


def _wrong(kind: str, what: str) -> str:
    return {"throttled": f"held back: {what.replace('_', ' ')}", "errors": f"errors: {what}"}.get(kind, what)


def _much(kind: str, amount: float, times: int) -> str:
    if words.missing(amount):
        return "once" if times == 1 else f"{times} times"
    return words.duration(amount) if kind == "throttled" else words.count(amount)


def _shares(chosen: state.Range, names: dict[str, str]) -> None:
    found = read.frame("gpu_pod", **chosen.bounds)
    if found.empty:
        return
    st.subheader("Whose GPU time it was")
    total, counted = found["share_ns"].sum(), (found["requests"], found["bucket"])
    table = pd.DataFrame(
        {
            "GPU": _named(found["gpu_uuid"], names),
            "Pod": found["pod"].where(~found["bucket"], found["pod"] + " (padding, overhead, unattributed)"),
            "GPU time": found["share_ns"].map(words.duration),
            "Of all": found["share_ns"].astype(float) / max(int(total), 1),
            "Energy, J": found["share_j"].astype(float),
            "Cost": found["cost"],
            "Requests": ["–" if bucket else words.count(each) for each, bucket in zip(*counted, strict=True)],
        }
    ).dropna(axis="columns", how="all")
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    columns = {"Of all": bar, "Energy, J": st.column_config.NumberColumn(format="%.3g")}
    parts.table(table, column_config=columns, alt="GPU time by pod")


def _account(found: pd.DataFrame, names: dict[str, str]) -> None:
    if found.empty:
        return
    st.subheader(
        "Where the GPUs' time went",
        help="The rows of a GPU sum to the time that it was watched. Where no kernel was seen it was idle, or processes "
        "ran that nobody watches: its readings, above, tell which",
    )
    table = pd.DataFrame(
        {
            "GPU": _named(found["gpu_uuid"], names),
            "Went to": found["went_to"].replace(WENT),
            "Time": found["time_ns"].map(words.duration),
            "Of its time": found["time_ns"].astype(float) / found["watched_ns"].clip(lower=1),
            "Cost": found["cost"],
            "Evidence": found["evidence"],
        }
    ).dropna(axis="columns", how="all")
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    parts.table(table, column_config={"Of its time": bar}, alt="Where each GPU's time went")


def _requests(window: tuple[int, int] | None) -> None:
    st.subheader("Requests of that time")
    if window is None:
        st.caption("Drag a box over the mean, under the map, to list the requests that ran then.")
        return
    # A request may have begun long before: ten minutes cover all but the odd one.
    found = read.frame(
        "request_search",
        **read.EVERY,
        since_ns=window[0] - 600 * state.SECOND_NS,
        until_ns=window[1],
        order="-duration_ns",
        limit=1000,
    )
    ran = found[found["end_ns"] >= window[0]]
    st.caption(f"{words.counted(len(ran), 'request')} ran in {state.between(*window)}.")
    table = pd.DataFrame(
        {
            "": [parts.request_link(uid) for uid in ran["request_uid"]],
            "Began": state.local(ran["start_ns"]),
            "Duration": ran["duration_ns"].map(words.duration),
            "First byte": ran["ttft_ns"].map(words.duration),
            "Pod or node": ran["pod"].fillna(ran["node"]),
            "Request": ran["path"],
        }
    )
    link = st.column_config.LinkColumn("", display_text="timeline", width="small")
    parts.table(table, column_config={"": link}, alt="Requests that ran in the picked time")


show()
