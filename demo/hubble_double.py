"""A double of Cilium's Hubble on one node: it tells of each packet that the kernel dropped, as an agent does.

Real: gRPC and its messages, as the collector's source asks for them; the drops, which nftables makes and counts; their time,
to a tenth of a second. Simulated: that a network policy of Cilium's was the reason, and the names of the pods.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import json_format

from collectors.wire.hubble_pb2 import GetFlowsResponse
from warpline.errors import WarplineError

_METHOD = "/observer.Observer/GetFlows"
_LOOK_S = 0.1
_REASON = 133
"""Cilium's number for a packet that a policy denied."""


def dropped(table: str) -> int:
    """Return how many packets the rules of an nftables table have dropped; 0 where there is no such table."""
    command = ["nft", "--json", "list", "table", "inet", table]
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode:
        return 0
    rules = [each["rule"]["expr"] for each in json.loads(found.stdout)["nftables"] if "rule" in each]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


class HubbleDouble(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The flows of one nftables table's drops, to all who ask."""

    def __init__(self, table: str, node: str, destination: str) -> None:
        """Tell of drops in `table` on their way to the pod `destination`."""
        self._table, self._node, self._destination = table, node, destination
        self._told, self._stop = 0, threading.Event()
        self._askers: list[queue.Queue[bytes | None]] = []

    def service(self, details: Any) -> Any:
        """Return what answers a method, None for those that are not Hubble's GetFlows."""
        return grpc.unary_stream_rpc_method_handler(self._flows) if details.method == _METHOD else None

    def _flows(self, request: bytes, context: Any) -> Iterator[bytes]:
        mine: queue.Queue[bytes | None] = queue.Queue()
        self._askers.append(mine)
        while (message := mine.get()) is not None:
            yield message

    def look(self) -> None:
        """Tell of the drops since the last look, until stopped."""
        while not self._stop.wait(_LOOK_S):
            count = dropped(self._table)
            for _ in range(max(count - self._told, 0)):
                message = self._flow()
                for asker in self._askers:
                    asker.put(message)
            self._told = max(count, self._told)

    def _flow(self) -> bytes:
        pod = {"namespace": "llm", "pod_name": self._destination}
        told = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{time.time_ns() % 10**9:09d}Z",
            "uuid": str(uuid.uuid4()),
            "verdict": "DROPPED",
            "drop_reason": _REASON,
            "drop_reason_desc": "POLICY_DENIED",
            "IP": {"source": "127.0.0.1", "destination": "127.0.0.1"},
            "destination": pod,
            "node_name": self._node,
            "Type": "L3_L4",
            "traffic_direction": "INGRESS",
        }
        message = json_format.ParseDict({"flow": told, "node_name": self._node}, GetFlowsResponse())
        return bytes(message.SerializeToString())

    @property
    def askers(self) -> int:
        """How many streams are open."""
        return len(self._askers)

    def stop(self) -> None:
        """End all streams."""
        self._stop.set()
        for asker in self._askers:
            asker.put(None)


class Agent:
    """One double that serves, until it dies."""

    def __init__(self, double: HubbleDouble) -> None:
        """Serve on a free port. Raises WarplineError where there is none."""
        self._double = double
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=(double,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        if not port:
            raise WarplineError("hubble double: no port is free")
        self.address = f"127.0.0.1:{port}"
        self._thread = threading.Thread(target=double.look, daemon=True)
        self._server.start()
        self._thread.start()

    @property
    def askers(self) -> int:
        """How many streams are open."""
        return self._double.askers

    def die(self) -> None:
        """End it; a second time does nothing."""
        self._double.stop()
        self._server.stop(None).wait()
        self._thread.join()


@contextmanager
def served(table: str, node: str, destination: str) -> Iterator[Agent]:
    """Serve a double; a scene may have it die before."""
    agent = Agent(HubbleDouble(table, node, destination))
    try:
        yield agent
    finally:
        agent.die()
