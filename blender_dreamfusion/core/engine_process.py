"""The engine's process: started, listened to, spoken to, ended. No bpy.

Threads: the reader turns lines into messages and puts them into `events`; the writer takes lines from a queue, because a hung
engine stops reading its pipe and a full pipe would freeze Blender; both touch nothing else. All other functions are for the main
thread, and none of them waits except `kill`.
The engine ends by itself when its stdin closes, so it cannot outlive Blender even if Blender crashes; when Python ends in good order
it is killed, should it be deaf.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

from .process_tree import detached, kill_tree
from .protocol import messages

# Variables that lead another Python astray, or that Blender's launcher sets for its own libraries.
SCRUBBED_PREFIXES = ("PYTHON", "CONDA")
SCRUBBED_NAMES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
# A killed process is gone in milliseconds; longer means the kernel is busy writing its memory out.
KILL_WAIT_S = 3.0
# The log is begun anew beyond this: nobody reads further back, and nobody empties it.
MAX_LOG_BYTES = 2_000_000
# Lines that are no message and are handed on; a program that prints without pause must not fill Blender's memory.
MAX_BABBLE_KEPT = 100


class Babble(NamedTuple):
    """A line of the engine that is no message."""

    text: str


class Exited(NamedTuple):
    """The engine's output ended; always the last thing in `events`."""

    returncode: int


Incoming: TypeAlias = "messages.Event | Babble | Exited"


def scrubbed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would make the engine's Python load foreign packages."""
    return {name: value for name, value in environ.items() if not name.upper().startswith(SCRUBBED_PREFIXES) and name not in SCRUBBED_NAMES}


def engine_command(python: str | Path, package_root: Path, parent_pid: int) -> list[str]:
    """The command line of `engine serve` for the engine that lies in `package_root`."""
    launcher = package_root / "blender_dreamfusion" / "core" / "launch_engine.py"
    return [str(python), "-I", "-u", str(launcher), "serve", "--parent-pid", str(parent_pid)]


class EngineProcess:
    """One running engine.

    Args:
        command: program and arguments.
        log_path: gets the engine's stderr, after what is in it. Its folder is created.
        environ: the engine's environment; what leads another Python astray is left out.
    Raises: OSError if the program cannot be started.
    """

    def __init__(self, command: Sequence[str], log_path: Path, environ: Mapping[str, str] = os.environ) -> None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = log_path
        self.events: queue.SimpleQueue[Incoming] = queue.SimpleQueue()
        self.last_heard = time.monotonic()
        self._is_swept = False
        self._outgoing: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        is_long = log_path.exists() and log_path.stat().st_size > MAX_LOG_BYTES
        with log_path.open("wb" if is_long else "ab") as log:
            self.log_start = log.tell()
            """Where this engine's own lines begin in the log; what stands before is of earlier ones."""
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=log_path.parent,
                env=scrubbed_environment(environ),
                **detached(),
            )
        self._reader = threading.Thread(target=self._read, name="dreamfusion-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name="dreamfusion-writer", daemon=True)
        self._reader.start()
        self._writer.start()
        atexit.register(self.kill)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int:
        """How the engine ended; 0 while it lives."""
        return self._process.poll() or 0

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def silent_s(self) -> float:
        """Seconds since the last line. Kept by the reader, so a main thread that was busy does not count as silence."""
        return time.monotonic() - self.last_heard

    def send(self, command: messages.Command) -> None:
        """Queue a command. Commands to an engine that is gone are dropped: its end comes as an event anyway."""
        self._outgoing.put(messages.encode(command))

    def next_event(self) -> Incoming | None:
        """The oldest event that was not taken yet, or None."""
        try:
            return self.events.get_nowait()
        except queue.Empty:
            return None

    def close_input(self) -> None:
        """Ask the engine to end: it does so when its stdin ends."""
        self._outgoing.put(None)

    def kill_soon(self) -> None:
        """As `kill`, from a thread: on Windows, and with a graphics card to clean up, it takes longer than a frame."""
        threading.Thread(target=self.kill, name="dreamfusion-killer", daemon=True).start()

    def kill(self) -> None:
        """End the engine and everything it started, now. Waits at most KILL_WAIT_S. May be called again."""
        atexit.unregister(self.kill)
        self.close_input()
        if not self._is_swept:
            # Also of an engine that has ended: what it started may live on. Once only, for the number may be another's later.
            self._is_swept = True
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # Windows: taskkill is missing, or takes its time
                kill_tree(self._process)
        try:
            self._process.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            return
        # A child of the engine may still hold the pipe; the thread is a daemon and does not matter then.
        self._reader.join(0.5)

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            n_babble = 0
            while line := stream.readline(messages.MAX_LINE_BYTES + 1):
                self.last_heard = time.monotonic()
                event = _parsed(line)
                if isinstance(event, Babble):
                    n_babble += 1
                    if n_babble > MAX_BABBLE_KEPT:
                        continue
                # Heartbeats only say "alive"; queued, they would pile up while Blender renders for an hour.
                if event is not None and not isinstance(event, messages.Heartbeat):
                    self.events.put(event)
        self.events.put(Exited(self._process.wait()))

    def _write(self) -> None:
        stream = self._process.stdin
        assert stream is not None
        try:
            while (line := self._outgoing.get()) is not None:
                _write_line(stream, line)
        except OSError:  # the engine closed its end: the reader reports how it ended
            pass
        finally:
            try:
                stream.close()
            except OSError:
                pass


def _write_line(stream: IO[bytes], line: str) -> None:
    stream.write(line.encode("utf-8"))
    stream.flush()


def _parsed(line: bytes) -> Incoming | None:
    try:
        return messages.decode_event(line)
    except messages.ProtocolError:
        return Babble(line[:200].decode("utf-8", errors="replace").strip())
