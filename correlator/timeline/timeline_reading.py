"""The bars of one scope, read by a thread of their own: what is there to draw is known long before all of it is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from correlator.timeline import timeline_bars, timeline_draw
from correlator.timeline.timeline_bars import ScopeBars
from correlator.timeline.timeline_catalogue import Catalogue
from correlator.timeline.timeline_preview import Preview
from correlator.timeline.timeline_scope import Scope, Views, rows


class Reading:
    """The bars of a scope, and while they are not all there, what is drawn of those that are."""

    def __init__(self, views: Views, scope: Scope, most_bytes: int) -> None:
        """Learn what there is; `start` reads it, to keep where it takes no more than `most_bytes`."""
        self._began, self._given = time.monotonic(), (views, scope, most_bytes)
        self.catalogue = Catalogue(rows(views, "timeline_kind", scope.parameters()))
        self.preview: Preview | None = None
        if timeline_draw.library is not None and timeline_bars.fits(self.catalogue, most_bytes):
            self.preview = Preview(self.catalogue, scope.to_ns - scope.from_ns)
        self.took_s = 0.0
        self._found: Future[ScopeBars] = Future()

    def start(self, then: Callable[[], None]) -> None:
        """Begin to read; when all is there, do what comes then."""
        threading.Thread(target=self._read, args=(then,), name="timeline-bars", daemon=True).start()

    def _read(self, then: Callable[[], None]) -> None:
        try:
            bars = timeline_bars.load(self.catalogue, *self._given, self.preview)
            bars.prepare()
        except BaseException as error:  # Whoever waits for the bars raises it.
            self._found.set_exception(error)
            return
        self.took_s = time.monotonic() - self._began
        self.preview = None
        self._found.set_result(bars)
        then()

    @property
    def done(self) -> bool:
        """Whether all bars are there, or cannot be."""
        return self._found.done()

    @property
    def failed(self) -> bool:
        """Whether the bars could not be read."""
        return self._found.done() and self._found.exception() is not None

    def bars(self) -> ScopeBars:
        """Return the bars once all are there; raise what went wrong."""
        return self._found.result()

    def early(self, patience_s: float) -> Preview | None:
        """Return what is drawn so far where reading takes longer than that; None where bars are there or waited for."""
        preview = self.preview
        if preview is None:
            return None
        try:
            self._found.exception(patience_s)
        except TimeoutError:
            return preview
        return None
