"""The views: one file each in `sql/`, its name the view's name.

The first comment says what a row is. `-- parameters: a, b` names what a view binds as `$a` and `$b`; a view that has
none becomes a DuckDB view, which others may read. `$since_ns`, `$until_ns` and those of `FILTER` may be among the
parameters: they are bound to the ends of time, and to what lets everything through, where nobody gives them. A view about
one thing may say `-- when: other_view`, which then tells the window in which that thing is, where nobody gives one; what it
says with `-- within:` and `-- parts:` is in `pieces.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from importlib.resources import files
from typing import Any

from warpline.errors import SchemaError, StoreError

WINDOW: dict[str, int] = {"since_ns": -(1 << 62), "until_ns": 1 << 62}
"""Parameters that need not be given, and what they are then."""

FILTER = {"method": "*", "model": "*", "pool": "*", "namespace": "*"}
"""Likewise: what lets everything through."""

_SAID = re.compile(r"-- (parameters|within|parts|when):")

_ONE = frozenset(("request", "request_uid", "id", "subject"))
"""Parameters that name one thing."""

SHAPE = ("limit", "order")
"""Parameters that every view takes: how many rows, and by which column (`-column` for descending)."""


@dataclass(frozen=True, slots=True)
class View:
    """One SQL file."""

    name: str
    doc: str
    parameters: tuple[str, ...]
    sql: str
    when: str = ""
    """The view that tells the window of what this one is about."""

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters that must be given."""
        return tuple(each for each in self.parameters if each not in WINDOW and each not in FILTER)

    @property
    def of_one(self) -> bool:
        """Whether its rows are of one request or thing, and therefore few."""
        return not _ONE.isdisjoint(self.parameters)

    def one(self, given: Mapping[str, Any]) -> Any:
        """Return what its rows are about, of the parameters given; None where that is missing."""
        return next((given.get(each) for each in self.parameters if each in _ONE), None)


def load() -> dict[str, View]:
    """Return all views by name, each after those that it reads; raise SchemaError where a file is not of the form."""
    folder = files("correlator") / "sql"
    found = {v.name: v for v in (_parse(p.name, p.read_text("utf-8")) for p in folder.iterdir() if _is_view(p.name))}
    uses = {view.name: words(view.sql) & found.keys() - {view.name} for view in found.values()}
    try:
        order = list(TopologicalSorter(uses).static_order())
    except CycleError as error:
        raise SchemaError(f"sql: views read each other in a circle: {error.args[1]}") from None
    for view in found.values():
        for used in sorted(uses[view.name]):
            if found[used].parameters:
                raise SchemaError(
                    f"sql/{view.name}.sql: reads {used}, which has parameters; only a plain view is readable"
                )
    return {name: found[name] for name in order}


def macros() -> str:
    """Return the statements that make what views share (`sql/_macros.sql`)."""
    return (files("correlator") / "sql" / "_macros.sql").read_text("utf-8")


def _is_view(file: str) -> bool:
    return file.endswith(".sql") and not file.startswith("_")


def _parse(file: str, text: str) -> View:
    name = file.removesuffix(".sql")
    lines = text.splitlines()
    doc = []
    for line in lines:
        if not line.startswith("--") or _SAID.match(line):
            break
        doc.append(line.removeprefix("--").strip())
    if not doc:
        raise SchemaError(f"sql/{file}: no comment on its first line; say there what a row is")
    named = re.search(r"^-- parameters: *(.+)$", text, re.MULTILINE)
    parameters = tuple(word.strip() for word in named[1].split(",")) if named else ()
    used = set(re.findall(r"\$([a-z_][a-z0-9_]*)", code(text)))
    if used != set(parameters):
        raise SchemaError(
            f"sql/{file}: names parameters {sorted(parameters)} and binds {sorted(used)}; make them agree"
        )
    when = re.search(r"^-- when: *([a-z_]+)$", text, re.MULTILINE)
    return View(name, " ".join(doc), parameters, text.rstrip().rstrip(";"), when[1] if when else "")


def code(sql: str) -> str:
    """Return SQL without its comments."""
    return re.sub(r"--[^\n]*", "", sql)


@lru_cache(maxsize=1024)
def words(sql: str) -> frozenset[str]:
    """Return every word of SQL, comments left out: the names of what it reads are among them."""
    return frozenset(re.findall(r"[a-z_][a-z0-9_]*", code(sql)))


def bind(view: View, given: Mapping[str, Any], columns: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Return the query of `view` and what it binds, for the parameters given.

    `since_ns` and `until_ns` bound the rows by `start_ns`/`end_ns` or `time_ns` where the view does not bind them itself:
    what overlaps [since, until) stays. Raises StoreError, with a sentence, for a parameter that is missing, unknown or odd.
    """
    allowed = {*view.parameters, *WINDOW, *SHAPE}
    unknown = sorted(given.keys() - allowed)
    missing = [each for each in view.required if given.get(each) in (None, "")]
    if unknown or missing:
        wrong = {"unknown": unknown, "missing": missing}
        said = "; ".join(f"{what} parameters: {', '.join(names)}" for what, names in wrong.items() if names)
        raise StoreError(f"view {view.name}: {said}; it takes {', '.join(sorted(allowed))}")
    window = {name: _whole(view.name, name, given.get(name, default)) for name, default in WINDOW.items()}
    bound = {each: window[each] if each in WINDOW else given.get(each, FILTER.get(each)) for each in view.parameters}
    sql = f"SELECT * FROM (\n{view.sql}\n)"  # noqa: S608 (a file of ours)
    present = set(columns)
    conditions = []
    for name, condition in _conditions(present):
        if name in given and name not in view.parameters:
            conditions.append(condition)
            bound[name] = window[name]
    if conditions:
        sql += " WHERE " + " AND ".join(conditions)
    return sql + _order(view.name, given.get("order"), present) + _limit(view.name, given.get("limit")), bound


def _conditions(columns: set[str]) -> list[tuple[str, str]]:
    start = "start_ns" if "start_ns" in columns else "time_ns" if "time_ns" in columns else ""
    if not start:
        return []
    end = f"coalesce(end_ns, {start})" if "end_ns" in columns else start
    return [("since_ns", f"{end} >= $since_ns"), ("until_ns", f"{start} < $until_ns")]


def _order(view: str, order: Any, columns: set[str]) -> str:
    if order in (None, ""):
        return ""
    column = str(order).removeprefix("-")
    if column not in columns:
        raise StoreError(f"view {view}: order is {order!r}; give one of its columns, with - before it for descending")
    return f' ORDER BY "{column}"' + (" DESC NULLS LAST" if str(order).startswith("-") else "")


def _limit(view: str, limit: Any) -> str:
    return "" if limit in (None, "") else f" LIMIT {max(_whole(view, 'limit', limit), 0)}"


def _whole(view: str, name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise StoreError(f"view {view}: {name} is {value!r}; give a whole number") from None
