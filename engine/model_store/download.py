"""Fetches a model into the models folder: room first, resumable, every file compared with the hub's hash, whole or not there.

What is fetched lies in MODELS/.downloading/ID until all of it is there and right, then the folder is renamed. So a process that is
ended at any moment, also by force, leaves nothing half done under the model's name, and the next one goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import UserError
from engine.guidance.model_records import DOWNLOADING_NAME, FileRecord, Record, read_record, write_record
from engine.guidance.model_table import Model, Source, Stored, is_installed, model_folder, refuse_withheld
from engine.model_store.first_seen import FirstSeen, read_first_seen, remember
from engine.model_store.hashes import Progress, damaged, git_sha1_of, sha256_of
from engine.model_store.hub import Hub, RemoteFile, RemoteModel, SourceError
from engine.model_store.progress import Report, silent

# A disk that is filled to the last byte stops more than this download.
SPARE_BYTES = 200_000_000


def free_bytes_at(folder: Path) -> int:
    """Bytes that can still be written beside `folder`, which need not exist."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def download(
    model: Stored, root: Path, report: Report = silent, *, hub: Hub | None = None, free_bytes: Callable[[Path], int] = free_bytes_at
) -> str:
    """Fetch `model` into `root`, from the first of its sources that can give it. A damaged one is mended, a whole one left alone.

    Args:
        report: gets the bytes that are done.
        free_bytes: bytes free on the disk of a folder.
    Returns: a sentence that says how it ended.
    Raises: UserError, code "model", "offline", "gated", "disk" or "busy".
    """
    if model.path:
        return f"{model.title} needs no download: it lies in {model_folder(model)}."
    folder, staging = root / model.id, root / DOWNLOADING_NAME / model.id
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{staging}.lock", timeout=0):
            if said := _already_there(model, root, folder, staging, report):
                return said
            refuse_withheld(model)
            remote, files, note = _fetch_from_first(model, root, staging, report, hub or Hub(), free_bytes)
            write_record(staging, Record(model.id, model.title, "", f"{remote.repo}@{remote.commit}", files))
            os.replace(staging, folder)
    except Timeout:
        raise UserError(f"Model {model.id} is being downloaded already.", "Wait for it, or cancel it.", "busy") from None
    except OSError as error:
        raise _disk_error(error, root) from error
    return f"{model.title} is ready in {folder} ({remote.size / 1e9:.1f} GB from {remote.repo}).{note}"


def _already_there(model: Stored, root: Path, folder: Path, staging: Path, report: Report) -> str:
    """A sentence if nothing is to be fetched. A damaged copy of ours goes back to the half-done ones: what is right in it is kept."""
    record = read_record(folder)
    if record is None:
        if is_installed(model):
            return f"{model.title} is there already, in {model_folder(model)}."
        if not folder.exists():
            return ""
        raise UserError(
            f"The folder {folder} exists but was not made by a download.",
            f"Move it away, or use it as it is: python -m engine models add {folder} --name my-{model.id}"
            if isinstance(model, Model)
            else "Move it away.",
            "model",
        )
    _remember_older(model, root, record)
    if not damaged(folder, record.files, report):
        return f"{model.title} is there already, in {folder}; every file is as it should be."
    shutil.rmtree(staging, ignore_errors=True)
    os.replace(folder, staging)
    return ""


def _remember_older(model: Stored, root: Path, record: Record) -> None:
    """A download of before such things were kept is the first one all the same."""
    repo, _, commit = record.source.partition("@")
    if any(source.repo == repo and not source.is_pinned for source in model.sources):
        remember(root, repo, commit, record.files)


def _fetch_from_first(
    model: Stored, root: Path, staging: Path, report: Report, hub: Hub, free_bytes: Callable[[Path], int]
) -> tuple[RemoteModel, tuple[FileRecord, ...], str]:
    """What was fetched, from the first source that gives it, and a sentence more on a source that is not pinned."""
    refusals: list[tuple[str, SourceError]] = []
    for source in model.sources:
        try:
            first = None if source.is_pinned else read_first_seen(root).get(source.repo)
            remote = _find(source, first, model, hub)
            _check_room(model, remote, staging, free_bytes)
            files = _fetch_all(remote, staging, report, hub)
            if source.is_pinned:
                return remote, files, ""
            if first is not None:
                _refuse_changed(first, [(file.path, file.sha256) for file in files])
                return remote, files, _moved_on(model, remote, hub)
            remember(root, remote.repo, remote.commit, files)
            return remote, files, f" The source is not pinned: its commit {remote.commit[:12]} is kept, and later downloads take the same."
        except SourceError as error:
            refusals.append((source.repo, error))
    raise _refusal(model, refusals, hub)


def _find(source: Source, first: FirstSeen | None, model: Stored, hub: Hub) -> RemoteModel:
    """The files of a source; of one that was fetched before, those of that commit."""
    if first is None:
        return hub.find(source, model.parts)
    try:
        remote = hub.find(Source(source.repo, first.commit), model.parts)
    except SourceError as error:
        if error.kind != "revision":
            raise
        raise SourceError(f"no longer has the commit {first.commit[:12]} that was fetched first", "changed") from error
    _refuse_changed(first, [(file.path, file.sha256) for file in remote.files])
    return remote


def _refuse_changed(first: FirstSeen, files: list[tuple[str, str]]) -> None:
    if differences := first.unlike(files):
        raise SourceError(f"changed since it was first fetched ({'; '.join(differences[:3])})", "changed")


def _moved_on(model: Stored, remote: RemoteModel, hub: Hub) -> str:
    newest = hub.newest(remote.repo)
    if newest in ("", remote.commit):
        return ""
    how = f"python -m engine models remove {model.id} --forget, then download it again"
    return f" The source changed since, to {newest[:12]}; this is what was fetched first, {remote.commit[:12]}. To take the new: {how}."


def _fetch_all(remote: RemoteModel, staging: Path, report: Report, hub: Hub) -> tuple[FileRecord, ...]:
    staging.mkdir(parents=True, exist_ok=True)
    progress = Progress("download", remote.size, report)
    records = [FileRecord(file.path, file.size, _fetch_right(remote, file, staging, hub, progress)) for file in remote.files]
    _remove_others(staging, {file.path for file in remote.files})
    return tuple(records)


def _fetch_right(remote: RemoteModel, file: RemoteFile, staging: Path, hub: Hub, progress: Progress) -> str:
    """Fetch one file until its hash is right; returns its SHA-256."""
    path = staging / file.path
    path.parent.mkdir(exist_ok=True)
    unseen = Progress("check", file.size, silent)  # the bar shows bytes fetched; hashing is ten times as fast
    if path.is_file() and _is_right(path, file, unseen):
        progress.add(file.size, file.path)
        return file.sha256 or sha256_of(path, unseen)
    path.unlink(missing_ok=True)
    # Named by content: a part from one source is continued from a mirror only if it is the same file.
    part = path.with_name(f"{path.name}.{(file.sha256 or file.git_sha1)[:16]}.part")
    for _attempt in range(2):
        before = progress.done
        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            have = 0
        progress.add(have, file.path)
        hub.fetch(remote, file, part, progress)
        if _is_right(part, file, unseen):
            os.replace(part, path)
            return file.sha256 or sha256_of(path, unseen)
        part.unlink()
        progress.add(before - progress.done, file.path)
    raise SourceError(f"sent {file.path} damaged twice")


def _is_right(path: Path, file: RemoteFile, progress: Progress) -> bool:
    if path.stat().st_size != file.size:
        return False
    return sha256_of(path, progress) == file.sha256 if file.sha256 else git_sha1_of(path, progress) == file.git_sha1


def _remove_others(staging: Path, wanted: set[str]) -> None:
    """What an earlier source left that this one does not have."""
    for path in staging.rglob("*"):
        if path.is_file() and path.relative_to(staging).as_posix() not in wanted:
            path.unlink()


def _check_room(model: Stored, remote: RemoteModel, staging: Path, free_bytes: Callable[[Path], int]) -> None:
    have = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    needed, free = max(0, remote.size - have) + SPARE_BYTES, free_bytes(staging)
    if free < needed:
        raise UserError(
            f"{model.title} needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in {staging.parent.parent}.",
            "Make room there, or choose another models folder.",
            "disk",
        )


def _disk_error(error: OSError, root: Path) -> UserError:
    kept = "then download again; it goes on where it stopped."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk of {root} is full.", f"Make room, {kept}", "disk")
    return UserError(f"{root} cannot be written ({error.strerror or error}).", f"Choose another models folder, {kept}", "disk")


def _refusal(model: Stored, refusals: list[tuple[str, SourceError]], hub: Hub) -> UserError:
    """Why no source gave the model. A gated one comes first: there the user can do something."""
    for repo, error in refusals:
        if error.kind == "gated":
            return UserError(
                f"Model {model.id} is gated: {repo} {error}.",
                f"Open {hub.endpoint}/{repo}, log in and accept the license; then make a token in your account's settings and put it "
                "into the environment variable HF_TOKEN, or run: hf auth login. It is read from there and kept nowhere by this program.",
                "gated",
            )
    for repo, error in refusals:
        if error.kind == "changed":
            return UserError(
                f"Model {model.id} is no longer what it was: {repo} {error}.",
                f"If you trust what it holds now: python -m engine models remove {model.id} --forget, then download it again.",
                "changed",
            )
    reasons = "; ".join(f"{repo} {error}" for repo, error in refusals)
    fix = "Fetch a copy yourself, and say its folder in the place of the name."
    if isinstance(model, Model):
        fix = f"Fetch a copy yourself, then: python -m engine models add FOLDER --name {model.id}-copy"
    return UserError(f"Model {model.id} cannot be had from its sources: {reasons}.", fix, "model")
