"""What a user may ask of a running job, from another thread.

Threads: the reader thread (or a signal handler) calls the asking methods; the training thread calls `wait_if_paused` and
the `..._changed` methods and reads the flags between two steps. Each flag only ever rises, but for pause.
"""

from __future__ import annotations

import threading
import time

from engine.protocol import SetView

# A user who turns the view of a paused job shall not notice that nobody is at work.
PAUSED_LOOK_S = 0.1


class Control:
    """Requests to a running job. Every method may be called from any thread and returns at once, but `wait_if_paused`."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._finishing = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._view: SetView | None = None
        self._view_is_new = False
        self._proxy_every_s = 0.0
        self._proxy_is_new = False
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def finishing(self) -> bool:
        return self._finishing.is_set()

    @property
    def paused(self) -> bool:
        return not self._running.is_set()

    def cancel(self) -> None:
        """End without a result."""
        self._cancelled.set()
        self._running.set()

    def finish(self) -> None:
        """Stop training and make the mesh of what is there."""
        self._finishing.set()
        self._running.set()

    def pause(self) -> None:
        if not (self.cancelled or self.finishing):
            self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def set_view(self, view: SetView | None) -> None:
        """Pictures through this camera, too; None: no more of them."""
        with self._lock:
            self._view, self._view_is_new = view, view is not None

    def view(self) -> SetView | None:
        """The view that previews shall show beside the turntable, if any."""
        with self._lock:
            return self._view

    def view_changed(self) -> bool:
        """Whether the view was set since the last call."""
        with self._lock:
            new, self._view_is_new = self._view_is_new, False
            return new

    def set_proxy(self, every_s: float) -> None:
        """A light mesh now and every so many seconds; 0: no more."""
        with self._lock:
            self._proxy_every_s, self._proxy_is_new = max(every_s, 0.0), every_s > 0

    def proxy_every_s(self) -> float:
        with self._lock:
            return self._proxy_every_s

    def proxy_changed(self) -> bool:
        """Whether a light mesh was asked for since the last call."""
        with self._lock:
            new, self._proxy_is_new = self._proxy_is_new, False
            return new

    def wait_if_paused(self) -> float:
        """Returns when the job is not paused, or when the view was set meanwhile; how many seconds that took."""
        if self._running.is_set():
            return 0.0
        start = time.monotonic()
        while not self._running.wait(PAUSED_LOOK_S) and not self._view_is_new:
            pass
        return time.monotonic() - start
