"""What GPUs cost: the setting `correlator_gpu_price` as a table that views read.

`2.5` is the price of every GPU hour; `H100=2.5, 2g.20gb=0.7, 1` is that of models and MIG profiles by a part of their name,
the first that fits, and of all others. The currency is whichever the prices are in.
"""

from __future__ import annotations

import math

import duckdb

from warpline.errors import SettingsError


def parse(text: str) -> list[tuple[str, float]]:
    """Return (part of a model's or profile's name, price of an hour), in order; an empty part fits all.

    Raises SettingsError for what is no price.
    """
    found = []
    for each in filter(None, (word.strip() for word in text.split(","))):
        part, equals, price = each.rpartition("=")
        if equals and not part.strip():
            raise _wrong(each)
        try:
            amount = float(price)
        except ValueError:
            raise _wrong(each) from None
        if not math.isfinite(amount) or amount < 0:
            raise _wrong(each)
        found.append((part.strip(), amount))
    return found


def _wrong(given: str) -> SettingsError:
    return SettingsError(
        f"correlator_gpu_price: {given!r} is no price; give one for each GPU hour, or model=price, comma-separated"
    )


def install(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Create the table `price` (place, part, per_hour) from the setting's text."""
    connection.execute("CREATE OR REPLACE TABLE price (place INTEGER, part VARCHAR, per_hour DOUBLE)")
    rows = [(place, *each) for place, each in enumerate(parse(text))]
    if rows:
        connection.executemany("INSERT INTO price VALUES (?, ?, ?)", rows)
