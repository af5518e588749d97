"""Every job there ever was, as its folder tells. Nothing is kept beside the folders, so nothing can disagree with them. No bpy.

A job folder (see engine/job_folder.py) is any folder with a job.json directly inside the jobs folder. What in it is damaged,
half written or of another version costs that one entry, never the history.
"""

import enum
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .estimates import Record
from .file_lock import FileLock
from .protocol import messages

# What an engine writes into a job folder; a delete takes these and leaves everything else.
JOB_FILES = (
    *("job.json", "events.jsonl", "reference.png", "source.npz", "source.partial", "error.log", "engine.log"),
    *("checkpoints", "previews", "result", "result.partial", "renders", "exports", "tensorboard", "job.lock"),
)
# Far above what an engine writes; more is no file of ours and is not read into memory.
MAX_FILE_BYTES = 8 << 20
# The last event says how a job ended; lines are much shorter than this.
TAIL_BYTES = 16384
# Between two folders the thread lets Blender's own go first.
REST_S = 0.0005
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


class HistoryState(enum.Enum):
    DONE = "Done"
    CANCELLED = "Cancelled"
    UNFINISHED = "Unfinished"
    FAILED = "Failed"
    DAMAGED = "Damaged"


RESUMABLE = frozenset({HistoryState.CANCELLED, HistoryState.UNFINISHED, HistoryState.FAILED})


class HistoryEntry(NamedTuple):
    """A job as its folder describes it. What is not known is empty or 0."""

    folder: str
    """Absolute path of the job folder."""
    state: HistoryState
    prompt: str = ""
    preset: str = ""
    model: str = ""
    seed: int = 0
    created: float = 0.0
    """Seconds since 1970."""
    seconds: float = 0.0
    """How long it took, or ran so far."""
    step: int = 0
    """Steps done (of the last checkpoint, where there is no result)."""
    n_steps: int = 0
    n_triangles: int = 0
    device: str = ""
    is_short: bool = False
    """Finished early, went on from another job, or is a stage: its time does not tell how long a job takes."""
    stage: str = "generate"
    """What kind of job it was, as in JobRequest."""
    thumbnail: str = ""
    """Path of a PNG."""
    problem: str = ""
    """Why it failed, as a sentence."""
    overrides: Mapping[str, str] = MappingProxyType({})

    @property
    def is_resumable(self) -> bool:
        return self.state in RESUMABLE

    @property
    def result_folder(self) -> Path:
        return Path(self.folder) / "result"

    @property
    def date(self) -> str:
        """Day and time here, as "2026-11-01 14:05"."""
        return f"{datetime.fromtimestamp(self.created):%Y-%m-%d %H:%M}" if self.created else ""


def read_entry(folder: Path) -> HistoryEntry | None:
    """The job in `folder`; None if there is none. Never raises for what is in the folder."""
    if not (folder / "job.json").is_file():
        return None
    try:
        job = _read_json(folder / "job.json")
        request = messages.request_from_json(job.get("request"))
    except (OSError, ValueError, RecursionError):  # ProtocolError is a ValueError
        return HistoryEntry(str(folder), HistoryState.DAMAGED, prompt=folder.name, created=_changed(folder / "job.json"))
    entry = HistoryEntry(
        folder=str(folder),
        state=HistoryState.UNFINISHED,
        prompt=request.title,
        preset=request.preset,
        model=request.model,
        seed=request.seed,
        created=_epoch(job.get("created")) or _changed(folder / "job.json"),
        n_steps=_number(_inside(job, "config", "training", "n_steps")),
        overrides=request.overrides,
        is_short=bool(request.start_from) or request.stage != "generate",
        stage=request.stage,
    )
    return _done(entry, folder) or _not_done(entry, folder)


def _done(entry: HistoryEntry, folder: Path) -> HistoryEntry | None:
    """The entry with what result.json says; None if there is no result."""
    try:
        result = _read_json(folder / "result" / "result.json")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        result = {}  # the files beside it may well be whole; the importer will say if not
    return entry._replace(
        state=HistoryState.DONE,
        seconds=_number(_inside(result, "seconds", "total"), 0.0),
        step=_number(result.get("steps_done")),
        n_triangles=_number(_inside(result, "stats", "n_faces")),
        device=str(result.get("device", "")),
        is_short=entry.is_short or result.get("finished_early") is True,
        thumbnail=_picture(folder / "result" / "thumbnail.png") or _last_preview(folder),
    )


def _not_done(entry: HistoryEntry, folder: Path) -> HistoryEntry:
    last = _last_event(folder / "events.jsonl")
    entry = entry._replace(
        seconds=max(0.0, _epoch(last.get("time")) - entry.created) if last else 0.0,
        step=_checkpoint_step(folder / "checkpoints"),
        thumbnail=_last_preview(folder),
    )
    if last.get("type") != "failed":
        return entry
    if last.get("code") == messages.CANCELLED:
        return entry._replace(state=HistoryState.CANCELLED)
    return entry._replace(state=HistoryState.FAILED, problem=str(last.get("text", ""))[:500])


def scan(
    jobs_folder: Path, known: Mapping[str, tuple[object, HistoryEntry]], stop: Callable[[], bool] = lambda: False
) -> dict[str, tuple[object, HistoryEntry]]:
    """Every job in `jobs_folder` by its path, with a mark of its files; folders whose mark is as in `known` are not read again."""
    found: dict[str, tuple[object, HistoryEntry]] = {}
    try:
        folders = list(jobs_folder.iterdir())
    except OSError:
        return found
    for folder in folders:
        if stop():
            break
        mark = _mark(folder)
        if mark is None:
            continue
        old = known.get(str(folder))
        entry = old[1] if old is not None and old[0] == mark else read_entry(folder)
        if entry is not None:
            found[str(folder)] = (mark, entry)
        time.sleep(REST_S)
    return found


class HistoryReader:
    """Reads the history in a thread. `ask` and `take` are for the main thread and never wait."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, HistoryEntry]] = {}
        self._found: tuple[HistoryEntry, ...] | None = None
        self._thread: threading.Thread | None = None
        self._asked: Path | None = None
        self._stopped = False

    @property
    def is_reading(self) -> bool:
        return self._thread is not None

    def ask(self, jobs_folder: Path) -> None:
        """Read `jobs_folder`; if that is being done already, once more afterwards."""
        self._asked = jobs_folder
        self._begin()

    def take(self) -> tuple[HistoryEntry, ...] | None:
        """The entries, newest first, once after each reading; None before."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            self._begin()
        found, self._found = self._found, None
        return found

    def stop(self) -> None:
        """End the thread at the next folder, for good."""
        self._asked, self._stopped = None, True
        if self._thread is not None:
            self._thread.join(1.0)
        self._thread = None

    def _begin(self) -> None:
        if self._thread is None and self._asked is not None:
            folder, self._asked = self._asked, None
            self._thread = threading.Thread(target=self._read, args=(folder,), name="dreamfusion-history", daemon=True)
            self._thread.start()

    def _read(self, folder: Path) -> None:
        self._known = scan(folder, self._known, lambda: self._stopped)
        self._found = tuple(sorted((entry for _, entry in self._known.values()), key=lambda entry: (-entry.created, entry.folder)))


def matching(entries: Iterable[HistoryEntry], text: str) -> tuple[HistoryEntry, ...]:
    """The entries in which every word of `text` occurs: in prompt, preset, model, state, date or seed."""
    words = text.lower().split()
    return tuple(entry for entry in entries if all(word in _searched(entry) for word in words))


def _searched(entry: HistoryEntry) -> str:
    return f"{entry.prompt} {entry.preset} {entry.model} {entry.state.value} {entry.date} seed {entry.seed}".lower()


def records(entries: Sequence[HistoryEntry]) -> list[Record]:
    """What tells how long a job takes on this machine, newest last. `entries` newest first."""
    return [
        Record(entry.preset, entry.seconds, entry.device, entry.model, entry.step, entry.overrides)
        for entry in reversed(entries)
        if entry.state is HistoryState.DONE and entry.seconds > 0 and not entry.is_short
    ]


def saved_request(folder: Path) -> "messages.JobRequest":
    """What was asked for in a job folder. Raises: ValueError with a sentence."""
    try:
        return messages.request_from_json(_read_json(folder / "job.json").get("request"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'job.json'} cannot be read ({error}). Generate the object anew.") from error


def again_request(folder: Path) -> "messages.JobRequest":
    """The same job anew, with the pictures that it keeps itself. Raises: ValueError."""
    request = saved_request(folder)
    return messages.with_kept_pictures(request, str(folder)) if (folder / messages.kept_name(0)).is_file() else request


def further_request(folder: Path, n_steps: int, n_done: int = 0) -> "messages.JobRequest":
    """A job that goes on from this one's last checkpoint to `n_steps` steps in all. Raises: ValueError.

    A stage goes on from the mesh and the colors that it made, with what is left of the steps after the `n_done` done ones.
    """
    request = again_request(folder)
    left_out = {"training.n_steps", "surface.colors"}
    overrides = {key: value for key, value in request.overrides.items() if key.replace("-", "_") not in left_out}
    if request.stage == "generate":
        overrides["training.n_steps"] = str(n_steps)
    else:
        overrides |= {"training.n_steps": str(max(1, n_steps - n_done)), "surface.colors": "source"}
    return replace(request, overrides=overrides, start_from=str(folder), start_mesh="")


def delete_job(folder: Path, jobs_folder: Path) -> bool:
    """Remove a job's files; what else lies in its folder stays. Returns whether the folder is gone.

    Raises: ValueError with a sentence if it is no job of this jobs folder or an engine is at work on it; OSError.
    """
    if folder.is_symlink() or not folder.is_dir() or folder.resolve().parent != jobs_folder.resolve():
        raise ValueError(f"{folder} is no folder inside the jobs folder {jobs_folder}. Delete it in a file browser if you mean it.")
    if not (folder / "job.json").is_file():
        raise ValueError(f"There is no job in {folder}. Delete it in a file browser if you mean it.")
    lock = FileLock(folder / "job.lock")
    if not lock.acquire():
        raise ValueError("An engine is at work on this job. Cancel it, then delete it.")
    try:
        (folder / "job.json").unlink()  # first: from now on it is no job, whatever happens below
        pictures = [path.name for path in folder.glob("reference-*.png")]
        for name in (*JOB_FILES[1:-1], *pictures):
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    finally:
        lock.release()
    (folder / "job.lock").unlink(missing_ok=True)
    if any(folder.iterdir()):
        return False
    folder.rmdir()
    return True


def _mark(folder: Path) -> tuple[float, ...] | None:
    """Changes whenever a job's entry does; None if it is no job."""
    created = _changed(folder / "job.json")
    if not created:
        return None
    return (created, *(_changed(folder / name) for name in ("events.jsonl", "checkpoints", "result", "previews")))


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read_json(path: Path) -> dict[str, Any]:
    """Raises: OSError, ValueError, RecursionError."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError("the file is too large")
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def _last_event(path: Path) -> dict[str, Any]:
    """The last whole line of events.jsonl as an object; {} if there is none."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # cut short by a kill
            continue
        if isinstance(event, dict):
            return event
    return {}


def _checkpoint_step(folder: Path) -> int:
    try:
        return max((int(match[1]) for path in folder.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))), default=0)
    except OSError:
        return 0


def _last_preview(folder: Path) -> str:
    try:
        return max((str(path) for path in (folder / "previews").iterdir() if path.suffix == ".png"), default="")
    except OSError:
        return ""


def _picture(path: Path) -> str:
    return str(path) if path.is_file() else ""


def _inside(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _number(value: object, default: Any = 0) -> Any:
    """`value` if it is a finite number of the default's kind."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return default
    return type(default)(value)


def _epoch(value: object) -> float:
    """Seconds since 1970 of a time in ISO form; 0 if it is none."""
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
