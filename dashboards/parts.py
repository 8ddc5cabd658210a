"""What several pages show: errors and empty states that say what to do, badges, the phase strip, downloads."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pandas as pd
import streamlit as st

from dashboards import read, state, theme, words
from warpline.errors import WarplineError

NONE = "–"
"""What a cell shows whose value is not known."""

Phase = tuple[str, int, int]
"""A phase's name, and its start and end in ns."""
_TRANSFER = "KV transfer"


def failed(error: Exception) -> None:
    """Say that something could not be read, in the correlator's own sentence, and what to try."""
    st.error(f"**This page could not be read.** {error}", icon=":material/cloud_off:")
    st.caption(f"The dashboard reads `{read.settings().query_url}` (setting `query_url`).")
    st.button("Try again", icon=":material/refresh:")


def live(body: Callable[[state.Range], None], chosen: state.Range) -> None:
    """Run a page's body by itself, again every few seconds where the page is live, and say what it could not read."""

    def guarded() -> None:
        try:
            body(chosen)
        except WarplineError as error:
            failed(error)

    st.fragment(run_every=state.live_seconds())(guarded)()


def nothing(title: str, *advice: str, icon: str = ":material/search_off:") -> None:
    """Say that there is nothing to show, why that may be, and what to do."""
    st.info(f"**{title}**\n\n" + "\n".join(f"- {each}" for each in advice), icon=icon)


def elsewhere(page: str, chosen: state.Range, *tables: str) -> list[str]:
    """Return what to do where a time range is empty: a link to the newest rows of the tables, and what else to choose."""
    if chosen.since_ns is None and chosen.until_ns is None:
        return []
    known = read.frame("table_recent")
    newest = known.loc[known["name"].isin(tables), "newest_ns"].max()
    # Where they hold no row at all, no other time has any.
    return [] if words.missing(newest) else [newest_at(page, int(newest)), *wider(chosen)]


def newest_at(page: str, newest_ns: int) -> str:
    """Return a sentence that says when the newest row was, with a link to the quarter of an hour before it."""
    window = f"{int(newest_ns) - 900 * state.SECOND_NS}-{int(newest_ns) + state.SECOND_NS}"
    return f"The newest in the store is of {state.said(int(newest_ns))}: [show that time](/{page}?window={window})."


def wider(chosen: state.Range) -> list[str]:
    """Return how to choose another time range; nothing where it is all of the store."""
    if chosen.until_ns is not None:
        return ["Close the window above, and choose a time range."]
    return [] if chosen.since_ns is None else ["Choose a longer time range above."]


def welcome() -> None:
    """Explain a store that holds no request to one who comes for the first time: what to do, and what will be seen."""
    sources = read.frame("source")
    st.subheader("No request has arrived yet" if len(sources) else "Nothing has arrived yet")
    st.write(
        "Warpline follows one LLM request from the client's socket to the GPU kernel. "
        "Three processes make that: a **collector** on each node sees requests, system calls and GPU work; the "
        "**correlator** stores and joins them; this **dashboard** shows them. The correlator answers, and holds no request."
    )
    if len(sources):
        _watched(sources)
    else:
        _begin()
    st.markdown("**What will be seen here**")
    st.markdown("\n".join(f"- **[{title}](/{page})**: {what}" for page, title, what in _PAGES))


_PAGES = (
    ("health", "Pipeline health", "which sources run, why others do not, and what was lost. Look here first."),
    ("requests", "Requests", "every request of a watched server: which was slow, which failed."),
    ("request", "Request", "one of them: why it took as long, on a timeline from its client down to each GPU kernel."),
    ("compare", "Compare", "two of them, or one against its like."),
    ("gpus", "GPUs", "how busy each GPU was, what held it back, and whose time it was."),
)
"""What a first visit names: a page's address, its title, and what it answers."""


def _watched(sources: pd.DataFrame) -> None:
    """Say that collectors report, and what is missing until a request is seen."""
    up, nodes = int(sources["up"].astype(bool).sum()), sources["node"].nunique()
    seeing = sources.loc[sources["source"] == "http_exchange", "up"].astype(bool).any()
    nothing(
        f"Collectors report from {words.counted(nodes, 'node')}: {up} of {words.counted(len(sources), 'source')} up",
        "Send a request to a model server on a watched node: it appears here within about a second."
        if seeing
        else "None of them sees requests: the source `http_exchange` does, and does not run.",
        "[Pipeline health](/health) says why a source does not run, and what to do.",
        icon=":material/sensors:",
    )


def _begin() -> None:
    """Offer three ways to the first data."""
    steps = st.columns(3, border=True)
    steps[0].markdown(
        "**Watch a server**\n\n```\nwarpline check\nsudo warpline collect\n```\nOn the model server's node: `check` says "
        "what can be seen there, `collect` sees it and sends it to `collector_endpoint`. On Kubernetes, the chart in "
        "`deploy/helm` runs a collector on each node."
    )
    steps[1].markdown(
        "**Or try the demo**\n\n```\nmake demo\n```\nA model server, a load and all of Warpline, on this machine, with a "
        "dashboard of its own."
    )
    steps[2].markdown(
        "**Or open a recording**\n\n```\nwarpline import kineto trace.json.gz\n```\nA PyTorch profiler's trace, or Nsight "
        "Systems' export: it appears on the page [Recordings](/recordings)."
    )


def evidence(kind: Any) -> str:
    """Return a badge, in Streamlit's Markdown, that says how something is known."""
    kind = "unknown" if words.missing(kind) else str(kind)
    return f":{theme.EVIDENCE.get(kind, 'gray')}-badge[{kind}]"


def simulated_notice(simulated: bool) -> None:
    """Say on the page that what it shows was not measured, where that is so."""
    if simulated:
        st.warning(
            "**SIMULATED** Some of this was made by a double and measured on no real device.", icon=":material/science:"
        )


def facts(*each: tuple[str, str, str]) -> None:
    """Show figures in one line: label, value, and a text on hover."""
    cells = "".join(
        f'<div title="{html.escape(title)}"><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>'
        for label, value, title in each
    )
    st.html(f'<dl class="wl-facts">{cells}</dl>')


def strip(phases: Sequence[Phase], label: str) -> None:
    """Draw phases end to end as one bar; every phase says its name, time and share of them all on hover."""
    whole = sum(end - start for _, start, end in phases)
    if whole <= 0:
        return
    cells = []
    for name, start, end in phases:
        lasted, share = end - start, (end - start) / whole
        colour = theme.PHASES.get(name.split(" ")[0], theme.PHASES["after"])
        took = words.duration(lasted)
        title = html.escape(f"{name} {took}, {100 * share:.1f} % of the request")
        # What does not fit its width wraps into a second line, which the strip does not show.
        text = f"<i></i><span>{html.escape(name)}&nbsp;</span><span>{took}</span>"
        sliver = ' class="wl-sliver"' if share < 0.02 else ""
        style = f"flex:{max(share, 0.002):.5f};background:{colour};color:{theme.ink(colour)}"
        cells.append(f'<div{sliver} style="{style}" title="{title}">{text}</div>')
    st.html(f'<div class="wl-strip" role="img" aria-label="{html.escape(label)}">{"".join(cells)}</div>')


def wall(row: pd.Series) -> tuple[int, int, str]:
    """Return the start and end of a request's one wall time, in node time of its node, and where that was seen.

    It is the client's where the client was seen by the same clock, else the server's: what `explain` takes shares of.
    """
    start, end = int(row["start_ns"]), int(row["end_ns"])
    if row["side"] != "server":
        return start, end, "at the client's socket"
    if words.missing(row["client_start_ns"]) or row["client_node"] != row["node"]:
        return start, end, "at the server's socket"
    return min(int(row["client_start_ns"]), start), max(int(row["client_end_ns"]), end), "at the client's socket"


def phases(row: pd.Series, engine: Sequence[dict[str, Any]]) -> list[Phase]:
    """Return the phases of a request's wall time, each once and end to end: what the engine told where it did, else what
    sockets show.

    `row` is of view `request`, `engine` the phases of its engine; times are node time of the server's node.
    """
    first, last, _ = wall(row)
    start, end = int(row["start_ns"]), int(row["end_ns"])
    around = [("way to the server", first, start), *_served(row, engine, start, end), ("way back", end, last)]
    return [each for each in around if each[2] > each[1]]


def _served(row: pd.Series, engine: Sequence[dict[str, Any]], start: int, end: int) -> list[Phase]:
    first = None if words.missing(row["first_body_ns"]) else int(row["first_body_ns"])
    sent = start if words.missing(row["request_end_ns"]) else int(row["request_end_ns"])
    told = [(str(each["name"]), int(each["start_ns"]), int(each["end_ns"] or end)) for each in engine]
    if not told:
        told = [("receive", start, sent)]
        told += [("wait for the first byte", sent, first), ("stream", first, end)] if first else [("wait", sent, end)]
        return told
    found: list[Phase] = []
    at = start
    for name, begin, until in sorted(_apart(told), key=lambda each: each[1]):
        begin, until = max(begin, at), min(until, end)
        if until <= begin:
            continue
        if begin > at:
            found += [("wait", at, begin)] if found else _before(at, sent, begin)
        if found and found[-1][0] == name:  # Two told of the same phase: engine events, and the engine's own spans.
            begin = found.pop()[1]
        found.append((name, begin, until))
        at = until
    preempted = not words.missing(row["preemptions"]) and int(row["preemptions"])
    # Whoever was preempted may have come back, and the engine did not say when.
    told_whole = bool(found) and found[-1][0] == "decode" and not preempted
    return [*found, ("after the engine" if told_whole else "not told by the engine", at, end)]


def _apart(told: list[Phase]) -> list[Phase]:
    """Return phases without the time in which the request waited for a KV cache, which stands by itself."""
    for _, low, high in [each for each in told if each[0] == _TRANSFER]:
        cut = [[each] if each[0] == _TRANSFER else _around(each, low, high) for each in told]
        told = [piece for pieces in cut for piece in pieces if piece[2] > piece[1]]
    return told


def _around(phase: Phase, low: int, high: int) -> list[Phase]:
    name, start, end = phase
    return [(name, start, min(end, low)), (name, max(start, high), end)]


def _before(start: int, sent: int, begin: int) -> list[Phase]:
    """Return what came before the engine had a request: until its last byte, and then."""
    sent = min(max(sent, start), begin)
    return [("receive", start, sent), ("wait for the engine", sent, begin)]


def table(shown: pd.DataFrame, *, alt: str, **more: Any) -> Any:
    """Show a table without numbers of rows, a dash where a value is not known; return what `st.dataframe` does."""
    return st.dataframe(shown, hide_index=True, placeholder=NONE, alt=alt, **more)


def download(frame: pd.DataFrame, name: str, label: str = "CSV") -> None:
    """Offer a frame as a CSV file."""
    st.download_button(
        label,
        frame.to_csv(index=False).encode(),
        f"warpline-{name}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
    )


def spent(shares: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return GPU time, energy and cost of a request as facts, from its shares; dashes where they are not known."""
    kernels = sum(each["share_ns"] for each in shares)
    energy, cost = (
        sum(known) if (known := [each[name] for each in shares if not words.missing(each.get(name))]) else None
        for name in ("share_j", "cost")
    )
    return [
        (
            "GPU time",
            words.duration(kernels) if shares else "–",
            "Its part of every kernel: the shares of all requests sum to what was measured",
        ),
        ("Energy", "–" if energy is None else f"{energy:.3g} J", "Its part of the energy that the GPUs drew meanwhile"),
        (
            "Cost",
            "–" if cost is None else f"{cost:.3g}",
            "Its part of the GPUs' busy time, at the price in the setting correlator_gpu_price; idle time is nobody's",
        ),
    ]


def steps(shares: pd.DataFrame) -> int:
    """Return in how many of its engine's steps a request was, from its shares, a row for each phase and class of kernels.

    A step is of one phase and of several classes; a phase that nobody told is one, too.
    """
    return int(shares.groupby("phase", dropna=False)["steps"].max().sum())


def tabs(shows: Mapping[str, Callable[[], object]]) -> None:
    """Show one of the tabs, which the address names: what another would ask for is not asked."""
    for tab, show in zip(st.tabs(list(shows), key="tab", bind="query-params"), shows.values(), strict=True):
        if tab.open:
            with tab:
                show()


def labels(text: object) -> str:
    """Return an alert's labels, a JSON object, as a person reads them; empty where it has none."""
    try:
        found = json.loads(str(text))
    except ValueError:
        return ""
    return ", ".join(f"{key} {value}" for key, value in found.items()) if isinstance(found, dict) else ""


_KNOWN_BY = re.compile(r"\b(?:chatcmpl|cmpl)-[0-9A-Za-z][0-9A-Za-z-]{7,}")


def linked(sentence: str) -> str:
    """Return a sentence in which each id that an engine gave a request links to that request's page."""
    return _KNOWN_BY.sub(lambda each: f"[{each[0]}]({request_link(each[0])})", sentence)


def request_link(uid: str) -> str:
    """Return the address of a request's page."""
    return f"/request?id={quote(uid, safe='')}"
