"""Requests as several engines served them, each in engine steps of its own, for tests of what differs between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from correlator.joins.stages import Joins
from correlator.storage.store import Store
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings

MS, S, BASE = 1_000_000, 1_000_000_000, 1_700_000_000_000_000_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where an engine is: node, pod ("" outside of Kubernetes), index of its GPU, the model that it says ("" for none)."""

    node: str = "n0"
    pod: str = "pod-0"
    gpu: int = 0
    model: str = "llama"
    role: str | None = None

    @property
    def engine(self) -> str:
        return f"{self.node}:1:{hash_of(self)}"

    @property
    def address(self) -> str:
        return "10.1.{}.{}".format(*divmod(hash_of(self), 256))

    @property
    def gpu_uuid(self) -> str:
        return f"GPU-{self.node}-{self.gpu}"


def hash_of(place: Place) -> int:
    """Return a process id of an engine, the same in every run."""
    return 100 + sum(ord(c) for c in f"{place.pod}/{place.gpu}/{place.model}/{place.role}")


@dataclass(frozen=True)
class Served:
    """One request: where, when it came, how long it took in all; a tenth of it is prefill where it does not say, the rest is
    of its tokens."""

    place: Place
    at_ms: float
    length_ms: float
    first_ms: float | None = None
    prompt: int = 100
    output: int = 11
    batch: int = 1
    """How many requests its decode steps had."""
    watts: float = 500
    client: str = ""
    """Another node, where its client is watched."""
    prefilled_by: Place | None = None


def stored(directory: Path, requests: Iterable[Served]) -> Store:
    """Return a store that holds the requests, joined; request n has response id cmpl-n, in its engine cmpl-n-0a0a0a0a."""
    tables: dict[str, list[Row]] = {}
    for number, request in enumerate(requests):
        for name, rows in _rows(number, request).items():
            tables.setdefault(name, []).extend(rows)
    store = Store(Settings(state_dir=str(directory), correlator_disk_reserve_mb=0))
    for name, rows in tables.items():
        unique = list({tuple(sorted(row.items(), key=lambda each: each[0])): row for row in rows}.values())
        columns = {c: [row.get(c) for row in unique] for c in sorted({c for row in unique for c in row})}
        store.write([Batch(schema.table(name), schema.table(name).batch(columns), name)])
    Joins(store.settings, store).rebuild()
    return store


def _rows(number: int, request: Served) -> dict[str, list[Row]]:
    place, begin = request.place, BASE + int(request.at_ms * MS)
    end = begin + int(request.length_ms * MS)
    first = begin + int((request.length_ms / 10 if request.first_ms is None else request.first_ms) * MS)
    name = f"cmpl-{number}-0a0a0a0a"
    engine = {"node": place.node, "process_uid": place.engine, "engine_index": 0, "internal_id": name}
    http = {
        "node": place.node,
        "side": "server",
        "process_uid": f"{place.node}:1:9",
        "connection_id": number,
        "ordinal": 0,
    }
    http |= {"method": "POST", "path": "/v1/completions", "status": 200, "response_id": f"cmpl-{number}"}
    http |= {"start_ns": begin, "request_end_ns": begin, "first_body_ns": first, "last_chunk_ns": end, "end_ns": end}
    http |= {"local_address": place.address, "local_port": 8000}
    family = {"start_ns": BASE - S, "node": place.node}
    pod = {"pod": place.pod, "namespace": "ml"} if place.pod else {}
    told = {
        "start_ns": begin,
        "end_ns": end,
        "external_id": f"cmpl-{number}",
        "model": place.model or None,
        "role": place.role,
    }
    found: dict[str, list[Row]] = {
        "http_exchange": [http],
        "process": [family | pod | {"process_uid": place.engine}],
        "gpu": [
            {"time_ns": BASE - S, "node": place.node, "gpu_uuid": place.gpu_uuid, "index": place.gpu, "model": "H100"}
        ],
        "engine_request": [engine | told | {"prompt_tokens": request.prompt, "output_tokens": request.output}],
        "engine_event": [
            {**engine, "kind": kind, "time_ns": at}
            for kind, at in (("queued", begin), ("scheduled", begin), ("first_token", first), ("finished", end))
        ],
        "gpu_sample": [
            {
                "time_ns": at,
                "node": place.node,
                "gpu_uuid": place.gpu_uuid,
                "metric": "hw.power",
                "value": request.watts,
            }
            for at in (begin, end)
        ],
    }
    for step in range(min(request.output, 6)):
        at = begin + (end - begin) * step // min(request.output, 6)
        for table, rows in _step(number * 100 + step, at, engine, request, step).items():
            found.setdefault(table, []).extend(rows)
    if request.client:
        _client(found, http, request)
    if request.prefilled_by:
        _prefilled(found, engine, http, request.prefilled_by)
    return found


def _step(ordinal: int, at: int, engine: Row, request: Served, step: int) -> dict[str, list[Row]]:
    """Return one step of 1 ms on the request's GPU; in its decode steps others have a token each."""
    known = {k: engine[k] for k in ("node", "process_uid")}
    member = {
        **known,
        "engine_index": 0,
        "time_ns": at,
        "step_ordinal": ordinal,
        "level": "plugin",
        "evidence": "exact",
    }
    own = member | {"internal_id": engine["internal_id"], "sampled": True}
    own |= {"scheduled_tokens": 1 if step else request.prompt, "phase": "decode" if step else "prefill"}
    others = [
        member | {"internal_id": f"other-{ordinal}-{n}", "scheduled_tokens": 1, "phase": "decode", "sampled": True}
        for n in range(request.batch - 1 if step else 0)
    ]
    run = known | {"session": 0, "correlation_id": ordinal, "step_ordinal": ordinal}
    gpu = {"gpu_uuid": request.place.gpu_uuid, "kind": "kernel", "kernel_class": "gemm"}
    return {
        "step_member": [own, *others],
        "launch": [run | {"start_ns": at, "end_ns": at + 500, "api": "cudaLaunchKernel"}],
        "gpu_kernel": [run | gpu | {"start_ns": at + 1000, "end_ns": at + 1000 + MS}],
    }


def _client(found: dict[str, list[Row]], http: Row, request: Served) -> None:
    """Add the client's end, 4 ms before and 6 ms after on a clock that is 1 s behind, and what bounds the two clocks."""
    ends = {"local_address": "10.0.0.1", "local_port": 40_000 + http["connection_id"]}
    ends |= {"peer_address": "10.0.0.2", "peer_port": 8000}
    turned = {
        key: ends[key.replace(*way)] for key in ends for way in (("local", "peer"), ("peer", "local")) if way[0] in key
    }
    http |= turned
    times = {"start_ns": http["start_ns"] - 4 * MS - S, "end_ns": http["end_ns"] + 6 * MS - S}
    mine = {
        "node": request.client,
        "side": "client",
        "process_uid": f"{request.client}:1:5",
        "request_end_ns": times["start_ns"],
    }
    late = {"first_body_ns": times["end_ns"], "last_chunk_ns": times["end_ns"]}
    found["http_exchange"].append(http | ends | times | mine | late)


def _prefilled(found: dict[str, list[Row]], engine: Row, http: Row, by: Place) -> None:
    """Add the prefill of the request, in another engine that its decode names: an attempt with an exchange of its own."""
    name = engine["internal_id"].replace("cmpl", "pre")
    (decode,) = found["engine_request"]
    decode["remote_request_id"] = name
    prefill = {**decode, "node": by.node, "process_uid": by.engine, "internal_id": name, "role": "prefill"}
    found["engine_request"].append(prefill | {"remote_request_id": None, "external_id": name[:-9], "output_tokens": 1})
    called = {
        "node": by.node,
        "process_uid": f"{by.node}:1:9",
        "response_id": name[:-9],
        "end_ns": http["first_body_ns"],
    }
    found["http_exchange"].append({**http, **called, "last_chunk_ns": http["first_body_ns"]})
    pod = {"pod": by.pod, "namespace": "ml"}
    found["process"].append({"start_ns": BASE - S, "node": by.node, "process_uid": by.engine} | pod)
