"""The set-up's work as tasks (core/task_process.py): look at the machine, install, check a Python, remove. No bpy."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import install_engine
from .hardware import find_gpus, find_pythons, platform_tag
from .install_engine import CACHE, MARKER, TEMPORARY, VENV, WATCH
from .setup_plan import Findings, SetupPlan, read_builds
from .task_process import TaskProcess, ThreadTask

SCRIPT = Path(install_engine.__file__)
PHASES = ("venv", "pip", "torch", "packages", "check")


def installed_python(folder: Path) -> Path | None:
    """The Python of a finished engine in the folder, None if there is none (or its base Python is gone)."""
    state = install_engine.read_state(folder)
    python = install_engine.venv_python(folder)
    return python if state is not None and state.get("is_complete") and python.exists() else None


def examine(folder: Path, pythons: Sequence[str]) -> Findings:
    """Look at the machine and the folder; takes seconds. `pythons`: paths to prefer as the base. Changes nothing."""
    state = install_engine.read_state(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return Findings(
        platform=platform_tag(),
        gpus=tuple(find_gpus()),
        pythons=tuple(find_pythons(pythons)),
        folder=str(folder),
        folder_kind=folder_kind(folder),
        free_mb=shutil.disk_usage(existing).free / 1e6,
        installed_mb=folder_bytes(folder) / 1e6 if state is not None else 0.0,
        phases=tuple(state["phases"]) if state is not None else (),
        is_complete=installed_python(folder) is not None,
    )


def folder_kind(folder: Path) -> str:
    """ "new", "empty", "ours", "foreign", "file" or "locked" (not writable)."""
    if folder.exists() and not folder.is_dir():
        return "file"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        if not folder.exists():
            return "new"
        if (folder / MARKER).is_file():
            return "ours"
        return "foreign" if any(folder.iterdir()) else "empty"
    except OSError:
        return "locked"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below; links and what vanishes meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def examine_task(folder: Path, pythons: Sequence[str], package_root: Path) -> ThreadTask:
    """The result's "findings" are a `Findings`, its "table" the `BuildTable` of this system."""
    return ThreadTask(
        lambda _report: {"findings": examine(folder, pythons), "table": read_builds(package_root, platform_tag())},
    )


def install_task(plan: SetupPlan, log_path: Path) -> TaskProcess:
    """Install, or go on with what was broken off."""
    return TaskProcess([plan.base_python, "-I", "-u", str(SCRIPT), "install", plan.to_json(), WATCH], log_path)


def check_task(python: Path, package_root: Path, log_path: Path) -> TaskProcess:
    """Does this Python run the engine? The end's text is the sentence."""
    launcher = package_root / "blender_dreamfusion" / "core" / "launch_engine.py"
    return TaskProcess([str(python), "-I", "-u", str(SCRIPT), "check", json.dumps({"launcher": str(launcher)}), WATCH], log_path)


def remove_task(folder: Path) -> ThreadTask:
    return ThreadTask(lambda report: remove(folder, report))


def remove(folder: Path, report: Callable[..., None]) -> dict[str, Any]:
    """Delete the engine in a folder with our marker, and nothing that is not ours in it. Can be broken off and repeated.

    Raises: ValueError if the folder carries no marker; OSError.
    """
    if not (folder / MARKER).is_file():
        raise ValueError(f"{folder} holds no engine that was set up here, so nothing was deleted. Delete it yourself if you are sure.")
    report(text="Counting")
    parts = [folder / name for name in (VENV, CACHE, TEMPORARY)]
    total = max(1, sum(folder_bytes(part) for part in parts))
    done = 0
    for part in parts:
        if part.is_symlink():  # what it points to is not ours
            part.unlink()
            continue
        for parent, names, files in os.walk(part, topdown=False):
            for name in files:
                path = os.path.join(parent, name)
                done += os.lstat(path).st_size
                _delete(os.unlink, path)
            for name in names:
                path = os.path.join(parent, name)
                _delete(os.unlink if os.path.islink(path) else os.rmdir, path)
            report(done / 1e6, total / 1e6, "MB", "Removing the engine")
        if part.is_dir():
            part.rmdir()
    # The marker last: what is left of a removal that was broken off is still ours.
    for name in (MARKER + ".partial", MARKER):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
        return {"text": "The engine was removed."}
    return {"text": f"The engine was removed; other files in {folder} were left alone."}


def _delete(delete: Callable[[str], None], path: str) -> None:
    try:
        delete(path)
    except PermissionError as error:
        if sys.platform == "win32":  # read-only files can be deleted after the flag is taken off
            os.chmod(path, 0o700)
            delete(path)
            return
        raise OSError(f"{path} cannot be deleted ({error.strerror}). End the program that uses it, then remove again.") from error
