"""A double of a Kubernetes cluster: the API server's lists and watches, and a kubelet that starts pods.

Real: HTTP, lists, watches and resource versions, as the collector's own client asks for them; the containers, which are the
processes that a scene starts; all times. Simulated: the image, whose pull lasts as long as its size takes at the registry's
rate, and the node. Every pod's image says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.server
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from demo.loopback import served

PODS, EVENTS, NODES = "/api/v1/pods", "/api/v1/events", "/api/v1/nodes"
NAMESPACE, CONTAINER = "llm", "engine"
IMAGE = "warpline/vllm-double:simulated"
Object = dict[str, Any]


def _now() -> str:
    """The time as Kubernetes writes it: in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ApiServerDouble:
    """Objects by path and UID, and the log of their changes; a resource version is a place in the log."""

    def __init__(self) -> None:
        """Begin with the three kinds that there are, all empty."""
        self._objects: dict[str, dict[str, Object]] = {PODS: {}, EVENTS: {}, NODES: {}}
        self._log: list[tuple[str, str, Object]] = []
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, path: str, told: Object) -> None:
        """Store an object as it is now, and tell those who watch."""
        with self._changed:
            known, uid = self._objects[path], told["metadata"]["uid"]
            kept = copy.deepcopy(told)
            kept["metadata"]["resourceVersion"] = str(len(self._log) + 1)
            self._log.append((path, "MODIFIED" if uid in known else "ADDED", kept))
            known[uid] = kept
            self._changed.notify_all()

    def stop(self) -> None:
        """End all watches."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def answer(self, path: str) -> Object | Iterator[Object] | None:
        """Return the answer to a GET: an object, or for a watch one after the other; None where there is nothing."""
        told = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(told.query).items()}
        if told.path == "/version":
            return {"gitVersion": "v1.33.0-double"}
        if told.path not in self._objects:
            return None
        if query.get("watch"):
            return self._watched(told.path, int(query.get("resourceVersion") or 0))
        with self._changed:
            metadata = {"resourceVersion": str(len(self._log))}
            return {"kind": "List", "metadata": metadata, "items": [*self._objects[told.path].values()]}

    def _watched(self, path: str, place: int) -> Iterator[Object]:
        while True:
            with self._changed:
                while not self._stopped and len(self._log) <= place:
                    self._changed.wait()
                if self._stopped:
                    return
                news, place = self._log[place:], len(self._log)
            yield from ({"type": kind, "object": told} for where, kind, told in news if where == path)

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serve on a free port of the loopback; give the address."""
        with served(_handler(self.answer)) as port:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                self.stop()


def _handler(answer: Callable[[str], Object | Iterator[Object] | None]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = answer(self.path)
            if found is None:
                self._head(404, {"Content-Length": "2"})
                self.wfile.write(b"{}")
            elif isinstance(found, dict):
                body = json.dumps(found).encode()
                self._head(200, {"Content-Length": str(len(body))})
                self.wfile.write(body)
            else:
                self._head(200, {"Transfer-Encoding": "chunked"})
                for each in found:
                    self._chunk(json.dumps(each).encode() + b"\n")
                self._chunk(b"")

        def _head(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | dict(headers)).items():
                self.send_header(name, value)
            self.end_headers()

        def _chunk(self, body: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # Who watched has left.
                super().handle()

    return Handler


@dataclass
class Pod:
    """One pod of the cluster, by the object that tells of it."""

    told: Object

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.told["metadata"]["name"])


@dataclass
class ClusterDouble:
    """Scheduler and kubelet: what they tell of a pod that starts, at the time at which it happens."""

    api: ApiServerDouble
    node: str
    pull_bytes_per_s: float = 1.5e9
    pods: dict[str, Pod] = field(default_factory=dict)

    def create(self, name: str, address: str, arguments: list[str]) -> Pod:
        """Create a pod, which nobody has scheduled yet."""
        metadata = {"name": name, "uid": str(uuid.uuid4()), "namespace": NAMESPACE, "creationTimestamp": _now()}
        container = {"name": CONTAINER, "image": IMAGE, "command": ["vllm"], "args": arguments}
        pod = self.pods[name] = Pod(
            {
                "metadata": metadata | {"labels": {"app": "llm-double"}},
                "spec": {"containers": [container]},
                "status": {"phase": "Pending", "podIP": address},
            }
        )
        self.api.put(PODS, pod.told)
        return pod

    def refuse(self, pod: Pod, why: str) -> None:
        """Have the scheduler find no node for it."""
        self._event(pod, "FailedScheduling", why, "default-scheduler", severity="Warning")

    def schedule(self, pod: Pod) -> None:
        """Bind it to the node."""
        pod.told["spec"]["nodeName"] = self.node
        pod.told["status"]["startTime"] = _now()
        self._container(pod, {"waiting": {"reason": "ContainerCreating"}}, ready=False)
        where = f"Successfully assigned {NAMESPACE}/{pod.name} to {self.node}"
        self._event(pod, "Scheduled", where, "default-scheduler")

    async def pull(self, pod: Pod, size_bytes: int) -> None:
        """Pull the image: it takes its time, and nothing else."""
        self._event(pod, "Pulling", f'Pulling image "{IMAGE}"', inside=True)
        began = time.monotonic()
        await asyncio.sleep(size_bytes / self.pull_bytes_per_s)
        took = f"{time.monotonic() - began:.3f}s"
        size = f"({took} including waiting). Image size: {size_bytes} bytes."
        self._event(pod, "Pulled", f'Successfully pulled image "{IMAGE}" in {took} {size}', inside=True)

    def run(self, pod: Pod) -> None:
        """Say that its container was created and runs, from now on."""
        self._event(pod, "Created", f"Created container: {CONTAINER}", inside=True)
        self._event(pod, "Started", f"Started container {CONTAINER}", inside=True)
        pod.told["status"]["phase"] = "Running"
        self._container(pod, {"running": {"startedAt": _now()}}, ready=False)

    def ready(self, pod: Pod) -> None:
        """Say that its readiness probe is answered."""
        pod.told["status"]["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": _now()}]
        (status,) = pod.told["status"]["containerStatuses"]
        self._container(pod, status["state"], ready=True)

    def serving(self, name: str, address: str, arguments: list[str]) -> Pod:
        """Return a pod that has run for as long as anybody looked."""
        pod = self.create(name, address, arguments)
        self.schedule(pod)
        self.run(pod)
        self.ready(pod)
        return pod

    def _container(self, pod: Pod, state: Object, ready: bool) -> None:
        own = {"name": CONTAINER, "image": IMAGE, "state": state, "ready": ready}
        started = "waiting" not in state
        identity = {"containerID": f"containerd://{uuid.UUID(pod.told['metadata']['uid']).hex * 2}"} if started else {}
        pod.told["status"]["containerStatuses"] = [own | identity]
        self.api.put(PODS, pod.told)

    def _event(
        self,
        pod: Pod,
        reason: str,
        message: str,
        component: str = "kubelet",
        severity: str = "Normal",
        inside: bool = False,
    ) -> None:
        metadata, at = pod.told["metadata"], _now()
        about = {"kind": "Pod", "name": pod.name, "uid": metadata["uid"], "namespace": NAMESPACE}
        where = {"fieldPath": f"spec.containers{{{CONTAINER}}}"} if inside else {}
        uid = str(uuid.uuid4())
        self.api.put(
            EVENTS,
            {
                "metadata": {
                    "name": f"{pod.name}.{uid[:8]}",
                    "uid": uid,
                    "namespace": NAMESPACE,
                    "creationTimestamp": at,
                },
                "involvedObject": about | where,
                "reason": reason,
                "message": message,
                "type": severity,
                "firstTimestamp": at,
                "lastTimestamp": at,
                "count": 1,
                "source": {"component": component} | ({"host": self.node} if component == "kubelet" else {}),
            },
        )
