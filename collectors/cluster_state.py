"""Pods, containers, nodes, Events, GPU claims and model services as the Kubernetes API has them: identity for other rows.

Lists, then watches, with the official client (`kubernetes_api`, else the service account, else a kubeconfig); a stream that
breaks is resumed by resource version, and begun anew with a list where the server no longer knows it (410 Gone), so that
nothing is told twice and no end state is missed; what came and went between is counted as a loss of unknown size. What was
told and up to where is kept in the state directory, and a restart goes on there, after a kill as well.

Any Kubernetes since 1.20; needs list and watch on pods, events, nodes, and, where the cluster has them, on resourceslices
and resourceclaims (Dynamic Resource Allocation, of v1, v1beta2 and v1beta1 the best that the server offers), KServe's
inferenceservices and llminferenceservices, Knative's revisions and KEDA's scaledobjects. One for the cluster. Costs one core
for about 30,000 changes of objects/s.

Model, version, role, quantisation and engine arguments come from labels, annotations and command lines, without secrets,
and from the model services. Kubelet times are whole seconds: within one second, the order of Events is that of their reasons
(see the view cold_start).
"""

from __future__ import annotations

import hashlib
import queue
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectors.cluster import objects, services, watch
from collectors.cluster.dra import Devices
from collectors.cluster.memory import Memory
from collectors.cluster.objects import Nodes, Row
from collectors.cluster.pods import Pods
from collectors.cluster.services import Services
from collectors.cluster.watch import Change, Watch
from collectors.wire import stream
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.schema import Table
from warpline.settings import Settings
from warpline.source import Context

POD = schema.table("pod")
CONTAINER_STATE = schema.table("container_state")
CLUSTER_EVENT = schema.table("cluster_event")
SERVICE_STATE = schema.table("service_state")
CLUSTER_NODE = schema.table("cluster_node")
GPU = schema.table("gpu")
TABLES = (POD, CONTAINER_STATE, CLUSTER_EVENT, SERVICE_STATE, CLUSTER_NODE, GPU)
SCOPE = "cluster"

PODS = "/api/v1/pods"
WATCHED: dict[str, tuple[str, ...]] = {
    PODS: (),
    "/api/v1/events": (),
    "/api/v1/nodes": (),
    "/apis/resource.k8s.io/{version}/resourceslices": ("v1", "v1beta2", "v1beta1"),
    "/apis/resource.k8s.io/{version}/resourceclaims": ("v1", "v1beta2", "v1beta1"),
    "/apis/serving.kserve.io/{version}/inferenceservices": ("v1beta1",),
    "/apis/serving.kserve.io/{version}/llminferenceservices": ("v1alpha2", "v1alpha1"),
    "/apis/serving.knative.dev/{version}/revisions": ("v1",),
    "/apis/keda.sh/{version}/scaledobjects": ("v1alpha1",),
}
"""Path of each kind → the API versions in which it is understood, the best first."""

_BATCH = 1000
_QUEUE = 2000
"""Changes that wait to be told, some 40 KB each; then the API server waits."""
_DELAY_S = 0.2


def check(settings: Settings) -> str | None:
    """Return why the Kubernetes API cannot be asked, or None."""
    try:
        api = watch.connect(settings.kubernetes_api)
    except SourceError as error:
        return f"kubernetes: {error}"
    host = api.configuration.host
    try:
        answer = api.call_api("GET", f"{host}/version", _request_timeout=(2, 5))
        answer.response.drain_conn()
        answer.response.release_conn()
    except Exception as error:  # The client raises whatever its transport, its credentials or its exec plug-ins do.
        return f"{host}: {type(error).__name__}; set kubernetes_api or KUBECONFIG to a cluster that answers"
    return None if answer.status < 400 else f"{host}: answered {answer.status}; give the collector a service account"


def run(context: Context) -> Iterator[Batch]:
    """Yield the rows of what is there, then of every change."""
    api = watch.connect(context.settings.kubernetes_api)
    changes: queue.Queue[Change] = queue.Queue(_QUEUE)
    state = State()
    with Memory(_file(context, api.configuration.host), context) as memory:
        memory.recall(state.recall)
        state.settle()
        yield from memory.unsure()
        watches = [
            Watch(api, path, changes, context, versions, memory.known(path), memory.place(path))
            for path, versions in WATCHED.items()
        ]
        threads = [each.start() for each in watches]
        try:
            while not context.stop.is_set():
                yield stream.idle(POD)
                yield from _told(_some(changes), state, memory, context)
        finally:
            for each, thread in zip(watches, threads, strict=True):
                each.close()
                thread.join(2.0)


def _file(context: Context, host: str) -> Path:
    """Return where the memory of one cluster lies: another one's resource versions mean nothing here."""
    digest = hashlib.sha256(host.encode()).hexdigest()[:16]
    return Path(context.settings.state_dir) / f"cluster-{digest}.sqlite"


def _told(changes: list[Change], state: State, memory: Memory, context: Context) -> Iterator[Batch]:
    """Yield what `changes` tell, named; what is known by them is on disk before, together with the rows."""
    if not changes:
        return
    name = context.new_name()
    batches = [replace(each, batch_id=name) for each in state.batches(changes, context.clock.now_ns(), context)]
    memory.write(changes, state.remembered(changes), batches)
    yield from batches
    memory.told()


def _some(changes: queue.Queue[Change]) -> list[Change]:
    found: list[Change] = []
    try:
        found.append(changes.get(timeout=_DELAY_S))
        while len(found) < _BATCH:
            found.append(changes.get_nowait())
    except queue.Empty:
        pass
    return found


class State:
    """Turns changes of objects into batches."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.services = Services()
        self._pods, self._devices, self._nodes = Pods(self.services), Devices(), Nodes()
        self._refilled: set[str] = set()

    def batches(self, changes: list[Change], now_ns: int, context: Context | None = None) -> Iterator[Batch]:
        """Yield the rows of `changes`, one batch a table; an object of a shape that is not understood is counted."""
        rows: dict[str, list[Row]] = defaultdict(list)
        namespaces: set[str | None] = set()
        self._refilled.clear()
        for change in changes:
            try:
                for table, row in self._rows(change, now_ns):
                    rows[table.name].append(row)
                    if table is SERVICE_STATE:
                        namespaces.add(row["namespace"])
            except (KeyError, TypeError, AttributeError, ValueError):
                if context is not None:
                    context.lost("object not understood", 1)
        for namespace in namespaces:
            for row in self._pods.refill(namespace, now_ns):
                self._refilled.add(row["pod_uid"])
                rows[POD.name].append(row)
        rows[GPU.name] += self._devices.changes(now_ns)
        for name, found in rows.items():
            if found:
                table = schema.table(name)
                columns = {column: [row.get(column) for row in found] for column in table.by_name}
                yield Batch(table, table.batch(columns, len(found)))

    def _rows(self, change: Change, now_ns: int) -> Iterator[tuple[Table, Row]]:
        told, deleted, kind = change.object, change.kind == "DELETED", _kind(change.path)
        if change.kind == "PLACE":
            return
        if kind == "pods":
            yield from self._rows_of_pod(change, now_ns)
        elif kind == "events" and not deleted:
            yield CLUSTER_EVENT, objects.event(told, now_ns)
        elif kind == "nodes":
            rows = self._nodes.gone(change.uid, now_ns) if deleted else self._nodes.rows(told, now_ns)
            yield from ((CLUSTER_NODE, row) for row in rows)
        elif kind in services.KINDS:
            rows = self.services.gone(change.uid, now_ns) if deleted else self.services.rows(kind, told, now_ns)
            yield from ((SERVICE_STATE, row) for row in rows)
        elif deleted:
            self._devices.gone(change.uid)
        elif kind == "resourceslices":
            self._devices.slice(change.uid, told)
        elif kind == "resourceclaims":
            self._devices.claim(change.uid, told)

    def _rows_of_pod(self, change: Change, now_ns: int) -> Iterator[tuple[Table, Row]]:
        if change.kind != "DELETED":
            yield from ((POD, row) for row in self._pods.pod(change.object, now_ns))
        if "spec" in change.object:
            # Of a deleted pod too: how its containers ended stands only there.
            yield from ((CONTAINER_STATE, row) for row in self._pods.containers(change.object, now_ns))
        if change.kind == "DELETED":
            yield from ((POD, row) for row in self._pods.gone(change.uid, now_ns))

    def remembered(self, changes: list[Change]) -> dict[tuple[str, str], Any]:
        """Return what is to be kept of the objects that `changes` touched: (path, UID) → JSON, None for nothing."""
        touched = {(change.path, change.uid) for change in changes if change.uid}
        touched |= {(PODS, uid) for uid in self._refilled}
        return {(path, uid): self._remember(_kind(path), uid) for path, uid in touched}

    def _remember(self, kind: str, uid: str) -> Any:
        if kind == "pods":
            return self._pods.remember(uid)
        if kind == "nodes":
            return self._nodes.remember(uid)
        return self.services.remember(uid) if kind in services.KINDS else self._devices.remember(uid)

    def recall(self, path: str, uid: str, kept: Any) -> None:
        """Take up what `remembered` returned of an object, after a restart."""
        recall: dict[str, Callable[[str, Any], None]] = {
            "pods": self._pods.recall,
            "nodes": self._nodes.recall,
            "resourceslices": self._devices.recall_slice,
            "resourceclaims": self._devices.recall_claim,
        }
        recall.get(_kind(path), self.services.recall)(uid, kept)

    def settle(self) -> None:
        """Take it that what was recalled was told."""
        for _ in self._devices.changes(0):
            pass


def _kind(path: str) -> str:
    return path.rpartition("/")[2]
