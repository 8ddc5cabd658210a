"""How far a request is followed, from its client's socket to its GPU executions, and by what each step of that is known."""

from __future__ import annotations

import re

import pandas as pd
import streamlit as st

from dashboards import fired, parts, read, state, words

ADVICE = {
    "the client's socket": "No collector watches the client's node, or the client is outside the cluster.",
    "the server's socket": "No collector with the source `http_exchange` watches the server's node.",
    "a proxy's access log": "A proxy passed it on and its access log was not read: source `envoy_log`, and the proxy's log "
    "format.",
    "the engine's request": "The engine does not say which of its requests it was: the vLLM plugin, or the source "
    "`engine_wire`.",
    "its engine steps": "Which steps it was in is not known: the vLLM plugin, or the source `engine_wire`.",
    "CUDA launches of a step": "Some of its steps have no CUDA launch on record: the CUPTI library in the engine, or the "
    "source `cuda_launch`.",
    "GPU executions of a step": "Some of its launches have no execution on record: the CUPTI library in the engine.",
}
"""First part that is missing, as view `request_path` says → why that may be, and what to do."""

KINDS = {"gpu_kernel": "", "attempt": "request"}
"""Kind of an edge's end → what a person calls it, where that is not its name; nothing where its id says what it is."""
_ID = re.compile(r"\b(?:chatcmpl|cmpl)-[0-9A-Za-z-]{16,}|\b[0-9a-f]{8}-[0-9a-f-]{27,}|\b[0-9a-f]{32}\b")
"""An id too long for a cell: an engine's, an x-request-id, a trace's."""

ROWS = "Rows that belong to this request"
PLACES = (
    (
        "proxies",
        "Proxies seen to pass it on",
        "By their own sockets: proxies on nodes without a collector are not among them",
    ),
    ("hops", "Of them in access logs", "Its rows in the access logs of those proxies"),
    ("engine_requests", "Requests of the engine", ROWS),
    ("steps", "Engine steps", ROWS),
    ("launches", "CUDA launches", ROWS),
    ("executions", "GPU executions", ROWS),
)
"""A column of view `request_path`, its title, and what is said on hover."""


def show(row: pd.Series) -> None:
    """Show what was found of each part of the way, the first part that is missing, and the evidence of every edge."""
    uid, start, end = str(row["request_uid"]), int(row["start_ns"]), int(row["end_ns"])
    found = read.frame("request_path", since_ns=start, until_ns=start + 1)
    found = found[found["request_uid"] == uid]
    if not found.empty:
        _parts(found.iloc[0])
    second = state.SECOND_NS
    edges = read.frame("request_edge", request=uid, since_ns=start - second, until_ns=end + second)
    if edges.empty:
        st.caption("No joins are known of it yet: they follow its last row by seconds.")
        return
    table = pd.DataFrame(
        {
            "From": [said(*each) for each in zip(edges["from_kind"], edges["from_id"], strict=True)],
            "": edges["relation"].str.replace("_", " "),
            "To": [said(*each) for each in zip(edges["to_kind"], edges["to_id"], strict=True)],
            "Evidence": edges["evidence"],
            "Rule": edges["rule"].str.replace("_", " "),
            "Confidence": edges["confidence"].astype(float),
            "Clocks off by": edges["error_high_ns"].map(words.duration),
            "Others that fit": edges["alternatives"],
        }
    )
    columns = {
        "Confidence": st.column_config.NumberColumn(format="percent", width="small"),
        "Clocks off by": st.column_config.TextColumn(help="At most, where its two ends have two clocks"),
        "Others that fit": st.column_config.NumberColumn(
            help="What else the rule would let stand there", width="small"
        ),
    }
    parts.table(table, column_config=columns, alt="Every edge of the join, and how it is known")
    parts.download(edges, "way")


def said(kind: str, name: str) -> str:
    """Return what stands at one end of an edge as a person reads it, its long ids shortened; the CSV has them whole.

    Of a socket's exchange its connection and its number there are told: 71/0.
    """
    found = name.split("/")
    if kind == "http_exchange" and len(found) == 4:
        return f"{found[3]}'s socket on {found[0]}, {found[1]}/{found[2]}"
    if kind == "hop" and len(found) >= 3:
        return f"access log of {found[1]} on {found[0]}"
    text = _ID.sub(lambda each: f"{each[0][:14]}…{each[0][-6:]}", fired.shortened(found[-1]))
    amount, _, rest = text.partition(" ")
    if amount.isdigit():  # It says itself what it counts.
        return f"{int(amount):,} {rest}"
    return f"{KINDS.get(kind, kind.replace('_', ' '))} {text}".strip()


def _parts(row: pd.Series) -> None:
    if words.missing(row["missing"]):
        st.success("Followed whole: from the client's socket to its GPU executions.", icon=":material/route:")
    else:
        missing = str(row["missing"])
        st.warning(f"**The way ends before {missing}.** {ADVICE.get(missing, '')}", icon=":material/route:")
    parts.facts(
        ("Client's socket", "seen" if row["client"] else "not seen", "Its side of the exchange"),
        ("Server's socket", "seen" if row["server"] else "not seen", "Its side of the exchange"),
        # Access logs are looked through for proxies that were seen alone.
        *((title, words.count(row[key]), told) for key, title, told in PLACES if key != "hops" or row["proxies"]),
    )
