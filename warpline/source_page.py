"""The page of all sources, docs/sources.md, made of their modules: `python -m warpline.source_page >docs/sources.md`.

A source's docstring is where these things stand: its first sentence says what it sees, the clause that begins with "needs"
and the one that begins with "costs" say so, and the settings that it names are those that point it at its peer.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from dataclasses import fields

from warpline import source
from warpline.settings import Settings

_HEAD = """# Sources

Made from the modules in `collectors/`, one a source: `python -m warpline.source_page >docs/sources.md`. What can run on this
node, and what to do about the others, `warpline check` says.

A live source runs wherever it can, of those in `collector_sources` where that is set, in a collector of its scope: `node` is
one on every node, `cluster` one for all (`collector_scope`), `any` wherever its settings name a peer. A source of scope
`recording` reads files, for `warpline import`. Its settings say where it looks. Costs are of the machine that the benchmarks
ran on last; `make bench` prints yours.

| source | scope | sees | needs | tables | settings | costs |
|---|---|---|---|---|---|---|
"""
_SETTINGS = {each.name for each in fields(Settings)}


def page() -> str:
    """Return the page as Markdown; raise ValueError for a source whose docstring leaves out what it needs or costs."""
    return _HEAD + "".join(f"| {' | '.join(_cells(name))} |\n" for name in source.names())


def _cells(name: str) -> list[str]:
    found = source.load(name)
    text = " ".join((inspect.getdoc(importlib.import_module(f"collectors.{name}")) or "").split())
    named = [each for each in dict.fromkeys(re.findall(r"`([a-z0-9_]+)`", text)) if each in _SETTINGS]
    how = ", ".join(f"`{each}`" for each in named) or ("`warpline import`" if found.SCOPE == "recording" else "none")
    tables = ", ".join(f"`{each.name}`" for each in found.TABLES)
    sees = re.split(r"\.(?:\s|$)", text, maxsplit=1)[0]
    return [f"`{name}`", found.SCOPE, sees, _clause(name, text, "needs"), tables, how, _clause(name, text, "costs")]


def _clause(name: str, text: str, verb: str) -> str:
    """Return what follows `verb` where a sentence or a clause begins with it, up to its end."""
    told = re.search(rf"(?:^|[.;] ){verb} (.+?)(?=[.;](?: |$))", text, re.IGNORECASE)
    if told is None:
        raise ValueError(f"collectors/{name}.py: its docstring has no clause that begins with {verb!r}; add one")
    return re.sub(r"^\(.*?\): ", "", told[1]).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
