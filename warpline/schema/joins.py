"""What the correlator finds out: identities, edges, shares, clock bounds. Written by the joins, never by a source."""

from __future__ import annotations

from warpline.schema.declare import (
    START,
    TIME,
    Table,
    flag,
    integer,
    name,
    number,
    text,
)

ALIAS = Table(
    "alias",
    "One id that one attempt is known by.",
    (
        TIME,
        name(
            "kind",
            "trace_id, request_id, response_id, external_id, internal_id, exchange, remote_request_id, …",
            required=True,
        ),
        text("scope", "Where the id is unique: empty for everywhere, else a process or engine."),
        text("value", "The id.", required=True),
        text("attempt_uid", "Attempt that it names.", required=True),
        text("request_uid", "Request that the attempt belongs to."),
        name("evidence", "exact, derived, estimated, unknown.", required=True),
    ),
    keys=("value",),
)

EDGE = Table(
    "edge",
    "One statement of the joins: this belongs to that, known how and how well.",
    (
        TIME,
        name("from_kind", "Table of the one end.", required=True),
        text("from_id", "Row of the one end.", required=True),
        name("to_kind", "Table of the other end.", required=True),
        text("to_id", "Row of the other end.", required=True),
        name("relation", "carried_by, served_by, scheduled_in, launched, ran, preceded, retried, …", required=True),
        name("evidence", "exact, derived, estimated, unknown.", required=True),
        name("rule", "Rule that made it.", required=True),
        number("confidence", "Probability that it is right."),
        integer("error_low_ns", "Lower bound of the clock error across it."),
        integer("error_high_ns", "Upper bound of the clock error across it."),
        integer("alternatives", "Other ends that would have fitted."),
    ),
    keys=("from_id",),
)

SHARE = Table(
    "share",
    "GPU time of one engine step and class given to one request or bucket: they sum to what was measured, exactly.",
    (
        TIME,
        integer(
            "end_ns", "When the last of the executions ended that it is a part of; `time_ns` is when the first began."
        ),
        name("node", "Node.", "k8s.node.name"),
        name("process_uid", "Engine's process."),
        integer("step_ordinal", "Engine step; NULL for time outside steps."),
        name("gpu_uuid", "GPU or MIG instance."),
        name("kernel_class", "Class of the executions.", required=True),
        text(
            "owner",
            "Engine's id of the request, or __padding__, __dummy__, __unattributed__, __overhead__.",
            required=True,
        ),
        integer("share_ns", "Its part of the kernel time.", required=True),
        integer("busy_ns", "Its part of the busy time.", required=True),
        number("share_j", "Its part of the energy."),
        name("phase", "prefill, decode, recompute, draft; NULL for a bucket."),
        name("weights", "Weights that were used: class, tokens, equal."),
        name("evidence", "exact, derived, estimated, unknown.", required=True),
    ),
    keys=("owner",),
)

CLOCK_EDGE = Table(
    "clock_edge",
    "Bounds of what one node's time is ahead of another's, around one moment.",
    (
        TIME,
        name("node", "Node A.", required=True),
        name("other_node", "Node B.", required=True),
        integer("low_ns", "Least that B's node time may be ahead of A's.", required=True),
        integer("high_ns", "Most that it may be.", required=True),
        integer("drift_ppb", "How fast it changes."),
        integer("forward", "Matched messages from A to B."),
        integer("reverse", "Matched messages from B to A."),
        name("status", "ok, split, infeasible, prior_only, unknown.", required=True),
        name("method", "linear_program, lipschitz, prior."),
    ),
)

FINDING = Table(
    "finding",
    "One thing that the joins noticed: a contradiction refused, a cause of slowness, an input that is missing.",
    (
        TIME,
        text("subject", "Request, node or source that it is about.", required=True),
        name("kind", "identity_conflict, cause, missing_input, clock, …", required=True),
        text("sentence", "What a person should know.", required=True),
        number("score", "Weight for ranking; for a cause, ns of wall time."),
        name("evidence", "exact, derived, estimated, unknown."),
        text("details", "Numbers behind it, as JSON."),
    ),
    keys=("subject",),
)

ALERT = Table(
    "alert",
    "One change of one alert's state.",
    (
        TIME,
        name("rule", "Rule.", required=True),
        name("state", "pending, firing, resolved, no_data, inactive (pending or without data before).", required=True),
        name("severity", "critical, warning, info."),
        text("labels", "Labels that tell its instances apart, as JSON."),
        text("summary", "What is wrong, with the value."),
        number("value", "Value that the rule saw."),
        flag("notified", "Whether a receiver took it at once; NULL where there is none, or nothing to tell."),
    ),
    keys=("rule",),
)

BLAME = Table(
    "blame",
    "Time that one request cost another: in the queue, by its prefill, by preemption.",
    (
        START,
        text("victim", "Engine's id of the request that waited.", required=True),
        text("culprit", "Engine's id of the request that it waited for.", required=True),
        name("process_uid", "Engine's process."),
        name("kind", "queue, prefill, preemption, decode.", required=True),
        integer("delay_ns", "How long.", required=True),
        name("evidence", "exact, derived, estimated, unknown.", required=True),
    ),
    keys=("victim",),
)

JOIN_TABLES = (ALIAS, EDGE, SHARE, CLOCK_EDGE, FINDING, ALERT, BLAME)
