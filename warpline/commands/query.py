"""`warpline query`: print a view."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.table import Table

from warpline import recording
from warpline.client import Client
from warpline.errors import SettingsError
from warpline.settings import Settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("view", nargs="?", help="view or table; left out, all views are listed")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE", help="the view's parameters")
    parser.add_argument("--since", help="how long ago to begin: 90s, 10m, 2h, 1d")
    parser.add_argument("--limit", type=int, help="rows, at most")
    parser.add_argument("--order", help="column to order by, with - before it for descending")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write all tables as a sample trace instead")
    parser.add_argument(
        "--format", choices=("table", "csv", "json", "arrow"), help="default: table on a terminal, else csv"
    )


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the view and return 0; raise SettingsError for arguments and StoreError for a view that do not fit."""
    client = Client(settings)
    if args.record is not None:
        return _record(client, args)
    if args.view is None:
        rows = pa.Table.from_pylist([_described(each) for each in client.views()])
    else:
        rows = client.view(args.view, **_parameters(args))
    shape = args.format or ("table" if sys.stdout.isatty() else "csv")
    _PRINTERS[shape](rows)
    return 0


def _record(client: Client, args: argparse.Namespace) -> int:
    now = time.time_ns()
    found = recording.record(client, args.record, now - _duration_ns(args.since or "10m"), now)
    print(f"{args.record}: {sum(found.rows.values()):,} rows of {len(found.rows)} tables")
    return 0


def _parameters(args: argparse.Namespace) -> dict[str, object]:
    given: dict[str, object] = {"limit": args.limit, "order": args.order}
    for each in args.parameters:
        name, equals, value = each.partition("=")
        if not equals:
            raise SettingsError(f"query: parameter is {each!r}; give NAME=VALUE")
        given[name] = value
    if args.since is not None:
        given["since_ns"] = time.time_ns() - _duration_ns(args.since)
    return {name: value for name, value in given.items() if value is not None}


def _duration_ns(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise SettingsError(f"query: --since is {text!r}; give a number and s, m, h or d, such as 10m")
    return int(float(found[1]) * _UNITS[found[2]] * 1e9)


def _described(view: dict[str, Any]) -> dict[str, str]:
    return {"view": view["name"], "parameters": " ".join(view["parameters"]), "a row is": view["doc"]}


def _print_table(rows: pa.Table) -> None:
    shown = Table(*map(str, rows.column_names))
    for line in rows.to_pylist():
        shown.add_row(*("" if value is None else str(value) for value in line.values()))
    Console().print(shown)


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
