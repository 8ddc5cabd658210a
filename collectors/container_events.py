"""Lives of containers as the node's runtime tells them: created, started, paused, killed for memory, exited, deleted.

Subscribes to containerd's events, or where a socket has none (CRI-O) to the CRI's container events, on each of
`container_sockets` that is there: kubeadm's, K3s's, MicroK8s's, CRI-O's. Needs the runtime's socket, which is root's, of
containerd 1.2 or later, or with the CRI v1 (Kubernetes 1.26). Costs about 20 µs for each event, and there are a few for
each container.

Pod and container names are the labels that the CRI plug-in sets, asked for once per container. The exit of a process that
was executed inside (a probe) is `exec_exited`, never `exited`. A pull shows as three image rows: tag, digest and
configuration. Neither API can resume: a disconnection, or a restart of the collector, is a loss of
unknown size.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from collectors.wire import protojson, runtime_pb2, stream
from collectors.wire.channel import open_channel
from collectors.wire.runtime_pb2 import (
    ContainerEventResponse,
    ContainerEventType,
    Envelope,
    GetContainerRequest,
    GetContainerResponse,
    GetEventsRequest,
    SubscribeRequest,
)
from warpline import schema
from warpline.batch import Batch
from warpline.errors import SourceError
from warpline.settings import Settings
from warpline.source import Context

log = logging.getLogger(__name__)

CONTAINER_STATE = schema.table("container_state")
TABLES = (CONTAINER_STATE,)
SCOPE = "node"

Row = dict[str, Any]
Labels = Callable[[str, str], dict[str, Any]]
"""Container id and containerd namespace → labels and image of the container; empty where it is gone."""

_SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
_GET_CONTAINER = "/containerd.services.containers.v1.Containers/Get"
_CRI_EVENTS = "/runtime.v1.RuntimeService/GetContainerEvents"
_FILTERS = ('topic~="^/(tasks|containers|images|sandboxes)/"',)
_KNOWN_CONTAINERS = 4096
_READ_AHEAD = 4
"""Lists of events, of up to 8,192 each, that wait for the collector; then the runtime waits."""
_RETRY_S = 60.0
_KINDS = {
    "/containers/create": "created",
    "/containers/update": "updated",
    "/containers/delete": "deleted",
    "/tasks/create": "task_created",
    "/tasks/start": "started",
    "/tasks/exit": "exited",
    "/tasks/oom": "oom",
    "/tasks/delete": "task_deleted",
    "/tasks/exec-added": "exec_added",
    "/tasks/exec-started": "exec_started",
    "/tasks/paused": "paused",
    "/tasks/resumed": "resumed",
    "/images/create": "image_created",
    "/images/update": "image_updated",
    "/images/delete": "image_deleted",
    "/sandboxes/create": "sandbox_created",
    "/sandboxes/start": "sandbox_started",
    "/sandboxes/exit": "sandbox_exited",
}
_CRI_KINDS = {
    ContainerEventType.CONTAINER_CREATED_EVENT: "created",
    ContainerEventType.CONTAINER_STARTED_EVENT: "started",
    ContainerEventType.CONTAINER_STOPPED_EVENT: "exited",
    ContainerEventType.CONTAINER_DELETED_EVENT: "deleted",
}


def check(settings: Settings) -> str | None:
    """Return why no container runtime can be heard, or None."""
    if _present(settings):
        return None
    return f"none of {settings.container_sockets} is there; mount the runtime's socket or set container_sockets"


def _present(settings: Settings) -> list[str]:
    paths = [each.strip().removeprefix("unix://") for each in settings.container_sockets.split(",") if each.strip()]
    return [path for path in paths if Path(path).is_socket()]


def run(context: Context) -> Iterator[Batch]:
    """Yield `container_state` rows as the runtimes tell them."""
    found: queue.Queue[list[Row]] = queue.Queue(_READ_AHEAD)
    heard = stream.Heard(context)
    threads = [
        threading.Thread(target=_listen, args=(path, context, found), name=f"runtime-{path}", daemon=True)
        for path in _present(context.settings)
    ]
    for thread in threads:
        thread.start()
    while not context.stop.is_set():
        try:
            told = batch(found.get(timeout=0.2), context.node, context.clock.from_realtime(0), context.new_name())
        except queue.Empty:
            told = stream.idle(CONTAINER_STATE)
        yield told
        heard.keep(told)
    for thread in threads:
        thread.join(2.0)


def batch(rows: list[Row], node: str, shift_ns: int = 0, name: str = "") -> Batch:
    """Return rows as a batch of `node`, their wall-clock times moved by `shift_ns` to node time."""
    columns: dict[str, Any] = {each: [row.get(each) for row in rows] for each in CONTAINER_STATE.by_name}
    columns["time_ns"] = [row["time_ns"] + shift_ns for row in rows]
    columns |= {"node": node, "observed_by": "container_events"}
    return Batch(CONTAINER_STATE, CONTAINER_STATE.batch(columns, len(rows)), name)


def _listen(path: str, context: Context, found: queue.Queue[list[Row]]) -> None:
    """Put the rows of one runtime's events on the queue, until stopped; what fails here costs no other socket."""
    while not context.stop.is_set():
        try:
            with open_channel(path) as channel:
                events = _containerd(channel, path, context)
                try:
                    _pass_on(events, found, context)
                except SourceError:  # It has no such service: then it may speak the CRI.
                    _pass_on(_cri(channel, path, context), found, context)
        except SourceError as error:
            log.warning("source %s: %s", context.name, error)
        context.wait(_RETRY_S)


def _pass_on(events: Iterator[list[Row]], found: queue.Queue[list[Row]], context: Context) -> None:
    for rows in events:
        while rows and not context.stop.is_set():
            with contextlib.suppress(queue.Full):
                found.put(rows, timeout=0.5)
                break


def _containerd(channel: Any, path: str, context: Context) -> Iterator[list[Row]]:
    subscribe = channel.unary_stream(_SUBSCRIBE, request_serializer=SubscribeRequest.SerializeToString)
    request = SubscribeRequest(filters=_FILTERS)
    runtime = Containerd(_asker(channel))
    for messages in stream.persist(lambda: stream.batches(subscribe(request), context), path, context):
        rows = []
        for message in messages:
            row = runtime.row(*_opened(message))
            if row is None:
                context.lost("event not understood", 1)
            else:
                rows.append(row)
        yield rows


def _opened(message: bytes) -> tuple[int, str, str, dict[str, Any]]:
    """Return time, namespace, topic and content of an envelope."""
    try:
        envelope = Envelope.FromString(message)
        kind = getattr(runtime_pb2, envelope.event.type_url.rpartition(".")[2].rpartition("/")[2], None)
        content = protojson.as_dict(kind.FromString(envelope.event.value)) if kind is not None else {}
    except DecodeError:
        return 0, "", "", {}
    return envelope.timestamp.ToNanoseconds(), envelope.namespace, envelope.topic, content


def _asker(channel: Any) -> Labels:
    get = channel.unary_unary(
        _GET_CONTAINER,
        request_serializer=GetContainerRequest.SerializeToString,
        response_deserializer=GetContainerResponse.FromString,
    )

    def ask(container_id: str, namespace: str) -> dict[str, Any]:
        try:
            answer = get(
                GetContainerRequest(id=container_id), metadata=(("containerd-namespace", namespace),), timeout=2.0
            )
        except grpc.RpcError:
            return {}
        return {"labels": dict(answer.container.labels), "image": answer.container.image}

    return ask


@dataclass
class Containerd:
    """Turns containerd's events into rows; asks once for each container who it is."""

    ask: Labels = lambda container_id, namespace: {}
    _known: dict[str, Row] = field(default_factory=dict)

    def row(self, time_ns: int, namespace: str, topic: str, content: dict[str, Any]) -> Row | None:
        """Return what an event says, or None for one that is not understood. Zero fields may be left out of `content`."""
        kind = _KINDS.get(topic)
        if kind is None:
            return None
        if topic.startswith("/images/"):
            name = content.get("name")
            tagged = topic == "/images/create" and name and "sha256:" not in name
            return {"time_ns": time_ns, "kind": "image_pulled" if tagged else kind, "image": name}
        container_id = content.get("container_id") or content.get("id") or content.get("sandbox_id")
        if not container_id:
            return None
        row = {**self._who(container_id, namespace, content.get("image")), "time_ns": time_ns, "kind": kind}
        if topic in ("/tasks/exit", "/tasks/delete") and content.get("id", container_id) not in ("", container_id):
            row["kind"] = f"exec_{kind.removeprefix('task_')}"
        if "exit" in kind or topic == "/tasks/delete":
            row["exit_code"] = content.get("exit_status", 0)
        if kind == "deleted":
            self._known.pop(container_id, None)
        return row

    def _who(self, container_id: str, namespace: str, image: str | None) -> Row:
        known = self._known.get(container_id)
        if known is not None:
            return known
        told = self.ask(container_id, namespace)
        labels = told.get("labels") or {}
        who = {
            "container_id": container_id,
            "pod_uid": labels.get("io.kubernetes.pod.uid"),
            "pod": labels.get("io.kubernetes.pod.name"),
            "namespace": labels.get("io.kubernetes.pod.namespace"),
            # A pod's sandbox is a container too, and has no name of its own.
            "container": labels.get("io.kubernetes.container.name"),
            "reason": "sandbox" if labels.get("io.cri-containerd.kind") == "sandbox" else None,
            "image": image or told.get("image") or None,
        }
        if told:  # One that is gone already may be asked for again: a new one can have its name.
            if len(self._known) > _KNOWN_CONTAINERS:
                self._known.clear()
            self._known[container_id] = who
        return who


def _cri(channel: Any, path: str, context: Context) -> Iterator[list[Row]]:
    get_events = channel.unary_stream(_CRI_EVENTS, request_serializer=GetEventsRequest.SerializeToString)

    def connect() -> Iterator[list[bytes]]:
        return stream.batches(get_events(GetEventsRequest()), context)

    for messages in stream.persist(connect, path, context):
        rows = []
        for message in messages:
            try:
                rows.append(cri_row(ContainerEventResponse.FromString(message)))
            except DecodeError:
                context.lost("event not understood", 1)
        yield rows


def cri_row(event: ContainerEventResponse) -> Row:
    """Return what an event of the CRI says."""
    pod = event.pod_sandbox_status.metadata
    mine = next((each for each in event.containers_statuses if each.id == event.container_id), None)
    kind = _CRI_KINDS.get(event.container_event_type, "unknown")
    row: Row = {
        "time_ns": event.created_at,
        "kind": kind,
        "container_id": event.container_id,
        "pod_uid": pod.uid or None,
        "pod": pod.name or None,
        "namespace": pod.namespace or None,
    }
    if mine is not None:
        row |= {
            "container": mine.metadata.name or None,
            "image": mine.image.user_specified_image or mine.image.image or None,
            "exit_code": mine.exit_code if kind == "exited" else None,
            "reason": mine.reason or None,
        }
        if mine.reason == "OOMKilled" and kind == "exited":
            row["kind"] = "oom"
    elif event.container_id == event.pod_sandbox_status.id:
        row["reason"] = "sandbox"
    return row
