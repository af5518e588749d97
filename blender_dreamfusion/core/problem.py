"""Something that went wrong, in the user's words, with the way out."""

import re
from pathlib import Path
from typing import NamedTuple

CONTINUE_FIX = "Continue it in the history: it goes on from its last checkpoint."
OUT_OF_MEMORY_FIX = "Close other programs and continue the job in the history, or generate again with a lower quality."
OTHER_PYTHON_FIX = "Set the engine up again, or choose another Python, in the add-on's preferences."
# How libraries say that memory is full when they take the whole process with them.
_MEMORY_WORDS = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|CUBLAS_STATUS_ALLOC_FAILED|bad_alloc|allocate memory|not enough memory", re.IGNORECASE
)
# A fix of the engine is worded for the command line; these are the places of the same things in Blender.
_RESUME = re.compile(r"\b(U|u|T|t|C|c)(?:se|ry again with|ontinue it with|ontinue with) --resume\b(?: to continue it)?")
_IN_BLENDER = (
    (re.compile(r"--overwrite\b"), "delete it there"),
    (re.compile(r"--out\b"), "jobs folder"),
)
_FLAG = re.compile(r"--([a-z][a-z0-9.\-]*[a-z0-9])")


class Problem(NamedTuple):
    """One sentence, one fix, and where the details are. `code` is the engine's word, or ours: "exit", "hang", "start", ..."""

    text: str
    fix: str = ""
    code: str = "error"
    log_path: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.fix}".strip()


def fix_in_blender(fix: str) -> str:
    """A fix of the engine without the flags of its command line: "Use --seed 0." becomes "Use seed 0."."""
    fix = _RESUME.sub(lambda match: f"{'C' if match[1].isupper() else 'c'}ontinue it in the history", fix)
    for pattern, words in _IN_BLENDER:
        fix = pattern.sub(words, fix)
    return _FLAG.sub(lambda match: match[1].replace("-", "_"), fix)


def exit_problem(returncode: int, log_path: Path, log_start: int = 0) -> Problem:
    """Why an engine that ended by itself may have ended.

    Args:
        returncode: as subprocess gives it (negative: a signal).
        log_start: byte of the log at which its own lines begin.
    """
    log = str(log_path)
    lines = last_lines(log_path, log_start)
    if returncode not in (0, -9, 137) and any(_MEMORY_WORDS.search(line) for line in lines):
        return Problem("The engine ran out of memory.", OUT_OF_MEMORY_FIX, "memory", log)
    if returncode in (-9, 137):
        return Problem("The engine was killed by the system, most likely because memory ran out.", OUT_OF_MEMORY_FIX, "memory", log)
    if returncode in (-11, 139, 0xC0000005, 0xC0000005 - (1 << 32)):
        fix = f"{CONTINUE_FIX} If it comes back, the log helps: {log}"
        return Problem("The engine crashed inside one of its libraries.", fix, "exit", log)
    if returncode in (0xC0000135, 0xC0000135 - (1 << 32), 127):
        return Problem("The engine's Python lacks a library of the system.", OTHER_PYTHON_FIX, "start", log)
    last = lines[-1] if lines else ""
    text = f"The engine ended unexpectedly (exit code {returncode})" + (f": {last.rstrip('.')}." if last else ".")
    return Problem(text, f"The whole log is in {log}", "exit", log)


def last_lines(path: Path, start: int = 0, max_chars: int = 200) -> list[str]:
    """The last lines with text in a log, from byte `start` on; empty if there are none."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - 8192) if start <= end else 0)  # a log that was begun anew meanwhile is shorter
            lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines()]
    except OSError:
        return []
    return [line[-max_chars:] for line in lines if line]


def start_problem(error: OSError, python: str, log_path: Path) -> Problem:
    """Why the engine could not be started at all."""
    text = f"The engine could not be started ({error.strerror or error}): {python}."
    if isinstance(error, FileNotFoundError):
        text = f"The engine's Python is not there: {python}."
    elif isinstance(error, PermissionError):
        text = f"The engine's Python may not be run: {python}."
    return Problem(text, "Choose it again in the add-on's preferences.", "start", str(log_path))
