"""One view over a few rows in memory: what it says, without a store's files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa

from correlator.storage import views
from warpline import schema
from warpline.batch import Batch


def read(view: str, batches: Iterable[Batch], order: str) -> list[dict[str, Any]]:
    """The rows of a view without parameters, over the rows given; tables that it reads and nobody gives are empty."""
    sql = views.load()[view].sql
    with duckdb.connect() as connection:
        for table in schema.TABLES:
            if re.search(rf"\b{table.name}\b", sql):
                connection.execute(table.ddl()[0])
        for batch in batches:
            given = pa.Table.from_batches([batch.rows])
            connection.register("given", given)
            connection.execute(f"INSERT INTO {batch.table.name} BY NAME SELECT * FROM given")
            connection.unregister("given")
        found: list[dict[str, Any]] = (
            connection.sql(f"SELECT * FROM ({sql}) ORDER BY {order}").to_arrow_table().to_pylist()
        )
        return found
