"""Work that takes minutes and is no job: setting the engine up, fetching a model. Runs beside Blender, reports, can be cancelled.

A task is anything with `poll() -> TaskState` (never waits; main thread) and `cancel()`. Two kinds: a process that prints JSON lines
(`TaskProcess`), and a function in a thread (`ThreadTask`) for what needs no Python but Blender's own. No bpy.

A line of a task process, all fields but `type` optional:
    {"type": "progress", "phase": "torch", "done": 120, "of": 190, "unit": "MB", "text": "Downloading torch"}
    {"type": "log", "text": "..."}                         goes into the log file only
    {"type": "done", "text": "...", "result": {...}}       the last line of a task that succeeded
    {"type": "failed", "text": "...", "fix": "..."}        the last line of one that did not
Its stdin stays open as long as Blender lives: a task process ends when it reads the end of it.
"""

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .engine_process import scrubbed_environment
from .problem import exit_problem, start_problem
from .process_tree import detached, kill_tree, terminate_tree
from .task_state import TaskState, TaskStatus

# From the request to end to the end by force. The promise to the user is five seconds.
CANCEL_GRACE_S = 3.0
# A line longer than this is no message of ours.
MAX_LINE_BYTES = 1 << 20
# Lines that one `poll` applies: a program that prints without pause must not hold Blender.
MAX_LINES_PER_POLL = 200


class TaskProcess:
    """A program that prints JSON lines; its stderr goes to the log, before which the command is written.

    Args:
        command: program and arguments.
        log_path: is begun anew. Its folder is created.
        env: the program's environment; left out: ours without what leads another Python astray.
    A program that cannot be started is a failed task, not an exception.
    """

    def __init__(self, command: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None) -> None:
        self.log_path = log_path
        self._state = TaskState()
        self._begun = time.monotonic()
        self._kill_at = float("inf")
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        environment = dict(env) if env is not None else scrubbed_environment(os.environ)
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            with log_path.open("wb") as log:
                log.write(f"$ {subprocess.list2cmdline(command)}\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=log_path.parent,
                    env=environment,
                    **detached(),
                )
        except OSError as error:
            problem = start_problem(error, command[0], log_path)
            text = problem.text.replace("The engine's Python", "The program").replace("The engine", "The program")
            self._state = TaskState(TaskStatus.FAILED, text=text, fix="Choose another Python in the add-on's preferences.")
            return
        threading.Thread(target=self._read, name="dreamfusion-task", daemon=True).start()

    def poll(self) -> TaskState:
        """Apply what the program said since the last call. Never waits."""
        if not self._state.is_active:
            return self._state
        for _ in range(MAX_LINES_PER_POLL):
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
            if line is None:
                self._end(self._process.poll() if self._process else None)
            else:
                self._take(line)
            if not self._state.is_active:
                break
        if self._state.is_active and time.monotonic() > self._kill_at:
            self._end(None)
        self._state = self._state._replace(seconds=time.monotonic() - self._begun)
        return self._state

    def cancel(self) -> None:
        """Ask the program to end; a later `poll` ends it by force after CANCEL_GRACE_S."""
        if self._state.status is TaskStatus.RUNNING and self._process is not None:
            self._state = self._state._replace(status=TaskStatus.CANCELLING)
            self._kill_at = time.monotonic() + CANCEL_GRACE_S
            terminate_tree(self._process)

    def kill(self) -> None:
        """End the program and what it started, now: Blender ends, or the extension is disabled."""
        if self._state.is_active and self._process is not None:
            self._state = self._state._replace(status=TaskStatus.CANCELLING)
            self._end(None)

    def _end(self, returncode: int | None) -> None:
        """The output is over, or the program has to go (`returncode` None)."""
        assert self._process is not None
        self._close_input()
        if returncode is None or self._state.status is TaskStatus.CANCELLING:
            kill_tree(self._process)  # also children that outlived it
        try:
            returncode = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            returncode = None
        if self._state.status is TaskStatus.CANCELLING:
            self._state = self._state._replace(status=TaskStatus.CANCELLED, text="Cancelled.", fix="")
        elif self._state.is_active:
            problem = exit_problem(returncode or 0, self.log_path)
            self._state = self._state._replace(
                status=TaskStatus.FAILED, text=problem.text.replace("The engine", "The program"), fix=problem.fix
            )

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            kind = message["type"]
        except (ValueError, KeyError, TypeError):
            self._log(line.decode("utf-8", errors="replace").rstrip())
            return
        text, fix = str(message.get("text", "")), str(message.get("fix", ""))
        if kind == "progress":
            self._state = self._state._replace(
                phase=str(message.get("phase", self._state.phase)),
                done=_number(message.get("done")),
                of=_number(message.get("of")),
                unit=str(message.get("unit", "")),
                text=text,
            )
        elif kind == "done" and self._state.status is TaskStatus.RUNNING:
            result = message.get("result")
            result = result if isinstance(result, dict) else {}
            self._state = self._state._replace(status=TaskStatus.DONE, done=self._state.of, text=text, fix=fix, result=result)
            self._close_input()
        elif kind == "failed" and self._state.status is TaskStatus.RUNNING:
            self._state = self._state._replace(status=TaskStatus.FAILED, text=text, fix=fix)
            self._close_input()
        elif kind == "log":
            self._log(text)

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                pass

    def _log(self, text: str) -> None:
        try:
            with self.log_path.open("a", encoding="utf-8") as log:
                log.write(f"{text}\n")
        except OSError:  # a full disk must not keep the task from ending
            pass

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                self._lines.put(line)
        self._process.wait()
        self._lines.put(None)


class ThreadTask:
    """A function in a thread, for work that needs no program: looking at the machine, deleting a folder.

    Args:
        work: gets `report(done, of, unit, text)`, which raises `StoppedError` once the task was cancelled; returns the task's result.
            An OSError or ValueError it raises is the failed task's text.
    """

    def __init__(self, work: Callable[[Callable[..., None]], dict[str, Any]]) -> None:
        self._state = TaskState()
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._work = work
        threading.Thread(target=self._run, name="dreamfusion-task", daemon=True).start()

    def poll(self) -> TaskState:
        state = self._state
        return state._replace(seconds=time.monotonic() - self._begun) if state.is_active else state

    def cancel(self) -> None:
        self._stop.set()

    kill = cancel

    def _report(self, done: float = 0.0, of: float = 0.0, unit: str = "", text: str = "") -> None:
        if self._stop.is_set():
            raise StoppedError
        self._state = self._state._replace(done=done, of=of, unit=unit, text=text)

    def _run(self) -> None:
        try:
            result = self._work(self._report)
            self._state = self._state._replace(status=TaskStatus.DONE, text=str(result.get("text", "")), result=result)
        except StoppedError:
            self._state = self._state._replace(status=TaskStatus.CANCELLED, text="Cancelled.")
        except (OSError, ValueError) as error:
            self._state = self._state._replace(status=TaskStatus.FAILED, text=str(error))
        except Exception as error:  # noqa: BLE001 - a thread that dies silently would leave a bar that never moves
            self._state = self._state._replace(status=TaskStatus.FAILED, text=f"This went wrong: {error!r}.")


class StoppedError(Exception):
    """The task was cancelled."""


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
