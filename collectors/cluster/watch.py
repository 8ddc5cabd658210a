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
    """One object as it is now (`kind` ADDED or MODIFIED), or that is gone (DELETED: of it, no more than the UID is sure).

    `place` is the resource version from which a watch goes on behind it, empty inside a list; a Change of kind PLACE has
    nothing but that.
    """

    path: str
    kind: str
    object: Object
    place: str = ""

    @property
    def uid(self) -> str:
        """The object's UID."""
        return _uid(self.object)

    @property
    def version(self) -> str:
        """The object's resource version."""
        return _version(self.object)


@dataclass
class Watch:
    """Follows one kind of object in a thread of its own and puts its changes on a queue.

    `versions`, the best one first, fill `{version}` in the path: with the best that the server offers of that group. `known`
    (UID → resource version) and `place` are what an earlier run left, so that nothing of it is told again.
    """

    api: Any
    path: str
    changes: queue.Queue[Change]
    context: Context
    versions: tuple[str, ...] = ()
    known: dict[str, str] = field(default_factory=dict)
    place: str = ""
    _served: str = ""
    _answer: Any = None
    _failing: bool = False
    _absent: bool = False

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
                if not self.place:
                    self._list()
                self._said_well()
                failures = 0
                self._watch()
                self.context.wait(_BACK_OFF_S[0])  # It ended, as it does every few minutes; a broken server's at once.
            except client.ApiException as error:
                failures += 1
                if error.status == 410:
                    self._expired()
                elif error.status == 404:
                    self._not_here()
                else:
                    self._failed(f"answered {error.status} {error.reason}", failures)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                failures += 1
                self._failed(type(error).__name__, failures)
            except (KeyError, TypeError, AttributeError):
                failures += 1
                self._failed("answered what is no list of objects", failures)

    def _expired(self) -> None:
        """List again: the server no longer knows what came since. What came and went between is known to no one."""
        self.place = ""
        self.context.lost("changes between two lists", 1, lower_bound=True)

    def _not_here(self) -> None:
        """Wait for a kind that this cluster does not have (yet), or, after an upgrade, has in another version."""
        if not self._absent:
            log.info("source %s: %s: this cluster has none", self.context.name, self.path)
        self._absent, self.place, self._served = True, "", ""
        self.context.wait(_ABSENT_S)

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
        self._failing = self._absent = False

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
            answer.response.drain_conn()  # Unread, it would be taken for the answer to the connection's next request.
            answer.response.release_conn()
            raise client.ApiException(status=status, reason=reason)
        return answer.response

    def _list(self) -> None:
        """Tell what is there that is new or changed, and what is gone, since the last time."""
        found: set[str] = set()
        more = ""
        self._served = self._found()
        while True:
            page = orjson.loads(self._get(self._served, limit=_PAGE, **{"continue": more}).read())
            kind = str(page.get("kind", "")).removesuffix("List")
            for each in page.get("items") or []:
                found.add(_uid(each))
                self._listed({"kind": kind, **each})
            more = page["metadata"].get("continue", "")
            if not more:
                break
        for uid in self.known.keys() - found:
            del self.known[uid]
            self._tell("DELETED", {"metadata": {"uid": uid}})
        self.place = page["metadata"].get("resourceVersion", "")
        self._tell("PLACE", {}, self.place)

    def _listed(self, told: Object) -> None:
        uid, version = _uid(told), _version(told)
        before = self.known.get(uid)
        if before != version:
            self.known[uid] = version
            self._tell("ADDED" if before is None else "MODIFIED", told)

    def _watch(self) -> None:
        self._served = self._served or self._found()
        self._answer = self._get(
            self._served,
            watch="true",
            resourceVersion=self.place,
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
        self.place = version or self.place
        uid = _uid(told)
        if kind == "BOOKMARK":
            self._tell("PLACE", {}, self.place)
        elif kind == "DELETED":
            self.known.pop(uid, None)
            self._tell(kind, told, self.place)
        elif self.known.get(uid) != version:
            self.known[uid] = version
            self._tell(kind, told, self.place)

    def _tell(self, kind: str, told: Object, place: str = "") -> None:
        # Who set which field, and the object as somebody applied it, are most of its size and of no use here.
        metadata = told.get("metadata") or {}
        metadata.pop("managedFields", None)
        (metadata.get("annotations") or {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
        while not self.context.stop.is_set():
            with contextlib.suppress(queue.Full):
                self.changes.put(Change(self.path, kind, told, place), timeout=0.5)
                return


def _uid(told: Object) -> str:
    """Return an object's UID; of one that was told without, as recordings are, namespace and name."""
    metadata = told.get("metadata", {})
    return str(metadata.get("uid") or "/".join(metadata[key] for key in ("namespace", "name") if metadata.get(key)))


def _version(told: Object) -> str:
    return str(told.get("metadata", {}).get("resourceVersion", ""))


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest
