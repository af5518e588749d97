"""Hashes of files, and whether files are what a record says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from engine.guidance.model_records import FileRecord
from engine.model_store.progress import Report, Step

CHUNK_BYTES = 1 << 20


class Progress:
    """Counts bytes over several files and reports now and then: a line a chunk would be most of the work."""

    def __init__(self, phase: str, of: int, report: Report, done: int = 0) -> None:
        self.phase, self.of, self.done = phase, of, done
        self._report = report
        self._reported = -1

    def add(self, n_bytes: int, text: str) -> None:
        self.done += n_bytes
        # At most two hundred lines, and one at both ends.
        if self._reported < 0 or abs(self.done - self._reported) * 200 >= self.of or self.done >= self.of:
            self._reported = self.done
            self._report(Step(self.phase, self.done, self.of, text))


def sha256_of(path: Path, progress: Progress) -> str:
    """Hexadecimal SHA-256 of the file's content."""
    return _digest(path, hashlib.sha256(), progress)


def git_sha1_of(path: Path, progress: Progress) -> str:
    """Hexadecimal SHA-1 as git names a file's content; the hub gives it for files that are not in LFS."""
    header = f"blob {path.stat().st_size}\0".encode()
    return _digest(path, hashlib.sha1(header, usedforsecurity=False), progress)


def record_files(folder: Path, paths: Sequence[Path], report: Report) -> tuple[FileRecord, ...]:
    """Size and hash of files inside `folder`."""
    progress = Progress("hash", sum(path.stat().st_size for path in paths), report)
    return tuple(FileRecord(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path, progress)) for path in paths)


def damaged(folder: Path, files: Sequence[FileRecord], report: Report) -> list[str]:
    """What is wrong with the files, one phrase each, such as "unet/config.json is missing"; empty if all is well."""
    problems = []
    progress = Progress("check", sum(file.size for file in files), report)
    for file in files:
        path = folder / file.path
        if not path.is_file():
            problems.append(f"{file.path} is missing")
        elif path.stat().st_size != file.size:
            problems.append(f"{file.path} has {path.stat().st_size:,} bytes instead of {file.size:,}")
        elif sha256_of(path, progress) != file.sha256:
            problems.append(f"{file.path} has another content than it had")
    return problems


def _digest(path: Path, digest, progress: Progress) -> str:  # type: ignore[no-untyped-def]  # hashlib's class has no public name
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            progress.add(len(chunk), path.name)
    return digest.hexdigest()
