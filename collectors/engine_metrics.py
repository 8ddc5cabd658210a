"""The model servers' own metrics, in one vocabulary: vLLM, SGLang, TensorRT-LLM, Triton, TGI, Dynamo, KServe.

Scrapes `engine_urls` every `engine_interval_s`. Needs no privilege; any version. An address that begins with `dns+` stands
for every address that its name resolves to, so that a headless Service's pods are each their own target. Runs wherever that
setting names addresses: in the cluster's collector, or on a node. Costs about 1 ms of CPU per 500 series.

What the numbers cannot tell: vLLM's first queue and prefill bucket ends at 0.3 s, so use sum / count below that. Buckets
are passed on as they are, none invented where a page is truncated. A counter that falls without a restart (several API
servers behind one port) is marked not monotonic from then on.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

import numpy as np

from collectors.wire import engine_vocabulary, prometheus
from collectors.wire.engine_vocabulary import Word
from collectors.wire.prometheus import Page, Target
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

ENGINE_SAMPLE = schema.table("engine_sample")
TABLES = (ENGINE_SAMPLE,)
SCOPE = "any"

_REMEDY = "set engine_urls to the metrics addresses of model servers, such as 127.0.0.1:8000"
_RESOLVED = "dns+"
_PARTS = ("_bucket", "_sum", "_count")


def check(settings: Settings) -> str | None:
    """Return why no model server can be scraped, or None; names that are yet to be resolved count as present."""
    if _RESOLVED in settings.engine_urls:
        return None
    return prometheus.absent(settings.engine_urls, "engine_urls", _REMEDY)


def run(context: Context) -> Iterator[Batch]:
    """Yield the `engine_sample` rows of each scrape of each server."""
    servers: dict[str, tuple[Target, Server]] = {}
    while True:
        wanted = _resolve(context.settings.engine_urls)
        servers = {
            url: servers.get(url) or (Target(url, context), Server(_name(url), _node(url, context.node)))
            for url in wanted
        }
        for target, server in servers.values():
            scraped = target.scrape()
            if scraped is not None:
                batch, lost = server.samples(*scraped)
                for reason, count in lost.items():
                    context.lost(reason, count, scraped[0], scraped[0])
                yield batch
        if context.wait(context.settings.engine_interval_s):
            return


def _resolve(setting: str) -> list[str]:
    """Return the addresses to scrape now, each once."""
    found: dict[str, None] = {}
    for entry in setting.split(","):
        resolve = entry.strip().startswith(_RESOLVED)
        for url in prometheus.addresses(entry.strip().removeprefix(_RESOLVED)):
            found.update(dict.fromkeys(_each_address(url) if resolve else [url]))
    return list(found)


def _each_address(url: str) -> list[str]:
    parts = urlsplit(url)
    try:
        told = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:
        return []  # A Service without a ready pod has no address: that is no fault.
    addresses = sorted({str(each[4][0]) for each in told})
    hosts = [f"[{address}]" if ":" in address else address for address in addresses]
    return [parts._replace(netloc=f"{host}:{parts.port or 80}").geturl() for host in hosts]


def _name(url: str) -> str:
    """Return host and port, with the path where it is unusual; never the credentials that an address may carry."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    name = f"{host}:{parts.port}" if parts.port else str(host)
    return name if parts.path in ("", "/metrics") else name + parts.path


def _node(url: str, own: str) -> str | None:
    """Return the node of an address, where it is known: every node has a loopback of its own, so that is this one's."""
    host = urlsplit(url).hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return own if local else None


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an engine, in the vocabulary's words."""

    engine: str
    model: str | None
    engine_index: int | None
    word: Word
    statistic: str
    upper_bound: float | None
    capacity_tokens: float | None = None
    """What an information series of labels alone says: the KV cache's size."""


@lru_cache(maxsize=1 << 16)
def series(text: str, composed: bool) -> Series | None:
    """Return what a series says, or None for what is no engine's. `composed`: the page types it histogram or summary."""
    found = prometheus.labels(text)
    split = found and engine_vocabulary.split_prefix(found[0])
    if not found or not split:
        return None
    labels, (engine, name) = found[1], split
    base, statistic = _statistic(name, labels, composed)
    word = engine_vocabulary.word(engine, base, labels)
    statistic = word.statistic if statistic == "value" else statistic
    bound = float(labels["le"]) * word.factor if statistic == "bucket" else None
    model = labels.get("model_name") or labels.get("model") or labels.get("served_model_name")
    index = labels.get("engine") or labels.get("dp_rank") or ""
    capacity = _capacity(labels) if name == "cache_config_info" else None
    if capacity is not None:
        word = Word("kv.capacity.tokens")
    return Series(engine, model, int(index) if index.isdigit() else None, word, statistic, bound, capacity)


def _statistic(name: str, labels: Mapping[str, str], composed: bool) -> tuple[str, str]:
    base = next((name.removesuffix(part) for part in _PARTS if name.endswith(part)), name)
    if "le" in labels and base != name:
        try:
            float(labels["le"])
            return base, "bucket"
        except ValueError:
            return name, "value"
    if "quantile" in labels:
        return name, f"p{float(labels['quantile']) * 100:g}"
    # A truncated page may have lost the line that types it; but Triton's `_count` metrics are counters of their own.
    if base != name and (composed or (engine_vocabulary.is_known(base) and not engine_vocabulary.is_known(name))):
        return base, name[len(base) + 1 :]
    return name, "value"


def _capacity(labels: Mapping[str, str]) -> float | None:
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return float(blocks) * float(size) if blocks.isdigit() and size.isdigit() else None


@dataclass
class Server:
    """Turns scrapes of one server into batches; remembers its counters, to see which fall without a restart."""

    target: str
    node: str | None = None
    _last: dict[str, float] = field(default_factory=dict)
    _falls: set[str] = field(default_factory=set)
    _started: float = 0.0

    def samples(self, time_ns: int, page: Page) -> tuple[Batch, dict[str, int]]:
        """Return the page's readings, and what of the engine's series gave none, by reason.

        Series of the Python process, of the web server, and `_created` times are no readings of an engine: passed over.
        """
        self._note_start(page)
        lost: Counter[str] = Counter()
        rows = []
        for text, value in zip(page.series, page.values, strict=True):
            name = text.partition("{")[0]
            if name.endswith("_created"):
                continue
            base = name.rsplit("_", 1)[0]
            each = series(text, page.types.get(base) in ("histogram", "summary"))
            if each is None:
                continue
            if each.capacity_tokens is not None:
                value = each.capacity_tokens  # the series' own value is a constant 1
            if not math.isfinite(value):
                lost["not a number"] += 1
            elif value == each.word.sentinel:
                lost["switched off"] += 1
            else:
                rows.append((each, value, self._monotonic(each, text, value, page.types.get(name), lost)))
        self._forget(page)
        return Batch(ENGINE_SAMPLE, ENGINE_SAMPLE.batch(self._columns(time_ns, rows), len(rows))), dict(lost)

    def _columns(self, time_ns: int, rows: list[tuple[Series, float, bool]]) -> dict[str, object]:
        told = [each for each, _, _ in rows]
        factors = [1.0 if each.statistic in ("bucket", "count") else each.word.factor for each in told]
        return {
            "time_ns": time_ns,
            "node": self.node,
            "target": self.target,
            "engine": [each.engine for each in told],
            "model": [each.model for each in told],
            "engine_index": [each.engine_index for each in told],
            "metric": [each.word.metric for each in told],
            "part": [each.word.part for each in told],
            "statistic": [each.statistic for each in told],
            "upper_bound": [each.upper_bound for each in told],
            "value": np.array([value for _, value, _ in rows], np.float64) * np.array(factors, np.float64),
            "monotonic": [monotonic for _, _, monotonic in rows],
            "simulated": [prometheus.simulated(each.model) for each in told],
        }

    def _note_start(self, page: Page) -> None:
        """Forget what is remembered where the page tells of a start later than all before."""
        starts = [
            value
            for text, value in zip(page.series, page.values, strict=True)
            if text == "process_start_time_seconds" or text.partition("{")[0].endswith("_created")
        ]
        if starts and max(starts) > self._started:
            self._started = max(starts)
            self._last.clear()
            self._falls.clear()

    def _forget(self, page: Page) -> None:
        """Forget series that are gone: one whose labels change with each scrape must not fill the memory."""
        if len(self._last) > len(page.series):
            self._last = {text: self._last[text] for text in page.series if text in self._last}
            self._falls.intersection_update(self._last)

    def _monotonic(self, each: Series, text: str, value: float, kind: str | None, lost: Counter[str]) -> bool:
        total = text.partition("{")[0].endswith("_total") and kind != "gauge"
        if not (kind == "counter" or total or each.statistic in ("bucket", "sum", "count")):
            return False
        if value < self._last.get(text, value) and text not in self._falls:
            self._falls.add(text)
            lost["counter went back"] += 1
            if len(self._falls) == 1:
                log.warning("source engine_metrics: %s counts backwards; more than one process answers", self.target)
        self._last[text] = value
        return text not in self._falls
