"""Processes and what they did, as Cilium's Tetragon tells them: executions, exits, and the hooks of its policies.

From the gRPC API of the node's agent (`tetragon_address`, TLS where `tetragon_tls_ca` is set) or from its export file
(`tetragon_file`). Needs Tetragon 0.8 or later, and to read the agent's socket or file. The file lacks what the agent's deny
list drops (by default health checks and system namespaces); the gRPC stream does not.

Times are CLOCK_BOOTTIME inside Tetragon (the exec id holds them) and wall clock in its events: for this node's processes
both become node time. An exec id names one execution: for a process of this node that still lives, `process_uid` is made of
its start in /proc, as all other sources make it; else of the execution's time, which is a little later. Arguments of hooks
are kept only where they are numbers, paths or addresses: buffers and texts may hold content. Rate-limit lines become
`loss`. GetEvents cannot resume: a disconnection, or a restart of the collector, is a loss of unknown size. Costs one core
for about 30,000 events/s.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError

from collectors.identity import proc
from collectors.wire import channel, columns, jsonlines, protojson, secrets, stream, tail
from collectors.wire.tetragon_pb2 import GetEventsRequest, GetEventsResponse
from warpline import schema
from warpline.batch import Batch
from warpline.settings import Settings
from warpline.source import Context

PROCESS = schema.table("process")
PROCESS_EVENT = schema.table("process_event")
TABLES = (PROCESS, PROCESS_EVENT)
SCOPE = "node"

_GET_EVENTS = "/tetragon.FineGuidanceSensors/GetEvents"
_TEXT, _WHOLE = pa.string(), pa.int64()
_KNOWN_PROCESSES = 65536


def _struct(**fields: pa.DataType) -> pa.StructType:
    return pa.struct(list(fields.items()))


_PROCESS = _struct(
    exec_id=_TEXT,
    pid=_WHOLE,
    uid=_WHOLE,
    binary=_TEXT,
    arguments=_TEXT,
    start_time=_TEXT,
    pod=_struct(namespace=_TEXT, name=_TEXT, uid=_TEXT, container=_struct(id=_TEXT, name=_TEXT)),
    docker=_TEXT,
    parent_exec_id=_TEXT,
    ns=_struct(pid=_struct(inum=_WHOLE), net=_struct(inum=_WHOLE)),
)
_ARGUMENT = _struct(
    int_arg=_WHOLE,
    uint_arg=_WHOLE,
    long_arg=_TEXT,
    size_arg=_TEXT,
    path_arg=_struct(path=_TEXT),
    file_arg=_struct(path=_TEXT),
    sock_arg=_struct(
        family=_TEXT, protocol=_TEXT, saddr=_TEXT, daddr=_TEXT, sport=_WHOLE, dport=_WHOLE, cookie=_TEXT, state=_TEXT
    ),
    sockaddr_arg=_struct(family=_TEXT, addr=_TEXT, port=_WHOLE),
)
_HOOK = {"process": _PROCESS, "policy_name": _TEXT, "action": _TEXT, "args": pa.list_(_ARGUMENT)}
_KINDS = {
    "process_exec": _struct(process=_PROCESS),
    "process_exit": _struct(process=_PROCESS, signal=_TEXT, status=_WHOLE, time=_TEXT),
    "process_kprobe": _struct(**_HOOK, function_name=_TEXT),
    "process_tracepoint": _struct(**_HOOK, subsys=_TEXT, event=_TEXT),
    "process_uprobe": _struct(**_HOOK, path=_TEXT, symbol=_TEXT),
    "process_usdt": _struct(**_HOOK, path=_TEXT, provider=_TEXT, name=_TEXT),
    "process_lsm": _struct(**_HOOK, function_name=_TEXT),
    # Before 1.0 the loaded files were a list.
    "process_loader": _struct(process=_PROCESS, path=_TEXT, binary=pa.list_(_struct(path=_TEXT))),
    "process_throttle": _struct(type=_TEXT, cgroup=_TEXT),
    "test": _struct(arg0=_TEXT),
}
_LINE = pa.schema(
    [
        *_KINDS.items(),
        ("rate_limit_info", _struct(number_of_dropped_process_events=_TEXT)),
        ("node_name", _TEXT),
        ("time", _TEXT),
    ]
)
_OF_PROCESSES = [kind for kind, told in _KINDS.items() if told.get_field_index("process") >= 0]
_HOOKS = [kind for kind, told in _KINDS.items() if told.get_field_index("args") >= 0]


def check(settings: Settings) -> str | None:
    """Return why Tetragon cannot be read, or None."""
    if settings.tetragon_file:
        found = bool(tail.matching(settings.tetragon_file))
        return None if found else f"{settings.tetragon_file}: not there; set tetragon_file to Tetragon's export file"
    remedy = "install it, or set tetragon_address or tetragon_file"
    return channel.silent(settings.tetragon_address, channel.tls(settings, "tetragon"), "Tetragon", remedy)


def run(context: Context) -> Iterator[Batch]:
    """Yield `process` and `process_event` rows as Tetragon tells them."""
    settings = context.settings
    decoder = Decoder(context.node, settings.process_arguments)
    if settings.tetragon_file:
        for block in tail.follow(settings.tetragon_file, context):
            yield from _told(block, decoder, context)
        return
    heard = stream.Heard(context)
    with channel.open_channel(settings.tetragon_address, channel.tls(settings, "tetragon")) as opened:
        get_events = opened.unary_stream(_GET_EVENTS, request_serializer=GetEventsRequest.SerializeToString)

        def connect() -> Iterator[list[bytes]]:
            return stream.batches(get_events(GetEventsRequest()), context)

        for messages in stream.persist(connect, settings.tetragon_address, context):
            block = tail.Block(lines=_lines(messages, context), name=context.new_name(), shifts=tail.shifts(context))
            for batch in _told(block, decoder, context):
                yield batch
                if batch.table is PROCESS_EVENT:
                    heard.keep(batch)


def _lines(messages: list[bytes], context: Context) -> bytes:
    lines = []
    for message in messages:
        try:
            lines.append(protojson.line(GetEventsResponse.FromString(message)))
        except DecodeError:
            context.lost("malformed message", 1)
    return b"".join(lines)


def _told(block: tail.Block, decoder: Decoder, context: Context) -> Iterator[Batch]:
    if not block.lines:
        yield stream.idle(PROCESS_EVENT)
        return
    batches, lost = decoder.decode(block.lines, block.shifts)
    for reason, count in lost.items():
        context.lost(reason, count, name=block.name)
    yield from (replace(each, batch_id=block.name) for each in batches)


@dataclass
class Decoder:
    """Turns lines of Tetragon's JSON into batches; remembers which execution was which process."""

    node: str = ""
    keep_arguments: bool = False
    start_of: Callable[[int], proc.Stat | None] = proc.stat
    _uids: dict[str, str] = field(default_factory=dict)

    def decode(self, block: bytes, shifts: tail.Shifts = (0, 0)) -> tuple[list[Batch], dict[str, int]]:
        """Return the rows of a block of lines, moved by `shifts` to node time, and how many gave none, by reason."""
        raw, bad = jsonlines.read(block, _LINE)
        limited = columns.whole(columns.field(raw, "rate_limit_info.number_of_dropped_process_events"))
        lost = {"malformed line": bad, "tetragon's rate limit": pc.sum(limited).as_py() or 0}
        kind = pc.coalesce(*[pc.if_else(pc.is_valid(raw.column(name)), name, None) for name in _KINDS])
        told = raw.filter(pc.is_valid(kind))
        lost["unknown event"] = raw.num_rows - told.num_rows - (len(raw) - raw.column("rate_limit_info").null_count)
        kind = kind.combine_chunks().drop_null() if isinstance(kind, pa.ChunkedArray) else kind.drop_null()
        start = columns.times(_process(told, "start_time"))
        time_ns = pc.coalesce(
            columns.times(columns.field(told, "time")),
            columns.times(columns.field(told, "process_exit.time")),
            start,
        )
        lost["event without a time"] = time_ns.null_count
        timed = pc.is_valid(time_ns)
        told, kind, start, time_ns = (each.filter(timed) for each in (told, kind, start, time_ns))
        if not told.num_rows:
            return [], lost
        return self._batches(told, kind, start, time_ns, shifts), lost

    def _batches(
        self, told: pa.Table, kind: pa.Array, start: pa.Array, time_ns: pa.Array, shifts: tail.Shifts
    ) -> list[Batch]:
        real_shift, boot_shift = shifts
        nodes = pc.coalesce(columns.or_null(columns.field(told, "node_name")), self.node)
        mine = pc.equal(nodes, self.node)
        shift = pc.if_else(mine, real_shift, 0)
        ids = _process(told, "exec_id")
        common = {
            "node": nodes,
            "process_uid": self._process_uids(ids, nodes, boot_shift),
            "pid": _process(told, "pid"),
            "exec_id": ids,
        }
        events = {**common, "time_ns": pc.add(time_ns, shift), "kind": _short(kind), **_event(told, kind)}
        batches = [Batch(PROCESS_EVENT, PROCESS_EVENT.batch(events, told.num_rows))]
        lives = pc.and_(pc.is_in(kind, pa.array(["process_exec", "process_exit"])), pc.is_valid(common["process_uid"]))
        boot = self._booted(ids)
        started = pc.coalesce(pc.if_else(mine, pc.add(boot, boot_shift), None), pc.add(start, shift), events["time_ns"])
        ended = pc.if_else(pc.equal(kind, "process_exit"), events["time_ns"], None)
        rows = {**common, "start_ns": started, "end_ns": ended, **self._described(told, nodes, boot_shift)}
        rows = {name: values.filter(lives) for name, values in rows.items()}
        if len(rows["start_ns"]):
            batches.append(Batch(PROCESS, PROCESS.batch({**rows, "observed_by": "tetragon"}, len(rows["start_ns"]))))
        return batches

    def _described(self, told: pa.Table, nodes: pa.Array, boot_shift: int) -> dict[str, pa.Array]:
        container = pc.replace_substring_regex(_process(told, "pod.container.id"), r"^[a-z0-9.+-]+://", "")
        runtime = pc.struct_field(
            pc.extract_regex(_process(told, "pod.container.id"), r"^(?P<runtime>[a-z0-9.+-]+)://"), "runtime"
        )
        rows = {
            "parent_uid": self._process_uids(_process(told, "parent_exec_id"), nodes, boot_shift),
            "executable": _process(told, "binary"),
            "user_id": _process(told, "uid"),
            "container_id": columns.or_null(pc.coalesce(columns.or_null(container), _process(told, "docker"))),
            "runtime": runtime,
            "pod_uid": columns.or_null(_process(told, "pod.uid")),
            "pod": _process(told, "pod.name"),
            "namespace": _process(told, "pod.namespace"),
            "container": _process(told, "pod.container.name"),
            "pid_namespace": _process(told, "ns.pid.inum"),
            "network_namespace": _process(told, "ns.net.inum"),
        }
        if self.keep_arguments:
            distinct = _process(told, "arguments").dictionary_encode()
            safe = pa.array([secrets.masked(text) for text in distinct.dictionary.to_pylist()], pa.string())
            rows["arguments"] = safe.take(distinct.indices)
        return rows

    def _process_uids(self, ids: pa.Array, nodes: pa.Array, boot_shift: int) -> pa.Array:
        distinct = ids.dictionary_encode()
        known = [self._uid(each) for each in distinct.dictionary.to_pylist()]
        return pa.array(known, pa.string()).take(distinct.indices)

    def _uid(self, exec_id: str) -> str | None:
        if exec_id in self._uids:
            return self._uids[exec_id]
        found = execution(exec_id)
        if found is None:
            return None
        node, start_ns, pid = found
        alive = self.start_of(pid) if node == self.node else None
        if alive is not None and alive.start_since_boot_ns <= start_ns:
            start_ns = alive.start_since_boot_ns
        if len(self._uids) > _KNOWN_PROCESSES:
            self._uids.clear()
        self._uids[exec_id] = proc.process_uid(node, start_ns, pid)
        return self._uids[exec_id]

    def _booted(self, ids: pa.Array) -> pa.Array:
        distinct = ids.dictionary_encode()
        found = [execution(each) for each in distinct.dictionary.to_pylist()]
        return pa.array([each and each[1] for each in found], pa.int64()).take(distinct.indices)


def execution(exec_id: str) -> tuple[str, int, int] | None:
    """Return node, start in ns since boot and pid of an exec id (base64 of `node:ns:pid`), or None for any other text."""
    try:
        node, start, pid = base64.b64decode(exec_id, validate=True).decode().rsplit(":", 2)
        return node, int(start), int(pid)
    except (binascii.Error, ValueError):
        return None


def _process(told: pa.Table, path: str) -> pa.Array:
    return pc.coalesce(*[columns.field(told, f"{kind}.process.{path}") for kind in _OF_PROCESSES])


def _short(kind: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(kind, "^process_", "")


def _event(told: pa.Table, kind: pa.Array) -> dict[str, Any]:
    def joined(first: str, second: str) -> pa.Array:
        return pc.binary_join_element_wise(columns.field(told, first), columns.field(told, second), "/")

    signal = columns.or_null(columns.field(told, "process_exit.signal"))
    status = columns.field(told, "process_exit.status")
    # Zero is left out of the JSON: an exit with neither is a success, one with a signal has no status.
    success = pc.and_(pc.equal(kind, "process_exit"), pc.is_null(signal))
    loaded = pc.list_element(_padded(columns.field(told, "process_loader.binary")), 0)
    names = (
        columns.field(told, "process_kprobe.function_name"),
        joined("process_tracepoint.subsys", "process_tracepoint.event"),
        columns.field(told, "process_uprobe.symbol"),
        joined("process_usdt.provider", "process_usdt.name"),
        columns.field(told, "process_lsm.function_name"),
        columns.field(told, "process_loader.path"),
        pc.struct_field(loaded, "path"),
        columns.field(told, "process_throttle.type"),
        signal,
    )
    action = pc.coalesce(*[columns.field(told, f"{hook}.action") for hook in _HOOKS])
    return {
        "name": pc.coalesce(*names),
        "policy": columns.or_null(pc.coalesce(*[columns.field(told, f"{hook}.policy_name") for hook in _HOOKS])),
        "action": pc.utf8_lower(pc.replace_substring_regex(action, "^KPROBE_ACTION_", "")),
        "exit_status": pc.coalesce(status, pc.if_else(success, 0, None).cast(pa.int64())),
        "signal": signal,
        "details": _details(told),
    }


def _padded(lists: pa.Array) -> pa.Array:
    """Return lists of which none is empty, since an element of an empty one cannot be asked for."""
    empty = pa.scalar([None], lists.type)
    return pc.if_else(pc.greater(pc.fill_null(pc.list_value_length(lists), 0), 0), lists, empty)


def _details(told: pa.Table) -> pa.Array:
    """Return what hooks were called with, as JSON; only rows of hooks and throttling have any."""
    detailed = [*_HOOKS, "process_throttle"]
    texts: list[bytes | None] = [None] * told.num_rows
    for kind in detailed:
        rows = pc.indices_nonzero(pc.is_valid(columns.field(told, kind)))
        for row, event in zip(rows.to_pylist(), columns.field(told, kind).take(rows).to_pylist(), strict=True):
            kept = {name: _kept(event.get(name)) for name in ("args", "path", "cgroup") if event.get(name)}
            texts[row] = orjson.dumps(kept) if kept else None
    return pa.array([text and text.decode() for text in texts], pa.string())


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _kept(inner) for name, inner in value.items() if inner is not None}
    return [_kept(each) for each in value] if isinstance(value, list) else value
