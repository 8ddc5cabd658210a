"""Cost budgets and detail levels, for every source.

Each source has a detail level: 0 off, 1 least, 2 ordinary, 3 all. The level wanted is the setting, or what the query API
asks for while an incident is looked at; without an answer the setting holds. The level in force is the one wanted, or a
lower one: a source that costs more than its budget over one interval steps down at once, and comes back one level after it
has stayed under half of the budget for a while. Cost is the CPU time of the source's thread, plus what its BPF programs
ran for where it can tell (`Context.kernel_cost_ns`), as a share of one core. Stepping down is a row of `loss`. What a source
yields for the flight recorder beyond its level is the first that it leaves out.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import urllib3

from warpline.errors import SettingsError
from warpline.sender import bearer, tls
from warpline.settings import Settings
from warpline.source import Runner

log = logging.getLogger(__name__)

OFF, LEAST, ORDINARY, ALL = range(4)
_EVERY_S = 5.0
_LONGEST_CALM = 720
"""An hour: a source that cannot afford to record tries it less and less often, each time half as often as before."""
_CALM_INTERVALS = 6
"""Intervals under half of the budget before a level is given back: half a minute, so that it does not flap."""


@dataclass(frozen=True)
class Wanted:
    """What somebody asks collectors for: a level by source ("*" means all), and windows of node time to keep."""

    detail: Mapping[str, int] = field(default_factory=dict)
    windows: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_json(cls, text: bytes) -> Wanted:
        """Read an answer of `/api/detail`; raise ValueError where it is not one."""
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        detail = {str(k): min(max(int(v), OFF), ALL) for k, v in dict(found.get("detail") or {}).items()}
        windows = tuple((int(start), int(end)) for start, end in found.get("windows") or ())
        return cls(detail, windows)


@dataclass
class _Cost:
    """What a source cost when last looked at, and how its budget fares."""

    at_s: float
    cpu_ns: int
    ratio: float = 0.0
    ceiling: int = ALL
    calm: int = 0
    recording_after: int = _CALM_INTERVALS
    """Intervals under half of the budget before it may record again."""
    records: bool = False
    """Whether the source has asked if it should record."""


class Governor:
    """Keeps every runner's cost under its budget, and asks which detail is wanted."""

    def __init__(self, settings: Settings, node: str, ask: Callable[[], bytes] | None = None) -> None:
        """Ask the query API by HTTP, or by `ask` where given."""
        self._settings, self._node = settings, node
        self._ask = ask or self._ask_by_http
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(total=2), retries=False, **tls(settings))
        self._costs: dict[str, _Cost] = {}
        self._runners: list[Runner] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="governor", daemon=True)
        self.wanted = Wanted()

    def govern(self, runner: Runner) -> None:
        """Take `runner` under control: its context's detail becomes the level in force, its windows those asked for."""
        name = runner.context.name
        self._runners.append(runner)
        self._costs[name] = _Cost(time.monotonic(), 0)
        runner.context.detail = lambda: self.level(name)
        runner.context.windows = lambda: self.wanted.windows
        runner.context.recording = lambda: self._recording(name)

    def start(self) -> None:
        """Start to look at costs and to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; levels stay as they are."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def level(self, name: str) -> int:
        """Return the detail level in force for source `name`."""
        asked = self.wanted.detail.get(name, self.wanted.detail.get("*", self._settings.collector_detail))
        return min(asked, self._costs[name].ceiling)

    def _recording(self, name: str) -> bool:
        """Say whether source `name` should yield fine batches: where there is a recorder, and its budget allows it."""
        cost = self._costs[name]
        cost.records = self._settings.collector_recorder_mb > 0
        return cost.records and LEAST < self.level(name) < ALL == cost.ceiling

    def cost_ratio(self, name: str) -> float:
        """Return the share of one core that source `name` cost over the last interval."""
        return self._costs[name].ratio

    def look(self) -> None:
        """Measure every source once, and step levels where a budget asks for it."""
        for runner in self._runners:
            self._measure(runner, self._costs[runner.context.name])

    def _loop(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.look()
            self._refresh()

    def _measure(self, runner: Runner, cost: _Cost) -> None:
        now, cpu = time.monotonic(), runner.cpu_ns()
        elapsed_ns = (now - cost.at_s) * 1e9
        # A restarted thread starts to count at zero again: that interval says nothing.
        cost.ratio = max(cpu - cost.cpu_ns, 0) / elapsed_ns if elapsed_ns > 0 else 0.0
        cost.at_s, cost.cpu_ns = now, cpu
        runner.context.cost_ratio = cost.ratio
        budget = self._settings.collector_budget_ratio
        if cost.ratio > budget:
            self._step_down(runner, cost)
        elif cost.ratio < budget / 2 and cost.ceiling < ALL:
            cost.calm += 1
            if cost.calm >= (cost.recording_after if cost.records and cost.ceiling == ORDINARY else _CALM_INTERVALS):
                cost.ceiling, cost.calm = cost.ceiling + 1, 0
                log.info("source %s: back to detail %d", runner.context.name, self.level(runner.context.name))

    def _step_down(self, runner: Runner, cost: _Cost) -> None:
        name = runner.context.name
        cost.calm = 0
        if self.level(name) <= LEAST:
            return  # There is nothing less than the least but off, which only a person chooses.
        if cost.records and cost.ceiling == ALL:
            cost.ceiling, cost.recording_after = ORDINARY, min(2 * cost.recording_after, _LONGEST_CALM)
        else:
            cost.ceiling = self.level(name) - 1
        log.warning(
            "source %s: cost %.1f %% of a core, over its budget: down to detail %d",
            name,
            cost.ratio * 100,
            cost.ceiling,
        )
        runner.context.lost("detail lowered to keep the budget", 1, lower_bound=True)

    def _refresh(self) -> None:
        try:
            self.wanted = Wanted.from_json(self._ask())
        except (urllib3.exceptions.HTTPError, ValueError, TypeError, OSError, SettingsError):
            self.wanted = Wanted()  # No answer: what the settings say holds.

    def _ask_by_http(self) -> bytes:
        token = bearer(self._settings.collector_token_file)
        answer = self._pool.request("GET", self._url(), fields={"node": self._node}, headers=token)
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        return bytes(answer.data)

    def _url(self) -> str:
        given = self._settings.collector_query_url
        if given:
            return f"{given.rstrip('/')}/api/detail"
        door = urllib3.util.parse_url(self._settings.collector_endpoint)
        port = self._settings.correlator_query_address.rpartition(":")[2]
        return f"{door.scheme}://{door.host}:{port}/api/detail"
