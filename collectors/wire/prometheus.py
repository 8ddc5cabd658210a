"""Prometheus text pages: one line at a time, so that one bad or truncated line costs itself alone.

A series' text (`name{labels}`) hardly changes between scrapes, so it is parsed once by prometheus-client and remembered;
only its number is read again; labels that many series share (all fields of one GPU) are parsed once for all.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from warpline.errors import SourceError
from warpline.source import Context

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_PAGE_BYTES = 32 << 20
_MOST_SERIES = 1 << 16
"""Series of one page that are read: a hundred times what a node of eight GPUs or an engine has."""
_SIMULATED = "(simulated)"
"""What the demo's CUDA double and its engine have in their names."""
_ACCEPT = "text/plain;version=0.0.4"
_BACK_OFF_S = (0.0, 5.0, 15.0, 60.0)
_HTTP = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2.0, read=10.0))


@dataclass(slots=True)
class Page:
    """One scrape: series as written and their numbers, in the page's order.

    Not among them are `malformed` lines, and those `beyond` the bound.
    """

    series: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    """Metric's name → gauge, counter, histogram, summary or untyped, where the page says so."""
    malformed: int = 0
    beyond: int = 0


def parse(text: str) -> Page:
    """Return the page that `text` is; timestamps and exemplars are passed over. Raises nothing, whatever it is given."""
    page = Page()
    for line in text.splitlines():
        if line.startswith("#"):
            words = line.split(None, 3)
            if len(words) == 4 and words[1] == "TYPE":
                page.types[words[2]] = words[3]
        elif line and not line.isspace():
            if len(page.series) < _MOST_SERIES:
                _sample(page, line)
            else:
                page.beyond += 1
    return page


def _sample(page: Page, line: str) -> None:
    end = line.find(" # {")  # An OpenMetrics exemplar, whose braces are not the labels'.
    brace = line.rfind("}", 0, end if end >= 0 else None) + 1
    series, rest = (line[:brace], line[brace:]) if brace else line.partition(" ")[::2]
    try:
        page.values.append(float(rest.split(None, 1)[0]))
        page.series.append(series)
    except (ValueError, IndexError):
        page.malformed += 1


@lru_cache(maxsize=1 << 16)
def labels(series: str) -> tuple[str, Mapping[str, str]] | None:
    """Return name and labels of a series as written, or None where it is malformed."""
    name, brace, rest = series.partition("{")
    if not _NAME.fullmatch(name):
        return None
    found = _labels(brace + rest) if brace else {}
    return None if found is None else (name, found)


@lru_cache(maxsize=1 << 14)
def _labels(braces: str) -> Mapping[str, str] | None:
    """Return the labels between braces; all fields of one GPU share them, so they are parsed once for all."""
    try:
        return next(iter(text_string_to_metric_families(f"x{braces} 0\n"))).samples[0].labels
    except (ValueError, IndexError, KeyError, StopIteration):
        return None


def fetch(url: str) -> str:
    """Return the text at `url`; raise SourceError where nobody answers, the answer is no page, or it is above 32 MiB."""
    try:
        with _HTTP.request("GET", url, headers={"Accept": _ACCEPT}, preload_content=False) as answer:
            body = answer.read(_PAGE_BYTES + 1)
            answer.release_conn()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise SourceError(f"{url}: {_brief(error)}; start the exporter there or correct the address") from None
    if answer.status != 200:
        raise SourceError(f"{url}: answered {answer.status}; give the address of its metrics")
    if len(body) > _PAGE_BYTES:
        raise SourceError(f"{url}: page is above {_PAGE_BYTES >> 20} MiB; give the address of an exporter")
    return str(body.decode("utf-8", "replace"))


def _brief(error: Exception) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError | ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return f"no page ({type(error).__name__})"


class Target:
    """One address that is scraped again and again; a failure is said once, backs off and costs no other target."""

    def __init__(self, url: str, context: Context) -> None:
        """Scrape `url` on behalf of `context`."""
        self.url = url
        self._context = context
        self._failures = 0
        self._not_before = 0.0

    def scrape(self) -> tuple[int, Page] | None:
        """Return node time and page of one scrape; None, counted as a loss, where there was none."""
        if time.monotonic() < self._not_before:
            return None
        before = self._context.clock.now_ns()
        try:
            page = parse(fetch(self.url))
        except SourceError as error:
            self._failed(str(error))
            return None
        if self._failures:
            log.info("source %s: %s answers again", self._context.name, self.url)
        self._failures = 0
        self._context.lost("malformed line", page.malformed)
        self._context.lost("page too long", page.beyond)
        # The values are of some instant in between; the middle is at most half the scrape off.
        return (before + self._context.clock.now_ns()) // 2, page

    def _failed(self, reason: str) -> None:
        if not self._failures:
            log.warning("source %s: %s", self._context.name, reason)
        self._context.lost("scrape failed", 1, lower_bound=True)
        self._failures = min(self._failures + 1, len(_BACK_OFF_S))
        self._not_before = time.monotonic() + _BACK_OFF_S[self._failures - 1]


def simulated(model: str | None) -> bool | None:
    """Return True for a model that says of itself that no real device stands behind it; else None, which means measured."""
    return True if model is not None and _SIMULATED in model else None


def addresses(setting: str) -> list[str]:
    """Return the addresses of a comma-separated setting; one without a path gets /metrics."""
    found = [each.strip().rstrip("/") for each in setting.split(",") if each.strip()]
    found = [each if "://" in each else f"http://{each}" for each in found]
    return [each if "/" in each.split("://", 1)[1] else f"{each}/metrics" for each in found]


def absent(setting: str, name: str, remedy: str) -> str | None:
    """Return why none of the addresses in the setting called `name` can be scraped; None where one can."""
    if not addresses(setting):
        return f"{name} names no address; {remedy}"
    problems = []
    for url in addresses(setting):
        try:
            fetch(url)
            return None
        except SourceError as error:
            problems.append(str(error).partition(";")[0])
    return f"{', '.join(problems)}; {remedy}"
