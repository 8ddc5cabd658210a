"""The rows of a timeline as a person reads them: grouped, named and ordered from the client's socket to the GPU."""

from __future__ import annotations

from typing import Any

from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_scope import Scope, Views, rows

GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("client", "Client", ("exchange.client",)),
    ("mesh", "Mesh hops", ("hop",)),
    ("network", "Network", ("connection", "flow")),
    ("server", "Server", ("exchange.server",)),
    ("spans", "Spans told by services", ("span",)),
    ("host", "Server threads", ("syscall", "off_cpu")),
    ("engine", "Engine", ("engine_request", "phase", "member", "step")),
    ("transfer", "KV transfer", ("kv_transfer",)),
    ("launch", "CUDA launches", ("launch",)),
    ("ranges", "Host ranges", ("annotation",)),
)
"""Group → title → lanes in it. GPUs stand before the ranges, a group each: stacks of ranges are deep."""

_GPUS = next(place for place, (key, _, _) in enumerate(GROUPS) if key == "ranges")

_GROUP_OF = {lane: place for place, (_, _, lanes) in enumerate(GROUPS) for lane in lanes}
GROUP_ROWS = 96
"""Rows of one group that are shown, at most: the busiest."""


def describe(views: Views, scope: Scope, catalogue: Catalogue) -> dict[str, Any]:
    """Return the timeline's groups, tracks and rows, its bounds, and what bounds its nodes' clocks, ready for JSON.

    Times are texts of whole nanoseconds, since JSON's readers round beyond 2^53; row times count from the scope's start.
    """
    found = catalogue.rows()
    gpus = {each["gpu_uuid"]: each for each in rows(views, "timeline_gpu", {}).to_pylist()}
    processes = sorted({each["process_uid"] for each in found if each["process_uid"]})
    named = {
        each["process_uid"]: each for each in rows(views, "timeline_process", {"processes": processes}).to_pylist()
    }
    nodes = sorted({each["node"] for each in found if each["node"]})
    groups, hidden = _groups(found, gpus, named, scope)
    return {
        "from_ns": str(scope.from_ns),
        "to_ns": str(scope.to_ns),
        "live": scope.live,
        "simulated": any(each["simulated"] for each in found),
        "bars": sum(each["bars"] for each in found),
        "hidden_rows": hidden,
        "nodes": nodes,
        "groups": groups,
        "clocks": _clocks(views, scope, nodes),
    }


def _groups(
    found: list[dict[str, Any]], gpus: dict[str, Any], named: dict[str, Any], scope: Scope
) -> tuple[list[dict[str, Any]], int]:
    by_group: dict[tuple[int, str], dict[str, Any]] = {}
    for row in found:
        place, key, title, hint = _group_of(row, gpus)
        group = by_group.setdefault(
            (place, key), {"id": key, "title": title, "hint": hint, "gpu": key.startswith("gpu:"), "tracks": {}}
        )
        same = (row["lane"], row["node"], row["process_uid"], row["unit"], row["number"], row["rank"])
        track = group["tracks"].setdefault(same, _track(row, named))
        track["rows"].append(_row(row, scope))
    ordered = [
        by_group[key]
        for key in sorted(
            by_group, key=lambda each: (each[0], not by_group[each]["gpu"], _natural(by_group[each]["title"]))
        )
    ]
    hidden = 0
    for group in ordered:
        tracks = list(group["tracks"].values())
        shown = sorted(tracks, key=lambda each: -sum(row["busy_ns"] for row in each["rows"]))[:GROUP_ROWS]
        hidden += len(tracks) - len(shown)
        group["tracks"] = sorted(shown, key=lambda each: each.pop("order"))
    return ordered, hidden


def _group_of(row: dict[str, Any], gpus: dict[str, Any]) -> tuple[int, str, str, str]:
    """Return a row's group: its place, id, title and a hint."""
    if row["lane"] == "kernel" or (row["lane"] == "annotation" and row["unit"]):
        uuid = row["unit"] or "?"
        known = gpus.get(uuid, {})
        number = known.get("index")
        title = _short(f"GPU {uuid}") if number is None else f"GPU {number}"
        if uuid.startswith("MIG-"):
            title += f" · MIG {known.get('profile') or uuid[4:12]}"
        sharing = known.get("sharing")
        shared = f"shared: {sharing.replace('_', ' ')}" if sharing not in (None, "exclusive") else None
        told = (uuid, known.get("model"), known.get("profile"), row["node"], known.get("pod"), shared)
        hint = " · ".join(str(each) for each in told if each)
        rank = "" if row["rank"] is None else f" · rank {row['rank']}"
        return _GPUS, f"gpu:{row['node']}:{uuid}:{rank}", title + rank, hint
    place = _GROUP_OF.get(row["lane"], len(GROUPS) - 1)
    return place, GROUPS[place][0], GROUPS[place][1], ""


def _short(title: str) -> str:
    """Return a GPU's title with a long UUID cut to what tells GPUs apart at a glance."""
    return title if len(title) <= 18 else f"{title[:12]}…"


def _natural(title: str) -> tuple[Any, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in title.replace("·", " ").split()), title


def _track(row: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    process = named.get(row["process_uid"] or "", {})
    return {
        "label": _label(row, _process(row["process_uid"], process)),
        "hint": " · ".join(str(each) for each in (row["process_uid"], process.get("pod"), row["node"]) if each),
        "lane": row["lane"],
        "node": row["node"],
        "rows": [],
        "order": (
            _LANE_ORDER.get(row["lane"], 9), row["node"] or "", row["rank"] or 0,
            row["process_uid"] or "", row["number"] or 0,
        ),
    }  # fmt: skip


_LANE_ORDER = {"kernel": 0, "engine_request": 0, "phase": 1, "member": 2, "step": 3, "off_cpu": 1, "annotation": 1}


def _process(uid: str | None, known: dict[str, Any]) -> str:
    """Return a process as a person says it: its program and pid."""
    program = (known.get("executable") or "").rsplit("/", 1)[-1]
    pid = known.get("pid") or (uid or "").rsplit(":", 1)[-1]
    return f"{program} {pid}".strip()


def _label(row: dict[str, Any], process: str) -> str:
    number, unit, rank = row["number"], row["unit"], row["rank"]
    ranked = "" if rank is None else f"rank {rank} · "
    of_process = "" if process == str(number) else f" · {process}"
    labels: dict[str, str] = {
        "exchange.client": f"{process} → {unit or 'server'}",
        "exchange.server": f"{process} · socket {number}",
        "hop": unit or "proxy",
        "span": unit or "service",
        "connection": f"connection to {unit}",
        "flow": unit or "flow",
        "syscall": f"thread {number}{of_process}",
        "off_cpu": f"thread {number} off CPU",
        "engine_request": "requests",
        "phase": f"phases · {unit}" if unit else "phases",
        "member": "this request's steps",
        "step": "scheduler steps" if rank is None else f"rank {rank} steps",
        "kv_transfer": unit or "transfer",
        "launch": f"{ranked}thread {number}{of_process}",
        "kernel": f"CUDA stream {number}",
    }
    if row["lane"] == "annotation":
        return f"ranges · stream {number}" if unit else f"{ranked}thread {number}"
    return labels.get(row["lane"], str(row["lane"]))


def _row(row: dict[str, Any], scope: Scope) -> dict[str, Any]:
    return {
        "id": f"{row['row_id']:x}",
        "depth": row["depth"],
        "bars": row["bars"],
        "busy_ns": row["busy_ns"],
        "longest_ns": row["longest_ns"],
        "first_ns": row["start_ns"] - scope.from_ns,
        "last_ns": row["end_ns"] - scope.from_ns,
    }


def _clocks(views: Views, scope: Scope, nodes: list[str]) -> list[dict[str, Any]]:
    """Return what bounds each pair of the scope's nodes: one node alone needs none."""
    if len(nodes) < 2:
        return []
    found: list[dict[str, Any]] = rows(views, "timeline_clock", {"at_ns": scope.from_ns, "nodes": nodes}).to_pylist()
    return found
