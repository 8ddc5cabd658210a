"""Ask the correlator for a view: what comes back is an Arrow table."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import urllib3

from warpline.errors import SettingsError, StoreError
from warpline.settings import Settings

_AT_ONCE = urllib3.Timeout(connect=3, read=60)
_SORTED_FIRST = urllib3.Timeout(connect=3, read=900)
"""What comes sorted by anything but a table's time, and does not fit in memory, is sorted on disk before its first row."""
_CONNECTIONS = 32
"""Connections that are kept: as many as people who look at once, for one more than that is made anew for each answer."""


class Client:
    """The query API of `settings.query_url`. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        """Read the token file, if there is one; nothing is asked yet. Raises SettingsError where it cannot be read."""
        self.url = settings.query_url.rstrip("/")
        self._headers = (
            {"authorization": f"Bearer {_token(settings.query_token_file)}"} if settings.query_token_file else {}
        )
        self._pool = urllib3.PoolManager(retries=False, maxsize=_CONNECTIONS)

    def view(self, name: str, **parameters: Any) -> pa.Table:
        """Return the rows of a view; `parameters` are the view's own, or since_ns, until_ns, limit and order.

        Raises StoreError, with the correlator's sentence, where it cannot answer or cannot be reached.
        """
        return self._arrow(f"/api/view/{name}", parameters)

    def table(self, name: str, **parameters: Any) -> pa.Table:
        """Return the rows of a table, as stored; parameters and errors as for `view`."""
        return self._arrow(f"/api/table/{name}", parameters)

    def rows(self, table: str, **parameters: Any) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a table as they come, for tables larger than memory; raise StoreError as `view` does."""
        path = f"/api/table/{table}"
        answer = self.get(path, parameters, whole=False)
        try:
            with pa.ipc.open_stream(answer) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError, urllib3.exceptions.HTTPError) as error:
            raise StoreError(f"query api {self.url}{path}: the answer broke off: {error}") from None
        finally:
            answer.close()

    def views(self) -> list[dict[str, Any]]:
        """Return what views there are: name, doc, parameters, and columns with their types. Raises StoreError."""
        return list(self.get("/api/views").json())

    def rules(self) -> list[dict[str, Any]]:
        """Return the alert rules in force: name, summary, severity, thresholds, SQL. Raises StoreError."""
        return list(self.get("/api/rules").json())

    def evaluate_rules(
        self, since_ns: int, until_ns: int, progress: Callable[[float], None] = lambda share: None
    ) -> int:
        """Evaluate the alert rules on the time of a window that was replayed; return how often one fired.

        `progress` and errors are as for `test_rule`.
        """
        fields = {"since_ns": since_ns, "until_ns": until_ns}
        return int(self._followed("/api/rules/evaluate", fields, progress, "POST")["firings"])

    def test_rule(
        self,
        rule: str,
        since_ns: int,
        until_ns: int,
        progress: Callable[[float], None] = lambda share: None,
        **thresholds: float,
    ) -> dict[str, Any]:
        """Return when a rule would have fired on what is stored of a window, with these thresholds where given.

        It holds `firings` (rule, labels, summary, start_ns, end_ns), `step_ns` between two evaluations, and `no_data`: why
        the rule could say nothing for a time. `progress` is told how much is done, from 0 to 1; what it raises ends the test
        in the correlator too. Raises StoreError as `view` does.
        """
        fields = {"rule": rule, "since_ns": since_ns, "until_ns": until_ns, **thresholds}
        return self._followed("/api/rules/test", fields, progress)

    def disk(self) -> dict[str, Any]:
        """Return the store's days with their bytes, what is left on its disk, and its bounds. Raises StoreError."""
        return dict(self.get("/api/disk").json())

    def kept(self) -> list[dict[str, Any]]:
        """Return the windows asked of flight recorders lately: cause, node, since_ns, until_ns. Raises StoreError."""
        return list(self.get("/api/kept").json())

    def keep(self, **window: Any) -> list[dict[str, Any]]:
        """Ask collectors for what they recorded: of since_ns, until_ns and node, or around request and start_ns.

        Returns the windows that were asked for, by node. Raises StoreError.
        """
        return list(self.get("/api/keep", window, method="POST").json())

    def progress(self) -> tuple[bool, bool]:
        """Return whether all that was acknowledged is stored, and whether all of it is joined too. Raises StoreError."""
        said = self.get("/api/progress").json()
        return bool(said["stored"]), bool(said["joined"])

    def join_now(self) -> None:
        """Have the joins begin at once. Raises StoreError."""
        self.get("/api/join", method="POST")

    def get(
        self, path: str, parameters: dict[str, Any] | None = None, method: str = "GET", whole: bool = True
    ) -> urllib3.BaseHTTPResponse:
        """Return the answer to a request of any path of the API, its body read where it is to be `whole`.

        Raises StoreError where it is no success.
        """
        fields = {name: str(value) for name, value in (parameters or {}).items() if value is not None}
        url = f"{self.url}{path}?{urllib.parse.urlencode(fields)}"
        try:
            timeout = _AT_ONCE if whole else _SORTED_FIRST
            answer = self._pool.request(method, url, headers=self._headers, preload_content=whole, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            raise StoreError(f"query api {self.url}: {_reason(error)}; is `warpline correlate` running?") from None
        if answer.status not in (200, 202):
            raise StoreError(_sentence(self.url, answer))
        return answer

    def _followed(
        self, path: str, fields: dict[str, Any], progress: Callable[[float], None], method: str = "GET"
    ) -> dict[str, Any]:
        """Return the last line of an answer in lines of JSON, those before being its progress."""
        answer = self.get(path, fields, method, whole=False)
        try:
            for line in answer:
                said: dict[str, Any] = json.loads(line)
                if "error" in said:
                    raise StoreError(said["error"])
                if "progress" not in said:
                    return said
                progress(said["progress"])
            raise ValueError("no more came")
        except (ValueError, OSError, urllib3.exceptions.HTTPError) as error:
            raise StoreError(f"query api {self.url}{path}: the answer broke off: {error}") from None
        finally:
            answer.close()

    def _arrow(self, path: str, parameters: dict[str, Any]) -> pa.Table:
        body = self.get(path, parameters).data
        try:
            with pa.ipc.open_stream(body) as reader:
                return reader.read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"query api {self.url}{path}: the answer broke off: {error}") from None


def _token(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").split()[0]
    except (OSError, IndexError, UnicodeDecodeError) as error:
        raise SettingsError(f"query_token_file {path}: {error}; give a file with one token") from None


def _sentence(url: str, answer: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"query api {url}: answered with status {answer.status}"


def _reason(error: Exception) -> str:
    return str(error.args[-1] if error.args else error).rpartition(": ")[2]
