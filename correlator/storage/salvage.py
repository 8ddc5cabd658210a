"""What to do with damaged files: keep what can be read, set the file aside, and say by name and number what it cost."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import duckdb

from correlator.storage import segments
from correlator.storage.day import Day
from correlator.storage.store import Store
from warpline import schema
from warpline.errors import StoreError

log = logging.getLogger(__name__)

_OWN = ("ledger", "segment", "about")


def heal(store: Store) -> list[str]:
    """Look through all files of the store; return what was damaged, by name, after taking it out of the way.

    The rows that a damaged table or segment held are counted in the store's losses. Reads wait for nothing; writes do.
    """
    with store.lock:
        said = []
        for day in list(store.days.values()):
            said += _heal_segments(store, day)
            if not all(_readable(store, f"{day.alias}.{name}") for name in _OWN):
                said.append(_replace_file(store, day))
                continue
            bad = [name for name in day.tables if not _readable(store, f"{day.alias}.{name}")]
            if bad:
                said += _heal_file(store, day, bad)
        for line in said:
            log.error("store: %s", line)
        return said


def _readable(store: Store, table: str) -> bool:
    cursor = store.cursor()
    try:
        for _ in cursor.sql(f"FROM {table}").to_arrow_reader(65536):
            pass
        return True
    except (duckdb.Error, OSError):
        return False
    finally:
        cursor.close()


def _heal_segments(store: Store, day: Day) -> list[str]:
    said = []
    for name, segment in list(day.segments.items()):
        problem = segments.verify(day.directory / name, segment)
        if problem is not None:
            said.append(day.lose_segment(store.writer, name, problem))
            store.publish(schema.table(segment.table))
    store.take_losses(day)
    return said


def _heal_file(store: Store, day: Day, bad: Sequence[str]) -> list[str]:
    """Make the day's file anew from what of it can be read."""
    said = []
    fresh = day.file.with_name(f"{day.date}.saved")
    fresh.unlink(missing_ok=True)
    lost = {name: _rows_of(store, day, name) for name in bad}
    _copy(store, day, fresh, [name for name in (*_OWN, *day.tables) if name not in bad])
    store.days.pop(day.number)
    for name in bad:
        store.publish(schema.table(name))
    day.detach(store.writer)
    aside = day.file.with_name(f"{day.file.name}.damaged-{os.urandom(3).hex()}")
    day.file.rename(aside)
    Path(f"{day.file}.wal").unlink(missing_ok=True)
    fresh.rename(day.file)
    store.attach(day.number)
    for name in lost:
        store.losses[f"day file damaged: {day.file.name}: {name}"] += lost[name]
        said.append(f"{day.file} is damaged, kept as {aside.name}: {lost[name]} rows of {name} are lost")
    for table in schema.TABLES:
        store.publish(table)
    return said


def _replace_file(store: Store, day: Day) -> str:
    """Begin the day's file anew with its segments: without a ledger, its rows could not be told from what comes again."""
    lost = sum(_count(store, f"{day.alias}.{name}") for name in day.tables)
    store.days.pop(day.number)
    with contextlib.suppress(duckdb.Error):  # It would checkpoint, and cannot.
        day.detach(store.writer)
    store.set_aside(day, "its ledger cannot be read", lost)
    store.reopen()
    if day.number not in store.days:  # It had no segments.
        store.attach(day.number)
    for table in schema.TABLES:
        store.publish(table)
    return f"{day.file}: {lost} rows that were in no segment are lost"


def _count(store: Store, table: str) -> int:
    try:
        return int(store.query(f"SELECT count(*) FROM {table}").column(0)[0].as_py())  # noqa: S608 (names of ours)
    except StoreError:
        return 1  # At least.


def _rows_of(store: Store, day: Day, table: str) -> int:
    """Return how many rows the day's own table had, by the ledger."""
    found = store.query(
        f"SELECT coalesce(sum(row_count), 0)::BIGINT FROM {day.alias}.ledger WHERE table_name = $name",  # noqa: S608
        {"name": table},
    )
    kept = sum(each.rows for each in day.segments.values() if each.table == table)
    return max(int(found.column(0)[0].as_py()) - kept, 1)


def _copy(store: Store, day: Day, fresh: Path, tables: Sequence[str]) -> None:
    """Copy tables, with their definitions, into a new file."""
    cursor = store.cursor()
    try:
        cursor.execute(f"ATTACH '{fresh}' AS saved_day")
        for name in tables:
            for statement in schema.table(name).ddl("saved_day") if name not in _OWN else ():
                cursor.execute(statement)
            make = (
                "INSERT INTO saved_day.{0} FROM {1}.{0}"
                if name not in _OWN
                else "CREATE TABLE saved_day.{0} AS FROM {1}.{0}"
            )
            cursor.execute(make.format(name, day.alias))
        cursor.execute("CHECKPOINT saved_day")
    finally:
        with contextlib.suppress(duckdb.Error):
            cursor.execute("DETACH saved_day")
        cursor.close()
