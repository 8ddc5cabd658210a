"""What the tests of live sources share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collectors.bpf import loader
from collectors.http_exchange import Probe
from tests.collectors.http_watch import Watch
from warpline.batch import Batch
from warpline.clock import NodeClock
from warpline.settings import Settings
from warpline.source import Context


class Caught:
    """A source's context that keeps what is emitted beside its batches."""

    def __init__(self, state: Path, **settings: object) -> None:
        self.emitted: list[Batch] = []
        # Of one folder for all modules: what one of them compiled is compiled for the others.
        chosen = Settings(**{"state_dir": str(state.parent), **settings})  # type: ignore[arg-type]
        self.context = Context("test", "node-1", chosen, NodeClock(state), self.emitted.append)

    def losses(self) -> dict[str, int]:
        """Counts of lost records by reason."""
        found: dict[str, int] = {}
        for batch in self.emitted:
            for row in batch.rows.to_pylist():
                found[row["reason"]] = found.get(row["reason"], 0) + row["lost"]
        return found


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caught]:
    """A context for the sources of one test module."""
    yield Caught(tmp_path_factory.mktemp("state"))


@contextmanager
def http_probe(caught: Caught, way: str) -> Iterator[Probe]:
    """A probe of HTTP exchanges that sees data by "sockets", or at the end of "system calls", as where Linux is older."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "system calls":
            patch.setattr(loader, "offers", lambda tracepoint: False)
        found = Probe(caught.context)
    assert ("raw_sys_exit" in found.attaches) == (way == "system calls")
    yield found
    found.close()


WAYS = ("sockets", "system calls")


@pytest.fixture(scope="module")
def http_watch(bpf: None, caught: Caught) -> Iterator[Watch]:
    """A probe of HTTP exchanges for the tests of one module."""
    probe = Probe(caught.context)
    yield Watch(probe)
    probe.close()
