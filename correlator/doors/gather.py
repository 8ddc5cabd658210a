"""Small requests for spans that wait at the same moment are taken together: one scan, one batch, one record of the spool.

What Python does for a request costs as much as two thousand spans do; a batch of 512 pays it four times over. Whoever
comes while nobody is at it takes all that wait, and hands on to the first of those who came meanwhile when all of its own
are on disk: a request that comes alone waits for nobody. Why not as soon as they are decoded: those who came meanwhile
would wait for the same disk, by ones and twos (4 senders: 1.5 requests at a time in place of 3.9; 16: 3.3 in place of 15.8).

Such a batch is named by the bytes of all its requests. One of them that is sent again, alone or with others, has another
name then: its spans are known by their ids (`correlator/storage/spans.py`), and a span without a time, which has no other
identity than its request's, is never taken together with others (`warpline.otlp.decode_together`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from warpline import otlp
from warpline.otlp import Decoded, Signal

log = logging.getLogger(__name__)

SMALL_BYTES = 256 << 10
"""What a request may have at most: of larger ones each is worth its own batch, and they can be decoded at the same time."""
_MOST_BYTES = 4 << 20
_MOST_REQUESTS = 64
_LULL_S = 0.001
"""How long one waits for as many as were taken together before it: they were answered at once, so they come at once."""

Decode = Callable[[Signal, bytes, str], Decoded]
Keep = Callable[[Sequence[Decoded]], None]


class _Asked:
    """One request: whoever sent it waits until `woken`, to find the answer, or that it is its turn."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.woken = threading.Event()
        self.answer: Decoded | Exception | None = None


class Gather:
    """Takes small requests for spans, from many threads."""

    def __init__(self, decode: Decode, keep: Keep, keep_content: bool) -> None:
        """`decode` reads one request, raising Malformed; `keep` returns once all that was decoded is on disk, or raises."""
        self._decode, self._keep, self._keep_content = decode, keep, keep_content
        self._guard = threading.Condition()
        self._waiting: list[_Asked] = []
        self._busy = False
        self._usual = 1

    @staticmethod
    def wants(signal: Signal, body: bytes, content_type: str) -> bool:
        """Say whether a request is one to be taken together with others."""
        return signal == "traces" and content_type == otlp.PROTOBUF and len(body) <= SMALL_BYTES

    def take(self, body: bytes) -> Decoded:
        """Return what a request held once it is on disk; raise what `decode` or `keep` raised of it."""
        mine = _Asked(body)
        with self._guard:
            self._waiting.append(mine)
            first, self._busy = not self._busy, True
            if len(self._waiting) == self._usual:
                self._guard.notify()
        if not first:
            mine.woken.wait()
        if mine.answer is None:
            self._take_waiting()
        if isinstance(mine.answer, Decoded):
            return mine.answer
        assert mine.answer is not None
        raise mine.answer

    def _take_waiting(self) -> None:
        """Take those who wait, the caller first among them, and tell each its answer."""
        group = self._next_group()
        found: list[Decoded | Exception] = []
        try:
            found = self._decoded([each.body for each in group])
            self._keep([each for each in found if isinstance(each, Decoded)])
        except Exception as error:  # Each of them has to hear of it, whatever it is: they wait.
            found = [each if isinstance(each, Exception) else error for each in found or [error] * len(group)]
        finally:
            self._hand_on()
        for each, answer in zip(group, found, strict=True):
            each.answer = answer
            each.woken.set()

    def _next_group(self) -> list[_Asked]:
        with self._guard:
            self._guard.wait_for(lambda: len(self._waiting) >= self._usual, _LULL_S)
            size = count = 0
            for each in self._waiting[:_MOST_REQUESTS]:
                size += len(each.body)
                if count and size > _MOST_BYTES:
                    break
                count += 1
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            self._usual = count
        return group

    def _hand_on(self) -> None:
        """Let the first of those who came meanwhile be next."""
        with self._guard:
            self._busy = bool(self._waiting)
            if self._waiting:
                self._waiting[0].woken.set()

    def _decoded(self, bodies: Sequence[bytes]) -> list[Decoded | Exception]:
        """Return what each request held; of requests that are one batch now, the first one has it."""
        together = self._together(bodies) if len(bodies) > 1 else None
        if together is not None:
            return [together, *(Decoded() for _ in bodies[1:])]
        found: list[Decoded | Exception] = []
        for body in bodies:
            try:
                found.append(self._decode("traces", body, otlp.PROTOBUF))
            except Exception as error:  # Malformed, or a bug: nothing that the others should hear of.
                found.append(error)
        return found

    def _together(self, bodies: Sequence[bytes]) -> Decoded | None:
        try:
            return otlp.decode_together(bodies, self._keep_content)
        except Exception:
            log.exception("requests that cannot be decoded together are decoded one by one")
            return None
