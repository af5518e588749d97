"""Jobs that wait in line, and the file that keeps them while Blender is closed. No bpy.

A Blender holds one file, queue-N.json, together with a lock on queue-N.lock that the system lets go of when the process ends,
however it ends. So two Blenders never run the same line, and what a dead one left can be told from what a living one holds.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from .file_lock import FileLock
from .import_plan import ImportPlan
from .protocol import messages

FORMAT = 1
# More Blenders than anyone opens at once; one beyond them keeps its line in memory only.
MAX_SLOTS = 64


class QueueEntry(NamedTuple):
    """A job that is to run: what, where, and what happens with its result."""

    request: "messages.JobRequest"
    folder: str
    """Absolute path of the job folder; the engine makes it. It is also what tells two entries apart."""
    plan: ImportPlan = ImportPlan()
    resume: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"request": asdict(self.request), "folder": self.folder, "plan": self.plan.to_json(), "resume": self.resume}

    @staticmethod
    def from_json(data: object) -> "QueueEntry":
        """Raises: ValueError if it is no entry."""
        if not isinstance(data, dict) or not isinstance(data.get("folder"), str) or not Path(data["folder"]).is_absolute():
            raise ValueError("a waiting job without a folder")
        plan = data.get("plan")
        return QueueEntry(
            request=messages.request_from_json(data.get("request")),  # ProtocolError is a ValueError
            folder=data["folder"],
            plan=ImportPlan.from_json(plan) if isinstance(plan, dict) else ImportPlan(),
            resume=data.get("resume") is True,
        )


class Queue:
    """The line. The first entry is the next to run; the running one is kept beside it, so that a crash does not lose it.

    Args:
        store: keeps it on the disk; None: in memory only (background mode, tests).
    """

    def __init__(self, store: "QueueStore | None" = None) -> None:
        self.entries: tuple[QueueEntry, ...] = ()
        self.left: tuple[QueueEntry, ...] = ()
        """What a Blender that is gone left waiting. Kept apart until the user says what shall become of it."""
        self.running: QueueEntry | None = None
        self.store = store

    def add(self, entry: QueueEntry) -> None:
        self._set((*self.entries, entry))

    def put_back(self, entry: QueueEntry) -> None:
        """To the front: it was taken and could not run."""
        self._set((entry, *self.entries))

    def take(self) -> QueueEntry | None:
        """The next entry, which now counts as running; None if nobody waits."""
        if not self.entries:
            return None
        self.running = self.entries[0]
        self._set(self.entries[1:])
        return self.running

    def started(self, entry: QueueEntry) -> None:
        """An entry runs that did not wait."""
        self.running = entry
        self._set(self.entries)

    def ended(self) -> None:
        """Nothing runs any more."""
        if self.running is not None:
            self.running = None
            self._set(self.entries)

    def remove(self, index: int) -> None:
        if 0 <= index < len(self.entries):
            self._set(self.entries[:index] + self.entries[index + 1 :])

    def move(self, index: int, by: int) -> int:
        """Move an entry towards the front (negative) or the end; returns where it is now."""
        if not 0 <= index < len(self.entries):
            return index
        target = min(max(index + by, 0), len(self.entries) - 1)
        rest = self.entries[:index] + self.entries[index + 1 :]
        self._set((*rest[:target], self.entries[index], *rest[target:]))
        return target

    def clear(self) -> None:
        self._set(())

    def answer_left(self, entries: Sequence[QueueEntry]) -> None:
        """What was left is settled: `entries` of it go to the front of the line, the rest is forgotten."""
        self.left = ()
        self._set((*entries, *self.entries))

    @property
    def folders(self) -> frozenset[str]:
        """Job folders that are spoken for, though they may not exist yet."""
        running = (self.running.folder,) if self.running is not None else ()
        return frozenset((*running, *(entry.folder for entry in self.entries)))

    def _set(self, entries: Sequence[QueueEntry]) -> None:
        self.entries = tuple(entries)
        if self.store is not None:
            self.store.save(self.running, (*self.entries, *self.left))


class QueueStore:
    """The file of one Blender. Made by `open_store`; `close` lets the next Blender have it."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock
        self.problem = ""
        """Why the last change could not be written; empty if it was."""

    def save(self, running: QueueEntry | None, entries: Iterable[QueueEntry]) -> None:
        """Complete or not at all. A disk that is full does not stop the jobs: they run on, `problem` says what is wrong."""
        body = {
            "format": FORMAT,
            "running": running.to_json() if running is not None else None,
            "waiting": [entry.to_json() for entry in entries],
        }
        partial = self.path.with_suffix(".partial")
        try:
            if body["running"] is None and not body["waiting"]:
                self.path.unlink(missing_ok=True)
            else:
                partial.write_text(json.dumps(body), encoding="utf-8")
                os.replace(partial, self.path)
            self.problem = ""
        except OSError as error:
            self.problem = (
                f"The waiting jobs could not be written to {self.path} ({error.strerror or error}). They would be lost when Blender closes."
            )

    def close(self) -> None:
        self._lock.release()


def open_store(folder: Path) -> tuple[QueueStore | None, tuple[QueueEntry, ...]]:
    """Take the first free file in `folder`, and what Blenders that are gone left waiting.

    A job that was running when its Blender ended comes first and is resumed if it had begun. The files of living Blenders are left
    alone. Returns None for the store where nothing can be locked. Raises: OSError if the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store: QueueStore | None = None
    left: list[QueueEntry] = []
    for number in range(MAX_SLOTS):
        path = folder / f"queue-{number}.json"
        if store is not None and not path.exists():
            continue
        lock = FileLock(path.with_suffix(".lock"))
        if not lock.acquire():
            continue
        left += _read(path)
        if store is None:
            store = QueueStore(path, lock)
            continue
        path.unlink(missing_ok=True)  # what was in it goes into our own file with the next change
        lock.release()
    if store is not None and left:
        store.save(None, left)
    return store, tuple(left)


def _read(path: Path) -> list[QueueEntry]:
    """The entries of a file, the running one first. What is damaged is left out: a line of wishes is not worth an error."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        return []
    waiting = body.get("waiting")
    found = [body.get("running"), *(waiting if isinstance(waiting, list) else [])]
    entries = []
    for number, data in enumerate(found):
        try:
            entry = QueueEntry.from_json(data)
        except ValueError:
            continue
        if (Path(entry.folder) / "result" / "result.json").is_file() and number == 0:
            continue  # done just before its Blender ended
        entries.append(entry._replace(resume=entry.resume or (Path(entry.folder) / "job.json").is_file()))
    return entries
