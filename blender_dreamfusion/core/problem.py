"""Something that went wrong, in the user's words, with the way out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OUT_OF_MEMORY_FIX = "Close other programs or take a smaller preset, then generate again."


@dataclass(frozen=True)
class Problem:
    """One sentence, one fix, and where the details are. `code` is the engine's word, or ours: "exit", "hang", "start", ..."""

    text: str
    fix: str = ""
    code: str = "error"
    log_path: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.fix}".strip()


def exit_problem(returncode: int, log_path: Path) -> Problem:
    """Why an engine that ended by itself may have ended. `returncode` as subprocess gives it (negative: a signal)."""
    log = str(log_path)
    if returncode in (-9, 137):
        return Problem("The engine was killed by the system, most likely because memory ran out.", OUT_OF_MEMORY_FIX, "memory", log)
    if returncode in (-11, 139, 0xC0000005, 0xC0000005 - (1 << 32)):
        fix = f"Generate again; if it comes back, the log helps: {log}"
        return Problem("The engine crashed inside one of its libraries.", fix, "exit", log)
    if returncode in (0xC0000135, 0xC0000135 - (1 << 32), 127):
        return Problem("The engine's Python lacks a library of the system.", "Choose another Python in the preferences.", "start", log)
    last = last_line(log_path)
    text = f"The engine ended unexpectedly (exit code {returncode})" + (f": {last.rstrip('.')}." if last else ".")
    return Problem(text, f"The whole log is in {log}", "exit", log)


def last_line(path: Path, max_chars: int = 200) -> str:
    """The last line with text in a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
            lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    return next((line[-max_chars:] for line in reversed(lines) if line), "")


def start_problem(error: OSError, python: str, log_path: Path) -> Problem:
    """Why the engine could not be started at all."""
    text = f"The engine could not be started ({error.strerror or error}): {python}."
    if isinstance(error, FileNotFoundError):
        text = f"The engine's Python is not there: {python}."
    elif isinstance(error, PermissionError):
        text = f"The engine's Python may not be run: {python}."
    return Problem(text, "Choose it again in the add-on's preferences.", "start", str(log_path))
