"""Processes with all their children: started so that they can be ended together. No bpy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

# taskkill answers at once; a machine that is busy writing memory out may need longer, and Blender's main thread waits for it.
TASKKILL_WAIT_S = 3.0


def detached() -> dict[str, Any]:
    """Popen arguments: a group of its own (so all of it can be killed, and Ctrl-C in a terminal stays with Blender), no window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def terminate_tree(process: subprocess.Popen[bytes]) -> None:
    """Ask the process and its children to end. Windows knows no such question for programs without a window: there it is `kill_tree`."""
    if sys.platform == "win32":
        kill_tree(process)
    else:
        _signal_group(process.pid, signal.SIGTERM)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children, now."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TASKKILL_WAIT_S,
            creationflags=subprocess.CREATE_NO_WINDOW,
            check=False,
        )
    else:
        _signal_group(process.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # gone; macOS says "not permitted" of a group of zombies
        pass
