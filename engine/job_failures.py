"""How a job that came to no result ended: every exception as a sentence with the fix, and the exit code. No torch here."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from engine.errors import UserError
from engine.protocol import CANCELLED, Failed

logger = logging.getLogger(__name__)

DONE, FAULT, MENDABLE, STOPPED = 0, 1, 2, 130


class JobCancelledError(Exception):
    """The user ended the job."""


def failure_of(error: Exception, job: str, folder: Path | None, out_dir: Path) -> tuple[Failed, int]:
    """The last event of a job that `error` ended, and its exit code.

    Args:
        folder: the job's folder, None while it was not made; a fault of the engine leaves its traceback there.
        out_dir: where it was to be.
    """
    if isinstance(error, JobCancelledError):
        return Failed(job=job, code=CANCELLED, text="The job was cancelled.", fix="Continue it with --resume."), STOPPED
    if isinstance(error, UserError):
        return Failed(job=job, code=error.code, text=error.text, fix=error.fix), MENDABLE
    if isinstance(error, ModuleNotFoundError):
        fix = "Set the engine up again, or install requirements/engine.txt into this Python."
        return Failed(job=job, code="setup", text=f"The engine's Python has no package {error.name}.", fix=fix), MENDABLE
    if is_out_of_memory(error):
        fix = "Close other programs, or use a smaller --training.batch-size or --device cpu."
        return Failed(job=job, code="memory", text="The memory is full.", fix=fix), MENDABLE
    return _fault(error, job, folder, out_dir), FAULT


def is_out_of_memory(error: Exception) -> bool:
    """torch's own error by its name (torch may not be imported here), and what its libraries raise as RuntimeError."""
    words = ("out of memory", "alloc_failed", "allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(word in str(error).lower() for word in words)


def _fault(error: Exception, job: str, folder: Path | None, out_dir: Path) -> Failed:
    """A sentence for the user; the traceback goes to error.log in the job folder, or to the log."""
    logger.error("a fault of the engine", exc_info=error)
    text = f"The engine hit a fault of its own ({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no text'})."
    if folder is None:
        return Failed(job=job, code="internal", text=text, fix=f"Try another --out than {out_dir}.")
    try:
        (folder / "error.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return Failed(job=job, code="internal", text=text, fix="Try again with --resume.")
    return Failed(job=job, code="internal", text=text, fix=f"Report it with {folder / 'error.log'}.")
