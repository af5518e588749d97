"""Trust on first use, for copies on the hub that the table does not pin to a commit.

What such a copy held when it was first fetched is kept in the models folder, and every later download asks for that very commit and
compares every file with it. It outlives a `remove`; `remove --forget` is how a user says that the copy may be another one now.

    MODELS/first-seen.json    hub id to the commit that was fetched first, and the hash of every file of it
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine.errors import UserError
from engine.guidance.model_records import DOWNLOADING_NAME, FileRecord, file_records, write_json

FIRST_SEEN_NAME = "first-seen.json"


@dataclass(frozen=True)
class FirstSeen:
    """A copy as it was first fetched."""

    commit: str
    files: tuple[FileRecord, ...]

    def unlike(self, files: Iterable[tuple[str, str]]) -> list[str]:
        """What differs in `files` (path and SHA-256, "" where that is not known), a phrase each; empty if nothing does."""
        now, then = dict(files), {file.path: file.sha256 for file in self.files}
        gone = [f"{path} is gone" for path in then if path not in now]
        new = [f"{path} is new" for path in now if path not in then]
        changed = [f"{path} has another content" for path, digest in now.items() if digest and then.get(path, digest) != digest]
        return gone + new + changed


def read_first_seen(root: Path) -> dict[str, FirstSeen]:
    """Hub id to what it held when it was first fetched.

    Raises: UserError, code "model", if the file is there but cannot be read: to go on without it would be to trust anything.
    """
    path = root / FIRST_SEEN_NAME
    try:
        body = json.loads(path.read_text(encoding="utf-8"))["sources"]
        return {str(repo): FirstSeen(str(entry["commit"]), file_records(entry["files"])) for repo, entry in body.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"{path}, which says what sources held when they were first fetched, cannot be read."
        raise UserError(text, "Restore it, or remove it to trust what the sources hold now.", "model") from error


def remember(root: Path, repo: str, commit: str, files: Sequence[FileRecord]) -> None:
    """Keep what a source held, unless something is kept of it already. Raises: OSError."""
    with _locked(root):
        known = read_first_seen(root)
        if repo not in known:
            _write(root, {**known, repo: FirstSeen(commit, tuple(files))})


def forget(root: Path, repos: Iterable[str]) -> bool:
    """Trust whatever these sources hold at the next download; whether anything was kept of them. Raises: OSError."""
    with _locked(root):
        known = read_first_seen(root)
        rest = {repo: seen for repo, seen in known.items() if repo not in set(repos)}
        if len(rest) < len(known):
            _write(root, rest)
        return len(rest) < len(known)


def _locked(root: Path) -> FileLock:
    """Two downloads that end at once both write; each holds it for as long as a small file takes."""
    folder = root / DOWNLOADING_NAME
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{FIRST_SEEN_NAME}.lock")


def _write(root: Path, known: dict[str, FirstSeen]) -> None:
    sources = {repo: {"commit": seen.commit, "files": [vars(file) for file in seen.files]} for repo, seen in known.items()}
    write_json(root / FIRST_SEEN_NAME, {"sources": sources})
