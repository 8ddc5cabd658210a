"""Writes what is generated anew, for a person to read in the diff: golden rows of the sample traces, and SCHEMA.md.

Each sample trace goes through OTLP into a store of its own; the rows of the views that its manifest names become
`expected/<view>.csv`. `make golden` runs this; a test compares. Views without parameters are kept in full, one that has some
is asked with those in the manifest. Of incidents, `expected/firings.csv` says when each alert rule fires, and docs/rules.md
holds the table of rules and incidents.
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from correlator.alerting import backtest
from correlator.joins.stages import Joins
from correlator.storage.store import Store
from tests import rule_table
from warpline import otlp, sample, schema
from warpline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_traces"
SCHEMA_PAGE = ROOT / "correlator" / "SCHEMA.md"


def cases() -> list[Path]:
    """Return the directories of all sample traces."""
    return sorted(path.parent for path in SAMPLES.glob("*/manifest.json"))


def stored(case: Path, state_dir: Path) -> Store:
    """Return a store that holds a sample trace, sent through OTLP's encoding and back as the door does it, and joined."""
    found = sample.load(case)
    store = Store(Settings(state_dir=str(state_dir), correlator_memory_limit_mb=512))
    for number, batch in enumerate(sample.batches(case, found)):
        named = type(batch)(batch.table, batch.rows, f"{found.uid}/{number}")
        store.write(otlp.decode("logs", otlp.encode([named], {})).batches)
    Joins(store.settings, store).rebuild()
    return store


def rows(case: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each expected view of a sample trace and its rows as CSV, in an order of their own."""
    with tempfile.TemporaryDirectory() as state_dir:
        store = stored(case, Path(state_dir))
        for view, parameters in sample.load(case).expected.items():
            yield view, as_csv(store.view(view, parameters).read_all())
        store.close()


def as_csv(table: pa.Table) -> str:
    """Return rows as CSV, sorted by all columns, lists as texts."""
    flat = [pa.array([str(v) for v in c.to_pylist()]) if pa.types.is_nested(c.type) else c for c in table.columns]
    plain = pa.Table.from_arrays([pc.cast(c, pa.string()) for c in flat], table.column_names)
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(plain.sort_by([(name, "ascending") for name in plain.column_names]), sink)
    return str(sink.getvalue().to_pybytes(), "utf-8")


def firings(case: Path) -> tuple[str, str]:
    """Return as CSV when the rules fire on an incident, in seconds after its start, and what each rule saw in it."""
    fired, seen, rules = io.StringIO(), backtest.Seen(), rule_table.rules(case)
    lines = csv.writer(fired, lineterminator="\n")
    lines.writerow(("rule", "labels", "after_s", "for_s", "summary"))
    with backtest.opened(case, Settings(correlator_memory_limit_mb=512), rule_table.baseline(case)) as (store, found):
        window = found.start_ns, found.end_ns
        said = rule_table.incident(case).thresholds
        for each in backtest.run(rules, store, window, said, told=seen.note)[0]:
            length = None if each.end_ns is None else (each.end_ns - each.start_ns) // 1_000_000_000
            after = (each.start_ns - found.start_ns) // 1_000_000_000
            lines.writerow((each.rule, each.labels, after, length, each.summary))
    return fired.getvalue(), rule_table.as_csv(seen)


def main(names: list[str]) -> None:
    """Write everything anew, or of the sample traces only those named."""
    SCHEMA_PAGE.write_text(schema.markdown(), encoding="utf-8")
    for case in cases():
        if names and case.name not in names:
            continue
        (case / "expected").mkdir(exist_ok=True)
        if (case / rule_table.INCIDENT).exists():
            text, seen = firings(case)
            (case / "expected" / "firings.csv").write_text(text, encoding="utf-8")
            (case / "expected" / "seen.csv").write_text(seen, encoding="utf-8")
            print(f"{case.name}: {text.count(chr(10)) - 1} firings")
        for view, text in rows(case):
            (case / "expected" / f"{view}.csv").write_text(text, encoding="utf-8")
            print(f"{case.name}: {view}: {text.count(chr(10)) - 1} rows")
    rule_table.PAGE.write_text(rule_table.page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
