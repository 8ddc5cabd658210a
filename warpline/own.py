"""A correlator of its own for one recorded incident: nothing is dropped for its age, and the rules run on its time.

The incident goes in by the OTLP door like everything else. What comes of it depends on the incident alone: the correlator
says nothing of itself in it, and the joins and rules are functions of its rows.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warpline import bundle, paced, sample
from warpline.batch import Batch
from warpline.bundle import Report
from warpline.children import Children, answers, free_port
from warpline.client import Client
from warpline.errors import StoreError
from warpline.importer import Door
from warpline.settings import Settings

_PATIENCE_S = 3600.0
_JOIN_WHEN_TOLD_S = 1e6

Progress = Callable[[float], None]


@dataclass
class Own:
    """One incident in its own correlator; the seconds that each part took."""

    directory: Path
    report: Report
    settings: Settings
    client: Client
    children: Children
    seconds: dict[str, float] = field(default_factory=dict)

    def replay(self, speed: float, progress: Progress = lambda share: None) -> None:
        """Send the incident at `speed` times its own pace (0: as fast as it is taken), and wait until it is joined.

        Raises StoreError where that takes an hour.
        """
        began_s = time.monotonic()
        found = self.report.manifest
        if speed:
            self._send_paced(speed, progress)
        else:
            sample.replay(self.settings, self.directory, progress=progress)
        self._wait_until(lambda: self.client.progress()[0], "stored")
        self.seconds["stored"] = time.monotonic() - began_s
        self.client.join_now()
        self._wait_until(lambda: all(self.client.progress()), "joined")
        self.seconds["joined"] = time.monotonic() - began_s
        self.seconds["lasted"] = (found.end_ns - found.start_ns) / 1e9

    def evaluate(self, progress: Progress = lambda share: None) -> int:
        """Evaluate the alert rules on the incident's time; return how often one fired. Raises StoreError."""
        return self.client.evaluate_rules(self.report.manifest.start_ns, self.report.manifest.end_ns, progress)

    def _send_paced(self, speed: float, progress: Progress) -> None:
        found = sample.load(self.directory)
        total, done = sum(found.rows.values()) or 1, 0
        door = Door(self.settings, self.settings.node or "replay")
        door.name_for(f"{found.uid}@{speed:g}")

        def send(batches: list[Batch]) -> None:
            nonlocal done
            for batch in batches:
                door.send(batch)
                done += batch.rows.num_rows
            door.flush()
            progress(done / total)

        paced.sent(self.directory, found, speed, send)

    def _wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                raise StoreError(f"replay: not all is {what} after an hour; look into {self.settings.state_dir}/logs")
            time.sleep(0.05)


@contextmanager
def opened(
    file: Path, settings: Settings, live: bool = False, dashboard: bool = False, progress: Progress = lambda share: None
) -> Iterator[Own]:
    """Give a correlator of its own for a bundle, or a sample trace's directory; nothing stays behind.

    With `live`, what comes is joined as it comes, else when all is stored. Raises SourceError where the file is no bundle,
    WarplineError where a process does not come up.
    """
    state_dir = Path(tempfile.mkdtemp(prefix="warpline-incident-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, state_dir, ignore_errors=True)
        children = Children(state_dir / "logs")
        stack.callback(children.stop)
        if file.is_dir():
            directory, report = file, Report(sample.load(file))
        else:
            directory = state_dir / file.stem
            report = bundle.unpack(file, directory, progress)
        own = _start(children, settings, state_dir, live, dashboard)
        yield Own(directory, report, own, Client(own), children)


def _start(children: Children, settings: Settings, state_dir: Path, live: bool, dashboard: bool) -> Settings:
    http, grpc, query, page = (f"127.0.0.1:{free_port()}" for _ in range(4))
    changed: dict[str, Any] = {
        "state_dir": str(state_dir),
        "collector_endpoint": f"http://{http}",
        "collector_token_file": "",
        "query_url": f"http://{query}",
        "query_token_file": "",
        "dashboard_address": page,
        "dashboard_auth": "",
        "correlator_http_address": http,
        "correlator_grpc_address": grpc,
        "correlator_query_address": query,
        "correlator_token_file": "",
        "correlator_tls_certificate": "",
        "correlator_retention_days": 0,
        "correlator_retention_gb": 0.0,
        "correlator_own_metrics": False,
        "alerts_every_s": 0.0,  # The rules run on the incident's time, once it is stored.
    }
    if not live:
        changed["correlator_join_delay_s"] = _JOIN_WHEN_TOLD_S
    own = dataclasses.replace(settings, **changed)
    # All of them: a variable of this process must not reach into the other one.
    environment = {f"WARPLINE_{name.upper()}": str(value) for name, value in dataclasses.asdict(own).items()}
    children.start("correlator", ["-m", "warpline.cli", "correlate"], environment)
    children.wait_until("correlator", lambda: answers(f"{own.query_url}/healthz"), 60)
    if dashboard:
        children.start("dashboard", ["-m", "warpline.cli", "dashboard"], environment)
        children.wait_until("dashboard", lambda: answers(f"http://{page}/_stcore/health"), 60)
    return own
