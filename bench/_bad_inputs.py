"""Bad inputs at both doors of a correlator in a process of its own: valid requests of every field, broken at random.

What answers other than OTLP's words for a bad request is unexplained; a correlator that ended, or that does not store the
next good request, fails the run.
"""

from __future__ import annotations

import gzip
import http.client
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import psutil

from correlator.doors.grpc_door import SERVICES
from tests.correlator.doors import trace_request
from tests.correlator.test_receive_fuzz import JSON_SEEDS, JSON_TOKENS, PROTOBUF_SEEDS, TOKENS
from tests.faults.rig import Rig
from tests.waiting import until
from warpline import otlp

INPUTS = int(os.environ.get("BENCH_BAD_INPUTS", "5000"))
"""For each door, signal and encoding."""

EXPLAINED = {"200", "400", "413", "OK", "INVALID_ARGUMENT"}
Figure = Callable[..., None]
Send = Callable[[bytes], str]


def run(figure: Figure) -> None:
    """Print how many inputs there were, and what became of them."""
    with tempfile.TemporaryDirectory() as directory:
        rig = Rig(Path(directory) / "state").start()
        assert rig.process is not None
        process, chance = psutil.Process(rig.process.pid), random.Random(1)
        before, peak, answers = process.memory_info().rss, 0, Counter[str]()
        for seeds, tokens, send in _ways(rig, chance):
            for _ in range(INPUTS):
                answers[send(broken(chance, seeds, tokens))] += 1
            peak = max(peak, process.memory_info().rss)
        stored = _stores_the_next(rig)
        code = rig.terminate()
    unexplained = sum(count for answer, count in answers.items() if answer not in EXPLAINED)
    keys = {"exit_code": code, "next_good_stored": stored, "grown_mb": f"{(peak - before) / 1e6:.0f}"}
    figure(
        "faults.bad_inputs",
        answers.total(),
        "{input}",
        unexplained=unexplained,
        **keys,
        **dict(sorted(answers.items())),
    )


def _ways(rig: Rig, chance: random.Random) -> list[tuple[Sequence[bytes], Sequence[bytes], Send]]:
    ways: list[tuple[Sequence[bytes], Sequence[bytes], Send]] = []
    for service, signal in SERVICES.items():
        ways.append((PROTOBUF_SEEDS[signal], TOKENS, _by_grpc(rig, service)))
        ways.append((PROTOBUF_SEEDS[signal], TOKENS, _by_http(rig, signal, otlp.PROTOBUF, chance)))
        ways.append((JSON_SEEDS[signal], JSON_TOKENS, _by_http(rig, signal, otlp.JSON, chance)))
    return ways


def _by_http(rig: Rig, signal: str, content_type: str, chance: random.Random) -> Send:
    connection = http.client.HTTPConnection(rig.url.removeprefix("http://"), timeout=60)

    def send(body: bytes) -> str:
        coding = chance.choice(["", "", "gzip", "wrong", "unknown"])
        headers = {"Content-Type": content_type} | ({"Content-Encoding": coding} if coding else {})
        if coding == "wrong":
            headers["Content-Encoding"] = "gzip"
        connection.request("POST", f"/v1/{signal}", gzip.compress(body, 1) if coding == "gzip" else body, headers)
        response = connection.getresponse()
        response.read()
        return str(response.status)

    return send


def _by_grpc(rig: Rig, service: str) -> Send:
    export = grpc.insecure_channel(rig.grpc_address).unary_unary(f"/{service}/Export")

    def send(body: bytes) -> str:
        try:
            export(body, timeout=60)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    return send


def broken(chance: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return a valid request in which bytes were changed, cut out, doubled, put in or cut off; sometimes mere noise."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(200))
    body = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, length = chance.randrange(len(body) + 1), chance.randint(1, 40)
        how = chance.randrange(5)
        if how == 0:
            body[at : at + 1] = chance.randbytes(1)
        elif how == 1:
            del body[at : at + length]
        elif how == 2:
            body[at:at] = body[at : at + length]
        elif how == 3:
            body[at:at] = chance.choice(tokens)
        else:
            del body[at:]
    return bytes(body)


def _stores_the_next(rig: Rig) -> int:
    """Send a good request; return the spans of it that are stored."""
    wanted = trace_request(1, name="after all that", seed=77)
    connection = http.client.HTTPConnection(rig.url.removeprefix("http://"), timeout=60)
    connection.request("POST", "/v1/traces", wanted.SerializeToString(), {"Content-Type": otlp.PROTOBUF})
    assert connection.getresponse().status == 200

    def found() -> int:
        return rig.client.table("span")["name"].to_pylist().count("after all that")

    until(found, 240)
    return found()
