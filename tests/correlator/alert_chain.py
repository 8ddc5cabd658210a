"""A real Prometheus, a real Alertmanager and a webhook on this machine: what tests and the bench hang their alerts on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.waiting import until
from warpline.children import free_port

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "warpline-rules.yaml"


class Webhook:
    """A real HTTP server that keeps what it is told and when (monotonic seconds), and answers with `status`."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.at_s: list[float] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if outer.status == 200:
                    outer.at_s.append(time.monotonic())
                    outer.told.append(body)
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def missing() -> str | None:
    """Return which of the programs is not there, or None."""
    names = ("prometheus", "prometheus-alertmanager")
    return next((f"no {name} here: Debian's package {name} has it" for name in names if not shutil.which(name)), None)


@contextmanager
def alertmanager(directory: Path, webhook: str) -> Iterator[str]:
    """Run an Alertmanager that tells `webhook` at once; give its address."""
    config = directory / "alertmanager.yml"
    route = {"receiver": "hook", "group_by": ["alertname"], "group_wait": "0s", "group_interval": "1s"}
    receiver = {"name": "hook", "webhook_configs": [{"url": webhook, "send_resolved": True}]}
    config.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={config}", f"--storage.path={directory / 'am'}", "--cluster.listen-address="]
    with _running("prometheus-alertmanager", *flags, address=address):
        yield f"http://{address}"


@contextmanager
def prometheus(directory: Path, manager: str, target: str, rules: str) -> Iterator[str]:
    """Run a Prometheus that scrapes `target` and evaluates `rules` each second, and tells `manager`; give its address."""
    (directory / "rules.yml").write_text(rules)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(directory / "rules.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [manager.removeprefix("http://")]}]}]},
        "scrape_configs": [{"job_name": "engine", "static_configs": [{"targets": [target]}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'tsdb'}"]
    with _running("prometheus", *flags, address=address):
        yield f"http://{address}"


def shipped(alert: str, **times: str) -> str:
    """Return a rules file with one shipped alert alone; `s15="3s"` makes 3 s of its windows of 15 s, `for_` sets its for."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rule = next(rule for group in groups for rule in group["rules"] if rule.get("alert") == alert)
    windows = {f"{key.removeprefix('s')}s": value for key, value in times.items() if key != "for_"}
    pattern = r"\b(" + "|".join(windows) + r")\b" if windows else "(?!)"
    rule["expr"] = re.sub(pattern, lambda found: windows[found[1]], rule["expr"])
    rule["for"] = times.get("for_", rule.get("for", "0s"))
    return str(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))


def asked(url: str) -> float:
    """Return the value that Prometheus answers a query with, 0 where it has none."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = json.load(answer)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


@contextmanager
def _running(program: str, *flags: str, address: str) -> Iterator[None]:
    child = subprocess.Popen(
        [program, *flags, f"--web.listen-address={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _answers(f"http://{address}/-/ready"), 60)
        yield
    finally:
        child.terminate()
        child.wait(10)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
