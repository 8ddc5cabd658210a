"""Answers that were given lately: what ten people ask for at once is worked out once, what they ask for again not at all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future


class Answers:
    """Answers by what was asked, the latest `most_bytes` of them. Safe to share between threads.

    Nothing is ever dropped for being old: a key says which reading of the store its answer comes from.
    """

    def __init__(self, most_bytes: int) -> None:
        """Keep up to `most_bytes`."""
        self._most, self._size = most_bytes, 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._running: dict[Hashable, Future[bytes]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the answer to `key`; of several that ask for one that is not there, one makes it and the others wait.

        What `make` raises, all of them raise, and the next one to ask tries again.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            running = self._running.get(key)
            if running is None:
                mine = self._running[key] = Future()
        if running is not None:
            return running.result()
        try:
            answer = make()
        except BaseException as error:
            with self._lock:
                del self._running[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            self._keep(key, answer)
        mine.set_result(answer)
        return answer

    def _keep(self, key: Hashable, answer: bytes) -> None:
        self._kept[key] = answer
        self._size += len(answer)
        while self._size > self._most:
            self._size -= len(self._kept.popitem(last=False)[1])
