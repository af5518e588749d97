"""Events as lines for a human: phase, bar, seconds a step, time left. A terminal gets one line that changes."""

from __future__ import annotations

import shutil
import time
from typing import IO

from engine.protocol import CANCELLED, Event, Failed, Plan, Progress, Result, Warn

BAR_WIDTH = 24
# A log file gets a line now and then, not one a step.
PLAIN_EVERY_S = 5.0


class ProgressBar:
    """Writes to `stream`; a changing line if it is a terminal, plain lines now and then if not."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._is_open = False
        self._last_phase = ""
        self._last_plain = float("-inf")

    def show(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, Plan):
            self.say(f"Plan: {event.text}")
        elif isinstance(event, Warn):
            self.say(f"Warning: {event.text}")
        elif isinstance(event, Result):
            self.say(f"Done: {event.folder}")
        elif isinstance(event, Failed):
            self.say(f"{'Stopped' if event.code == CANCELLED else 'Error'}: {event.text} {event.fix}".rstrip())

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the changing line, so that what follows does not overwrite it."""
        if self._is_open:
            print(file=self._stream, flush=True)
            self._is_open = False

    def _progress(self, event: Progress) -> None:
        line = progress_line(event)
        if self._is_terminal:
            if event.phase != self._last_phase:
                self.close()
            width = shutil.get_terminal_size().columns - 1
            print("\r" + line[:width].ljust(width), end="", file=self._stream, flush=True)
            self._is_open = True
        elif event.phase != self._last_phase or time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            print(line, file=self._stream, flush=True)
        self._last_phase = event.phase


def progress_line(event: Progress) -> str:
    """ "train   [######------------------] 75/300  0.212 s/step  1:02 left"."""
    filled = round(BAR_WIDTH * event.step / event.of) if event.of else 0
    parts = [f"{event.phase:<7} [{'#' * filled}{'-' * (BAR_WIDTH - filled)}]", f"{event.step}/{event.of}" if event.of else ""]
    if event.seconds_per_step:
        parts.append(f"{event.seconds_per_step:.3f} s/step")
    if event.eta_s >= 0:
        seconds = round(event.eta_s)
        parts.append(f"{seconds // 60}:{seconds % 60:02d} left")
    parts.append(event.text)
    return "  ".join(part for part in parts if part)
