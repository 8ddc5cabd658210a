"""What the eBPF sources do alike, whatever they see: load, follow their processes, count their losses, poll, let go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from collectors.bpf import loader
from collectors.bpf.cost import KernelCost
from collectors.bpf.ring import COUNTER, Tally
from collectors.bpf.targets import Rules, Targets
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

POLL_S = 0.1
OFF = 0
_LOOK_S = 2.0


class Programs:
    """The programs of one source, loaded, and the processes that they watch; a source's `Probe` derives from it."""

    attaches: Mapping[str, str] = {}
    """Functions of the source and the raw tracepoints that they stand at while its detail is not 0."""
    keeps: Sequence[str] = ()
    """Maps of what is under way, which is no longer known once nothing was attached for a while."""

    def __init__(
        self,
        context: Context,
        texts: Sequence[str],
        defines: Mapping[str, int],
        losses: Sequence[str],
        rules: Rules,
        twins: loader.Twins | None = None,
    ) -> None:
        """Load `texts` and watch what `rules` name; counter i of the programs counts what `losses[i]` says.

        Raises SourceError. `begin` attaches what the source itself sees.
        """
        self.context = context
        self.loaded = loader.load(loader.read(*texts), defines, twins, context.settings.state_dir)
        self.tally = Tally(self.loaded.map("counters", "<u4", COUNTER), losses, now_ns(), self.loaded.misses)
        self.cost = KernelCost(self.loaded)
        context.kernel_cost_ns = self.cost.total_ns
        self.targets = Targets(self.loaded, rules)
        self._looked_s = time.monotonic()
        self._attached = False

    def begin(self) -> None:
        """Attach, or let go, as the detail in force asks: 0 attaches nothing, and says so in `loss`."""
        wanted = self.context.detail() > OFF
        if wanted == self._attached:
            return
        self._attached = wanted
        if wanted:
            for each in self.keeps:
                self.loaded.clear(each)
            self.loaded.attach_raw(self.attaches)
            return
        for link in self.attaches.items():
            self.loaded.detach(link)
        self.context.lost("not looked at: detail 0", 1, lower_bound=True)

    def follow(self) -> None:
        """Keep up with the detail, the processes that are watched and the programs' cost; called with each poll."""
        self.begin()
        self.targets.refresh()
        if time.monotonic() > self._looked_s + _LOOK_S:
            self._looked_s = time.monotonic()
            self.targets.look_again()
        self.cost.sample()

    def count_losses(self) -> set[str]:
        """Hand on what the programs lost since the last call, and return why; called behind the reading of their rings."""
        clock = self.context.clock
        losses = self.tally.losses(now_ns())
        for loss in losses:
            start, end = (clock.from_monotonic(each) for each in (loss.start_ns, loss.end_ns))
            self.context.lost(loss.reason, loss.count, start, end)
        return {loss.reason for loss in losses}

    def close(self) -> None:
        """Detach and free everything."""
        self.cost.close()
        self.loaded.close()


def polled(probe: Programs, look: Callable[[], Iterable[Batch]]) -> Iterator[Batch]:
    """Yield what `look` finds each 100 ms until the context says stop, and once more then; closes the probe."""
    try:
        while True:
            stopping = probe.context.wait(POLL_S)
            yield from look()
            if stopping:
                return
    finally:
        probe.close()


def server_rules(settings: Settings) -> Rules:
    """Return the rules that name model servers and engines alike: for sources that watch all of their threads."""
    executables = f"{settings.http_executables},{settings.engine_wire_executables}"
    return Rules.from_texts(settings.http_ports, executables, settings.http_cgroups)


def why_no_servers(settings: Settings) -> str | None:
    """Return why such a source cannot run here: nothing is chosen to be watched, or BPF does not work; None where it can."""
    if not server_rules(settings):
        return "nothing is watched: set http_ports, http_executables, http_cgroups or engine_wire_executables"
    return loader.why_not()


def now_ns() -> int:
    """Return CLOCK_MONOTONIC, the programs' clock."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
