"""List, then watch, one kind of Kubernetes object: resumed by resource version, begun anew where that is too old.

The official client brings configuration, credentials and transport; objects stay the dictionaries that the API sent, since
the client's models cost ten times the memory and drop what they do not know.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import urllib3
from kubernetes import client, config

from warpline.errors import SourceError
from warpline.source import Context

log = logging.getLogger(__name__)

Object = dict[str, Any]

_PAGE = 500
_WATCH_S = 300
_BACK_OFF_S = (0.2, 1.0, 5.0, 15.0, 30.0)
_ABSENT_S = 600.0


def connect(address: str) -> Any:
    """Return an API client: for `address`, or from the pod's service account, or from a kubeconfig.

    Raises SourceError where none of them is there.
    """
    if address:
        return client.ApiClient(client.Configuration(host=address))
    loaded = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=loaded)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=loaded)
        except (config.ConfigException, OSError):
            raise SourceError("no service account and no kubeconfig; set kubernetes_api or KUBECONFIG") from None
    return client.ApiClient(loaded)


@dataclass(frozen=True, slots=True)
class Change:
    """One object as it is now (`kind` ADDED or MODIFIED), or as it was last (DELETED)."""

    path: str
    kind: str
    object: Object


@dataclass
class Watch:
    """Follows one kind of object in a thread of its own and puts its changes on a queue.

    `versions`, the best one first, fill `{version}` in the path: with the best that the server offers of that group.
    """

    api: Any
    path: str
    changes: queue.Queue[Change]
    context: Context
    versions: tuple[str, ...] = ()
    _served: str = ""
    _known: dict[str, Object] = field(default_factory=dict)
    _version: str = ""
    _answer: Any = None
    _failing: bool = False

    def start(self) -> threading.Thread:
        """Start to follow; ends soon after `close`."""
        thread = threading.Thread(target=self._loop, name=f"watch-{self.path}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Wake a thread that waits for the server."""
        connection = getattr(self._answer, "connection", None)
        with contextlib.suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # suppressed

    def _loop(self) -> None:
        failures = 0
        while not self.context.stop.is_set():
            try:
                if not self._version:
                    self._list()
                self._said_well()
                failures = 0
                self._watch()
            except client.ApiException as error:
                failures += 1
                if error.status == 410:
                    self._version = ""  # The server no longer knows what came since: list again.
                elif error.status == 404:
                    self._version = ""  # An upgraded server may have it in another version.
                    self.context.wait(_ABSENT_S)  # A kind that this cluster does not have (yet).
                else:
                    self._failed(f"answered {error.status} {error.reason}", failures)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                failures += 1
                self._failed(type(error).__name__, failures)

    def _failed(self, reason: str, failures: int) -> None:
        if self.context.stop.is_set():
            return
        if not self._failing:
            log.warning("source %s: %s: %s; trying again", self.context.name, self.path, reason)
            self.context.lost("disconnected", 1, lower_bound=True)
        self._failing = True
        self.context.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1])

    def _said_well(self) -> None:
        if self._failing:
            log.info("source %s: %s answers again", self.context.name, self.path)
        self._failing = False

    def _found(self) -> str:
        """Return the path in the best version that the server offers; raise as for one that is not there if it has none."""
        if not self.versions:
            return self.path
        group = self.path.partition("/{version}/")[0]
        offered = {each.get("version") for each in orjson.loads(self._get(group).read()).get("versions") or []}
        for version in self.versions:
            if version in offered:
                return self.path.format(version=version)
        raise client.ApiException(status=404, reason=f"offers none of {', '.join(self.versions)}")

    def _get(self, path: str, **parameters: Any) -> Any:
        query = [(name, str(value)) for name, value in parameters.items() if value]
        answer = self.api.call_api(
            *self.api.param_serialize("GET", path, query_params=query, auth_settings=["BearerToken"]),
            _request_timeout=(5, _WATCH_S + 30),
        )
        if not 200 <= answer.status < 300:
            status, reason = answer.status, answer.reason
            answer.response.release_conn()
            raise client.ApiException(status=status, reason=reason)
        return answer.response

    def _list(self) -> None:
        """Tell what is there that is new or changed, and what is gone, since the last time."""
        found: dict[str, Object] = {}
        more = ""
        self._served = self._found()
        while True:
            page = orjson.loads(self._get(self._served, limit=_PAGE, **{"continue": more}).read())
            kind = str(page.get("kind", "")).removesuffix("List")
            found.update({_uid(each): _lean({"kind": kind, **each}) for each in page.get("items") or []})
            more = page["metadata"].get("continue", "")
            if not more:
                break
        for uid in self._known.keys() - found.keys():
            self._tell("DELETED", self._known[uid])
        for uid, each in found.items():
            if _version(self._known.get(uid, {})) != _version(each):
                self._tell("MODIFIED" if uid in self._known else "ADDED", each)
        self._known = found
        self._version = page["metadata"].get("resourceVersion", "")

    def _watch(self) -> None:
        self._answer = self._get(
            self._served,
            watch="true",
            resourceVersion=self._version,
            allowWatchBookmarks="true",
            timeoutSeconds=_WATCH_S,
        )
        try:
            for line in _split(self._answer.stream(1 << 16, decode_content=True)):
                self._take(line)
                if self.context.stop.is_set():
                    return
        finally:
            self._answer.close()
            self._answer.release_conn()

    def _take(self, line: bytes) -> None:
        try:
            event = orjson.loads(line)
            kind, told = event["type"], event["object"]
            version = _version(told)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            self.context.lost("malformed event", 1)
            return
        if kind == "ERROR":
            raise client.ApiException(status=told.get("code", 500), reason=told.get("reason", "error"))
        self._version = version or self._version
        uid = _uid(told)
        if kind == "BOOKMARK" or (kind != "DELETED" and _version(self._known.get(uid, {})) == version):
            return
        if kind == "DELETED":
            self._known.pop(uid, None)
        else:
            self._known[uid] = _lean(told)
        self._tell(kind, told)

    def _tell(self, kind: str, told: Object) -> None:
        while not self.context.stop.is_set():
            with contextlib.suppress(queue.Full):
                self.changes.put(Change(self._served, kind, told), timeout=0.5)
                return


def _lean(told: Object) -> Object:
    """Return the object without who set which field, which is half of its size and of no use here."""
    told.get("metadata", {}).pop("managedFields", None)
    return told


def _uid(told: Object) -> str:
    return str(told.get("metadata", {}).get("uid", ""))


def _version(told: Object) -> str:
    return str(told.get("metadata", {}).get("resourceVersion", ""))


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest
