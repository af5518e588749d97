"""What every operator that starts jobs does with them: into the line, and in the background wait for their end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import bpy

from ..core.deferred import Deferred
from ..core.job_state import Status
from ..core.naming import new_job_folder
from ..core.protocol import messages
from ..core.queue import QueueEntry
from ..core.settings import NOT_SET_UP
from . import preferences, runtime

if TYPE_CHECKING:
    from ..core import terminal
else:  # used without a window
    terminal = Deferred(".terminal")


def begin(operator: bpy.types.Operator, context: bpy.types.Context, entries: Sequence[QueueEntry]) -> set[str]:
    """Run `entries` one after the other; what goes wrong is the operator's error. Returns what its execute returns."""
    preferences.forget_cache()
    if preferences.engine_python(context) is None:
        return refuse(operator, str(NOT_SET_UP))
    try:
        for entry in entries:
            runtime.enqueue(entry)
    except messages.ProtocolError:
        return refuse(operator, "The prompt is too long. Keep it under 1,000 characters.")
    except OSError as error:
        return refuse(operator, f"The job could not be started: {error}.")
    if bpy.app.background:
        return _wait(operator, [entry.folder for entry in entries])
    problem = runtime.problem()  # the engine could not even be started
    return {"FINISHED"} if problem is None else refuse(operator, str(problem))


def new_folder(context: bpy.types.Context, prompt: str, taken: Sequence[str] = ()) -> Path:
    """A job folder that neither exists nor is spoken for. Raises: OSError if the jobs folder cannot be made."""
    jobs = preferences.jobs_folder(context)
    jobs.mkdir(parents=True, exist_ok=True)  # the engine makes the job's own folder, but not those above
    return new_job_folder(jobs, prompt, datetime.now(), taken=(*taken, *runtime.queue().folders))


def refuse(operator: bpy.types.Operator, text: str) -> set[str]:
    operator.report({"ERROR"}, text)
    return {"CANCELLED"}


def _wait(operator: bpy.types.Operator, folders: Sequence[str]) -> set[str]:
    progress = terminal.TerminalProgress(sys.stdout)
    end = runtime.wait(progress.show)
    progress.finish(end)
    runtime.release_engine()
    problems = [problem for folder in folders if (problem := runtime.failure_of(folder)) is not None]
    if problems:
        return refuse(operator, str(problems[0]))
    return {"FINISHED"} if end.status is Status.DONE else {"CANCELLED"}
