"""`python -m engine serve`: JSON lines on stdin and stdout for Blender. See protocol.py for the conversation.

Threads: the reader thread parses commands, sets flags of the running job's Control and queues new jobs; the heartbeat
thread writes a line each second; the main thread runs the jobs. Writing is under one lock. Stdout belongs to the messages
alone: file descriptor 1 is pointed at stderr, so that no library can write between them.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import IO

from engine.errors import UserError
from engine.jobs import run_job
from engine.protocol import (
    MAX_LINE_BYTES,
    Cancel,
    ClearView,
    Command,
    Event,
    Failed,
    FinishNow,
    Generate,
    Heartbeat,
    Hello,
    Pause,
    ProtocolError,
    Result,
    Resume,
    SetProxy,
    SetView,
    Shutdown,
    Warn,
    decode_command,
    encode,
)
from engine.training.control import Control
from engine.version import ENGINE_VERSION

HEARTBEAT_S = 1.0
# A step or a mesh phase ends well within this; a load that hangs does not, and must not outlive Blender.
EXIT_GRACE_S = 6.0


class Server:
    """One engine. `incoming` gives lines, `outgoing` takes them."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes], parent_pid: int = 0) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._parent_pid = parent_pid
        self._jobs: queue.SimpleQueue[tuple[Generate, Control] | None] = queue.SimpleQueue()
        self._write_lock = threading.Lock()
        self._job_lock = threading.Lock()
        self._job = ""
        self._control = Control()
        self._ending = threading.Event()

    def run(self) -> None:
        """Until shutdown or the end of stdin."""
        self._write(Hello(engine=ENGINE_VERSION, pid=os.getpid()))
        threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        while (queued := self._jobs.get()) is not None:
            command, control = queued
            run_job(command.request, Path(command.out_dir), self.emit, control, resume=command.resume, job=command.job)
        self._ending.set()

    def emit(self, event: Event) -> None:
        """An event of the running job, from any thread. A reader that is gone ends the engine."""
        if isinstance(event, (Result, Failed)):
            with self._job_lock:  # before the line is out: its reader may answer it with the next job at once
                self._job = ""
        self._write(event)

    def _write(self, event: Event) -> None:
        try:
            with self._write_lock:
                self._outgoing.write(encode(event).encode("utf-8"))
                self._outgoing.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._end()

    def _end(self) -> None:
        if self._ending.is_set():
            return
        self._ending.set()
        self._control.cancel()
        self._jobs.put(None)
        timer = threading.Timer(EXIT_GRACE_S, self._exit)
        timer.daemon = True
        timer.start()

    def _exit(self) -> None:
        os._exit(0)

    def _heartbeat(self) -> None:
        while not self._ending.wait(HEARTBEAT_S):
            if self._parent_pid and not _is_alive(self._parent_pid):
                self._end()
                return
            with self._job_lock:
                job = self._job
            state = "idle" if not job else "paused" if self._control.paused else "busy"
            self._write(Heartbeat(job=job, state=state))

    def _read(self) -> None:
        while line := self._incoming.readline(MAX_LINE_BYTES + 1):
            if not line.strip():
                continue
            try:
                command = decode_command(line)
            except ProtocolError as error:
                self._write(Warn(job=self._job, text=f"A command was not understood: {error}."))
                continue
            if isinstance(command, Shutdown):
                break
            if command is not None:
                self._obey(command)
        self._end()

    def _obey(self, command: Command) -> None:
        if isinstance(command, Generate):
            self._start(command)
            return
        with self._job_lock:
            if isinstance(command, Shutdown) or command.job != self._job or not self._job:
                return  # of a job that has just ended
            control = self._control
        if isinstance(command, Cancel):
            control.cancel()
        elif isinstance(command, Pause):
            control.pause()
        elif isinstance(command, Resume):
            control.resume()
        elif isinstance(command, FinishNow):
            control.finish()
        elif isinstance(command, SetView):
            control.set_view(command)
        elif isinstance(command, ClearView):
            control.set_view(None)
        elif isinstance(command, SetProxy):
            control.set_proxy(command.every_s)

    def _start(self, command: Generate) -> None:
        refused = None
        with self._job_lock:
            if self._job:
                refused = UserError("The engine is already at work.", "Wait for the running job, or cancel it.", "busy")
            elif not Path(command.out_dir).is_absolute():
                refused = UserError(f"The output folder {command.out_dir!r} is not an absolute path.", "Save the file first.", "output")
            else:
                self._job, self._control = command.job, Control()
                self._jobs.put((command, self._control))
        if refused is not None:
            self._write(Failed(job=command.job, code=refused.code, text=refused.text, fix=refused.fix))


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # there, stdin ends when Blender does, and kill(pid, 0) would end Blender
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def serve(parent_pid: int = 0) -> None:
    """Serve this process's stdin and stdout."""
    messages_fd = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    Server(sys.stdin.buffer, os.fdopen(messages_fd, "wb"), parent_pid).run()
    # Every message is flushed. Taking torch apart can last seconds, in which nobody would end this process any more.
    sys.stderr.flush()
    os._exit(0)
