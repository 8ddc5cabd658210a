"""Pods, containers, nodes, Events and GPU claims as the Kubernetes API has them: identity for every other row.

Lists, then watches, with the official client (`kubernetes_api`, else the service account, else a kubeconfig); a stream that
breaks is resumed by resource version, and begun anew with a list where the server no longer knows it (410 Gone), so that
nothing is told twice and no end state is missed. Any Kubernetes since 1.20; needs list and watch on pods, events, nodes,
and, where Dynamic Resource Allocation is used (v1, v1beta2 or v1beta1: the best that the server offers), resourceslices and
resourceclaims. One for the cluster. Costs one core for about 30,000 changes of objects/s.

Model, version, role, quantisation and engine arguments come from labels, annotations and command lines, without secrets.
Kubelet times are whole seconds: within one second, the order of Events is that of their reasons (see the view cold_start).
"""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Iterator

from collectors.cluster import objects, watch
from collectors.cluster.dra import Devices
from collectors.cluster.objects import Pods, Row
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
CLUSTER_NODE = schema.table("cluster_node")
GPU = schema.table("gpu")
TABLES = (POD, CONTAINER_STATE, CLUSTER_EVENT, CLUSTER_NODE, GPU)
SCOPE = "cluster"

_CORE = ("/api/v1/pods", "/api/v1/events", "/api/v1/nodes")
_DRA = ("/apis/resource.k8s.io/{version}/resourceslices", "/apis/resource.k8s.io/{version}/resourceclaims")
_DRA_VERSIONS = ("v1", "v1beta2", "v1beta1")
_BATCH = 2000
_QUEUE = 10_000
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
        answer.response.release_conn()
    except Exception as error:  # The client raises whatever its transport, its credentials or its exec plug-ins do.
        return f"{host}: {type(error).__name__}; set kubernetes_api or KUBECONFIG to a cluster that answers"
    return None if answer.status < 400 else f"{host}: answered {answer.status}; give the collector a service account"


def run(context: Context) -> Iterator[Batch]:
    """Yield the rows of what is there, then of every change."""
    api = watch.connect(context.settings.kubernetes_api)
    changes: queue.Queue[Change] = queue.Queue(_QUEUE)
    watches = [Watch(api, path, changes, context) for path in _CORE]
    watches += [Watch(api, path, changes, context, _DRA_VERSIONS) for path in _DRA]
    threads = [each.start() for each in watches]
    state = State()
    try:
        while not context.stop.is_set():
            yield stream.idle(POD)
            yield from state.batches(_some(changes), context.clock.now_ns(), context)
    finally:
        for each, thread in zip(watches, threads, strict=True):
            each.close()
            thread.join(2.0)


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
        self._pods, self._devices = Pods(), Devices()

    def batches(self, changes: list[Change], now_ns: int, context: Context | None = None) -> Iterator[Batch]:
        """Yield the rows of `changes`, one batch a table; an object of a shape that is not understood is counted."""
        rows: dict[str, list[Row]] = defaultdict(list)
        for change in changes:
            try:
                for table, row in self._rows(change, now_ns):
                    rows[table.name].append(row)
            except (KeyError, TypeError, AttributeError, ValueError):
                if context is not None:
                    context.lost("object not understood", 1)
        for name, found in rows.items():
            table = schema.table(name)
            columns = {column: [row.get(column) for row in found] for column in table.by_name}
            yield Batch(table, table.batch(columns, len(found)))

    def _rows(self, change: Change, now_ns: int) -> Iterator[tuple[Table, Row]]:
        told, deleted = change.object, change.kind == "DELETED"
        kind = change.path.rpartition("/")[2]
        if kind == "pods":
            yield from ((CONTAINER_STATE, row) for row in self._pods.containers(told, deleted, now_ns))
            yield from ((POD, row) for row in self._pods.pod(told, deleted, now_ns))
        elif kind == "events" and not deleted:
            yield CLUSTER_EVENT, objects.event(told, now_ns)
        elif kind == "nodes":
            yield CLUSTER_NODE, objects.node(told, deleted, now_ns)
        elif kind == "resourceslices":
            yield from ((GPU, row) for row in self._devices.slice(told, deleted, now_ns))
        elif kind == "resourceclaims":
            yield from ((GPU, row) for row in self._devices.claim(told, deleted, now_ns))
