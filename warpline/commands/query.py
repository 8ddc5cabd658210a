"""`warpline query`: print a view."""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from warpline import recording
from warpline.client import Client
from warpline.errors import SettingsError
from warpline.settings import Settings

_BORDER = 3
"""Characters that a column of a table takes beside its text."""

_WRAPS_FROM = 40
"""Characters from which on a column's text may be wrapped to make a table fit."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("view", nargs="?", help="view or table; left out, all views are listed")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="the view's parameters")
    parser.add_argument("--since", help="how long ago to begin: 90s, 10m, 2h, 1d")
    parser.add_argument("--limit", type=int, help="rows, at most")
    parser.add_argument("--order", help="column to order by, with - before it for descending")
    parser.add_argument("--columns", metavar="NAME,…", help="columns to print, in this order; left out, all")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write all tables as a sample trace instead")
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json", "arrow"),
        help="default: table on a terminal, with a line for each value where it is too wide; else csv",
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the view and return 0; raise SettingsError for arguments and StoreError for a view that do not fit."""
    client = Client(settings)
    if args.record is not None:
        return _record(client, args)
    views = sorted(client.views(), key=lambda view: str(view["name"]))
    if args.view is None:
        rows = pa.Table.from_pylist([_described(each) for each in views])
    else:
        rows = client.view(args.view, **_parameters(args, views))
    shape = args.format or ("table" if sys.stdout.isatty() else "csv")
    _PRINTERS[shape](_chosen(rows, args.columns))
    return 0


def _record(client: Client, args: argparse.Namespace) -> int:
    now = time.time_ns()
    found = recording.record(client, args.record, now - _duration_ns(args.since or "10m"), now)
    print(f"{args.record}: {sum(found.rows.values()):,} rows of {len(found.rows)} tables")
    return 0


def _parameters(args: argparse.Namespace, views: Iterable[dict[str, Any]]) -> dict[str, object]:
    """Return what the view is asked with; a view that is as of a moment is asked as of now."""
    given: dict[str, object] = {"limit": args.limit, "order": args.order}
    for each in args.parameters:
        name, equals, value = each.partition("=")
        if not equals:
            raise SettingsError(f"query: parameter is {each!r}; give NAME=VALUE")
        given[name] = value
    if args.since is not None:
        given["since_ns"] = time.time_ns() - _duration_ns(args.since)
    if any(view["name"] == args.view and "now_ns" in view["parameters"] for view in views):
        given.setdefault("now_ns", time.time_ns())
    return {name: value for name, value in given.items() if value is not None}


def _chosen(rows: pa.Table, columns: str | None) -> pa.Table:
    """Return the columns that are asked for; raise SettingsError for one that is not there."""
    if columns is None:
        return rows
    names = [name.strip() for name in columns.split(",")]
    for name in names:
        if name not in rows.column_names:
            close = difflib.get_close_matches(name, rows.column_names, 1)
            said = f"did you mean {close[0]!r}?" if close else f"columns are {', '.join(rows.column_names)}"
            raise SettingsError(f"query: --columns names {name!r}, which is not there; {said}")
    return rows.select(names)


def _duration_ns(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise SettingsError(f"query: --since is {text!r}; give a number and s, m, h or d, such as 10m")
    return int(float(found[1]) * _UNITS[found[2]] * 1e9)


def _described(view: dict[str, Any]) -> dict[str, str]:
    return {"view": view["name"], "parameters": " ".join(view["parameters"]), "a row is": view["doc"]}


def _print_table(rows: pa.Table) -> None:
    """Print a table; where its columns do not fit beside each other, each row as a list of its values that are there."""
    console = Console()
    lines = [{name: str(value) for name, value in line.items() if value is not None} for line in rows.to_pylist()]
    if console.width < sum(_BORDER + min(_WRAPS_FROM, _width(lines, name)) for name in rows.column_names):
        _print_records(lines, rows.column_names)
        return
    shown = Table(*map(str, rows.column_names))
    for line in lines:
        shown.add_row(*(escape(line.get(name, "")) for name in rows.column_names))
    console.print(shown)


def _width(lines: list[dict[str, str]], name: str) -> int:
    return max([len(name), *(len(line.get(name, "")) for line in lines)])


def _print_records(lines: list[dict[str, str]], names: list[str]) -> None:
    widest = max(map(len, names))
    for i, line in enumerate(lines, 1):
        print(f"── row {i} of {len(lines)} ".ljust(60, "─"))
        for name, value in line.items():
            print(f"{name:<{widest}}  {value}")
    if not lines:
        print(f"no rows; columns: {', '.join(names)}")


def _print_csv(rows: pa.Table) -> None:
    flat = [_as_text(c) if pa.types.is_nested(c.type) else c for c in rows.columns]
    pa.csv.write_csv(pa.Table.from_arrays(flat, rows.column_names), sys.stdout.buffer)


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def _print_json(rows: pa.Table) -> None:
    for line in rows.to_pylist():
        print(json.dumps(line, default=str))


def _print_arrow(rows: pa.Table) -> None:
    with pa.ipc.new_stream(sys.stdout.buffer, rows.schema) as writer:
        writer.write_table(rows)


_PRINTERS = {"table": _print_table, "csv": _print_csv, "json": _print_json, "arrow": _print_arrow}
