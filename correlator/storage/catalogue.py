"""The views of a store: which there are, which columns each has, and the query that answers what is asked of one.

A view that DuckDB does not take is a bug, which costs that view and those on it, and nothing else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from correlator.storage import in_order, views
from correlator.storage.views import View
from warpline import schema
from warpline.errors import SchemaError, StoreError
from warpline.schema import Table

log = logging.getLogger(__name__)

_TABLES = {table.name: table for table in schema.TABLES}
_OWN = re.compile(r"/(?:client|server)/.*/\d+/([0-8]?\d{1,18})$")
"""The form of `request_uid`: node/side/process/connection/ordinal/start."""


class Readable(Protocol):
    """What is asked of a store."""

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of its own."""

    def read(self, sql: str, bound: Mapping[str, Any] | None = None, few: bool = False) -> pa.RecordBatchReader:
        """Return the rows of a query as they come."""


class Catalogue:
    """The views of `sql/` over the tables of one store, which is given with each question. Safe between threads."""

    def __init__(self, memory_mb: int) -> None:
        """Load the views; `memory_mb` is what DuckDB may use. Raises SchemaError where a file is not of the form."""
        self._memory_mb = memory_mb
        self._views = views.load()
        self.plain = {view.name: view.sql for view in self._views.values() if not view.parameters}
        """The SQL of the views that others may read, by name."""
        self._columns: dict[str, dict[str, str]] = {}
        self.broken: dict[str, str] = {}
        """Views that DuckDB does not take, each with what it says."""

    def create(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the views that others may read, and the macros that they share."""
        connection.execute(views.macros())
        for name, sql in self.plain.items():
            try:
                connection.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
            except duckdb.Error as error:
                self._break(name, error)

    def described(self, store: Readable) -> list[dict[str, Any]]:
        """Return what views there are: name, doc, parameters, and columns with their DuckDB types."""
        return [
            {"name": view.name, "doc": view.doc, "parameters": list(view.parameters), "columns": columns}
            for view in self._views.values()
            if (columns := self._columns_of(store, view))
        ]

    def answer(self, store: Readable, name: str, parameters: Mapping[str, Any]) -> pa.RecordBatchReader:
        """Return the rows of a view, or of a table, as `Store.view` says."""
        view = self._views.get(name)
        if view is None:
            return self._table(store, name, dict(parameters))
        columns, given = self._known(store, view), dict(parameters)
        if view.when and view.one(given) and not given.keys() & views.WINDOW.keys():
            given |= self._window(store, view, given)
        return store.read(*views.bind(view, given, columns), few=view.of_one)

    def _table(self, store: Readable, name: str, given: dict[str, Any]) -> pa.RecordBatchReader:
        """Return the rows of a table; those asked for in the order of time are sorted as they are read."""
        table = _TABLES.get(name)
        if table is None:
            raise SchemaError(f"view {name!r}: there is none; views are {', '.join(sorted(self._views))}")
        view = _view_of(table)
        columns = self._known(store, view)
        if given.get("order") != table.time or given.get("limit") not in (None, ""):
            return store.read(*views.bind(view, given, columns))
        sql, bound = views.bind(view, given | {"order": ""}, columns)
        return in_order.rows(store.read, table, sql, bound, in_order.at_once(table, self._memory_mb))

    def _window(self, store: Readable, view: View, given: Mapping[str, Any]) -> dict[str, int]:
        """Return the window of what a view is about: an empty one where nothing is known of it."""
        one = view.one(given)
        found = self.answer(store, view.when, {"id": one, **_told_by(str(one))}).read_all().to_pylist()
        return found[0] if found else {"since_ns": 0, "until_ns": 0}

    def _known(self, store: Readable, view: View) -> dict[str, str]:
        """Return a view's columns; raise StoreError where DuckDB does not take it."""
        columns = self._columns_of(store, view)
        if not columns:
            raise StoreError(self.broken[view.name])
        return columns

    def _columns_of(self, store: Readable, view: View) -> dict[str, str]:
        """Return a view's columns with their DuckDB types, none where it is broken; they are asked for once."""
        if view.name not in self._columns and view.name not in self.broken:
            cursor = store.cursor()
            try:
                bound = {each: views.WINDOW.get(each) for each in view.parameters}
                lines = cursor.execute(f"DESCRIBE {view.sql}", bound).fetchall()
                self._columns[view.name] = {line[0]: line[1] for line in lines}
            except duckdb.Error as error:
                self._break(view.name, error)
            finally:
                cursor.close()
        return self._columns.get(view.name, {})

    def _break(self, name: str, error: duckdb.Error) -> None:
        self.broken[name] = f"sql/{name}.sql: {str(error).strip()}"
        log.error("%s", self.broken[name])


def _told_by(name: str) -> dict[str, int]:
    """Return the window that an exchange's own id tells, which ends with when that began; nothing of other ids."""
    began = _OWN.search(name)
    return {"since_ns": int(began[1]), "until_ns": int(began[1]) + 1} if began else {}


def _view_of(table: Table) -> View:
    """Return the view that reads a table as it is."""
    lasts = "end_ns" in table.by_name  # What began long before a window may reach into it.
    sql = f"FROM {table.name}" if lasts else f"-- within: {table.name} 0 s\nFROM {table.name}"
    return View(table.name, table.doc, (), sql)
