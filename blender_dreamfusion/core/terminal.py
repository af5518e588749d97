"""Progress of a job on a terminal: one line that is rewritten, or a line now and then where nobody rewrites (a log file)."""

from __future__ import annotations

import time
from typing import TextIO

from .job_state import JobState, duration, headline

BAR_WIDTH = 28
LOG_INTERVAL_S = 10.0


def progress_line(state: JobState, elapsed_s: float) -> str:
    """Phase, bar, step, seconds per step, time left, time passed."""
    parts = []
    if state.of > 1:
        n_full = round(BAR_WIDTH * state.fraction)
        parts.append(f"[{'#' * n_full}{'.' * (BAR_WIDTH - n_full)}]")
    if state.seconds_per_step > 0:
        parts.append(f"{state.seconds_per_step:.2f} s/step")
    parts.append(f"{duration(elapsed_s)} so far")
    return f"{headline(state):<40} {'  '.join(parts)}"


class TerminalProgress:
    """Writes the state of a job to a text stream whenever it is called with something new."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_terminal = stream, stream.isatty()
        self._begun = time.monotonic()
        self._last_phase, self._last_write, self._n_warnings = "", float("-inf"), 0

    def show(self, state: JobState) -> None:
        now = time.monotonic()
        for text in state.warnings[self._n_warnings :]:
            self._write_line(f"Warning: {text}")
        self._n_warnings = len(state.warnings)
        line = progress_line(state, now - self._begun)
        key = f"{state.status} {state.phase}"
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{line}")
        elif key != self._last_phase or now - self._last_write > LOG_INTERVAL_S:
            self._stream.write(f"{line}\n")
            self._last_write = now
        self._last_phase = key
        self._stream.flush()

    def finish(self, state: JobState) -> None:
        """End the rewritten line and say how it ended."""
        took = duration(time.monotonic() - self._begun)
        self._write_line(f"{state.status.value.capitalize()} after {took}." + (f" {state.problem}" if state.problem else ""))

    def _write_line(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")
        self._stream.flush()
