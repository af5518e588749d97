"""Models on this machine: list, add a folder, remove, check. Offline."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import UserError
from engine.guidance.families import FAMILIES
from engine.guidance.helpers import HELPER_KINDS, Helper, find_stored, helpers
from engine.guidance.model_records import DOWNLOADING_NAME, Record, read_added, read_record, write_added, write_record
from engine.guidance.model_table import ENGINE_FOLDER, Stored, added_model, model_folder, models
from engine.model_store.first_seen import forget, read_first_seen
from engine.model_store.hashes import Progress, damaged, git_sha1_of, record_files, sha256_of
from engine.model_store.layout import check_files, check_folder, check_weights, part_files
from engine.model_store.progress import Report, silent

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model or helper and how it stands on this machine.

    origin: "shipped", "downloaded", "unpacked" (from a single file), "added" (a folder of the user's), "hub cache", or "" while it
        is not here.
    can_remove: whether `remove` does something. partial_bytes: of a download that is not whole yet.
    """

    model: Stored
    origin: str
    folder: str
    size_bytes: int
    partial_bytes: int
    can_remove: bool

    @property
    def line(self) -> str:
        """For a terminal."""
        model = self.model
        told = "" if self.origin else f"{model.withheld} {model.instead}"
        return f"{model.id:<14} {self.origin or '-':<10} {model.title} ({model.licence}). {model.note} {told}".rstrip()

    def to_json(self) -> dict[str, object]:
        """Flat: the table's fields and these; "installed" says whether a job can use it, "is_helper" whether beside another model."""
        body = {name: value for name, value in asdict(self).items() if name != "model"}
        is_helper = isinstance(self.model, Helper)
        needs_picture = not is_helper and FAMILIES[self.model.kind].needs_picture
        return {**asdict(self.model), "needs_picture": needs_picture, "is_helper": is_helper, "installed": bool(self.origin), **body}


def rows(root: Path) -> list[Row]:
    """Every model of the table and every added one."""
    added = read_added(root)
    return [_row(model, root) for model in (*models().values(), *(added_model(record) for record in added.values()))]


def helper_rows(root: Path) -> list[Row]:
    """Every helper of the table."""
    return [_row(helper, root) for helper in helpers().values()]


def _row(model: Stored, root: Path) -> Row:
    partial = _size(root / DOWNLOADING_NAME / model.id)
    try:
        folder = model_folder(model)
    except UserError:
        is_added = bool(model.path) and Path(model.path).is_absolute()  # its folder is gone; the entry can be removed
        return Row(model=model, origin="", folder="", size_bytes=0, partial_bytes=partial, can_remove=partial > 0 or is_added)
    origin = _origin(model, folder, root)
    size = sum(path.stat().st_size for path in _files(folder, model))
    can_remove = origin in ("downloaded", "unpacked", "added")
    return Row(model=model, origin=origin, folder=str(folder), size_bytes=size, partial_bytes=partial, can_remove=can_remove)


def _origin(model: Stored, folder: Path, root: Path) -> str:
    if model.path:
        if not Path(model.path).is_absolute():
            return "shipped"
        return "unpacked" if _is_unpacked(folder, root / model.id) else "added"
    return "downloaded" if folder.parent == root else "hub cache"


def _is_unpacked(folder: Path, ours: Path) -> bool:
    """Whether `add` made the folder from a single file. A folder of the user's in the same place has no record in it."""
    return folder == ours and read_record(folder) is not None


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def add(given: Path, name: str, root: Path, report: Report = silent, *, like: str = "") -> Record:
    """Let a folder in Stable Diffusion's layout go by a name. It stays where it is; the hashes of its files are kept.

    Args:
        given: the folder; or a .safetensors file with a whole model, which is unpacked into the models folder.
        name: the id it will have; "" takes the folder's own name.
        like: for a file, the model whose settings it takes; "" the first of its family.
    Raises: UserError, code "model", if the folder is no such model, is damaged or unsafe, or the name is taken.
    """
    folder = given.expanduser().resolve()
    if not folder.exists():
        raise UserError(f"There is nothing at {folder}.", "Choose the folder of a model.", "model")
    added = read_added(root)
    name = free_name(name or folder.stem, added)
    is_file = folder.is_file()
    if is_file:
        from engine.model_store.single_file import unpack

        folder = unpack(folder, root / name, like, report)
    check_folder(folder)
    record = Record(name, given.stem, str(folder), "", record_files(folder, part_files(folder), report))
    if is_file:
        write_record(folder, record)
    write_added(root, {**added, name: record})
    return record


def free_name(wanted: str, added: dict[str, Record]) -> str:
    """`wanted` as an id: lower case, spaces as "-". Raises: UserError, code "model", if it cannot be one or is taken."""
    name = re.sub(r"\s+", "-", wanted.strip().lower())
    if not NAME.fullmatch(name):
        text = f"{wanted[:60]!r} cannot be the name of a model: letters a to z, digits, dots and dashes, at most 60, are allowed."
        raise UserError(text, "Say another: --name my-model", "model")
    is_ours = name in models() or name in helpers()
    if is_ours or name in added:
        fix = "Say another: --name my-model" if is_ours else f"Say another, or first: python -m engine models remove {name}"
        raise UserError(f"There is a model called {name} already.", fix, "model")
    return name


def remove(name: str, root: Path, *, forget_source: bool = False) -> str:
    """Delete a fetched model, or what there is of it; forget an added one, whose folder stays. Returns what was done.

    Args:
        forget_source: of a source that is not pinned, forget also what it held first: the next download trusts what it holds then.
    Raises: UserError, code "model", if it is unknown, not here, ships with the program, or lies in the hub's cache.
    """
    if not forget_source:
        return _remove(name, root)
    model = find_stored(name)
    if not forget(root, [source.repo for source in model.sources]):
        text = f"Nothing is kept of the sources of {model.title}: they are pinned, or were never fetched."
        raise UserError(text, "Leave --forget out.", "option")
    kept = "The next download takes what its source holds then."
    is_here = (root / model.id).exists() or (root / DOWNLOADING_NAME / model.id).exists()
    return f"{_remove(name, root)} {kept}" if is_here else kept


def _remove(name: str, root: Path) -> str:
    added = read_added(root)
    if name in added:
        record = added.pop(name)
        write_added(root, added)
        if _is_unpacked(Path(record.folder), root / name):
            return f"{record.title} is deleted; {_delete(root / name, root) / 1e9:.1f} GB are free again."
        return f"{name} is off the list. Its folder stays: {record.folder}"
    model = find_stored(name)
    if model.path:
        is_shipped = not Path(model.path).is_absolute()
        why = "ships with the program and cannot be removed" if is_shipped else "is a folder of yours that is not on the list"
        raise UserError(f"{model.title} {why}.", "" if is_shipped else "Delete it yourself.", "model")
    folder, staging = root / model.id, root / DOWNLOADING_NAME / model.id
    if folder.is_symlink():
        folder.unlink()
        return f"{model.title} is off the list; what the link led to stays."
    if read_record(folder) is not None or staging.exists():
        freed = _delete(folder, root) + _delete(staging, root)
        return f"{model.title} is deleted; {freed / 1e9:.1f} GB are free again."
    there = model_folder(model)  # says so if it is nowhere
    if there.parent == root:
        raise UserError(f"{there} was not made by a download, so it is left alone.", "Delete the folder yourself.", "model")
    raise UserError(f"{model.title} lies in the hub's cache, which other programs use too.", f"Delete it there: {there}", "model")


def _delete(folder: Path, root: Path) -> int:
    """Delete a folder of ours, under its name at once and for good after that; returns its bytes."""
    if not folder.exists():
        return 0
    freed = _size(folder)
    doomed = root / DOWNLOADING_NAME / f"{folder.name}.removed"
    doomed.parent.mkdir(exist_ok=True)
    shutil.rmtree(doomed, ignore_errors=True)  # of a removal that was killed
    try:
        os.replace(folder, doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be deleted ({error.strerror or error}).", "Close what uses it, then remove it again.", "disk"
        ) from error
    return freed


def check(name: str, root: Path, report: Report = silent) -> str:
    """Compare every file of a model with the hash it had when it came; loads nothing. Returns what was found to be well.

    Raises: UserError: code "model" if it is not here or its folder is wrong, "damaged" naming the files, "changed" if it is not what
        its source held when it was first fetched.
    """
    model = find_stored(name)
    folder = model_folder(model)
    record = read_added(root).get(model.id) or read_record(folder)
    if record is not None:
        how = "as they were when they came"
        problems = damaged(folder, record.files, report)
    else:
        problems = _unlike_blobs(folder, model, report)
        how = "as the hub's cache says" if _origin(model, folder, root) == "hub cache" else "whole; there is no record of their hashes"
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"Model {model.id} is damaged: {'; '.join(problems[:3])}{more}.", _mend(model, folder, root), "damaged")
    if record is not None:
        how += _check_first_seen(model, record, root)
    if isinstance(model, Helper):
        check_weights(folder, model.parts, HELPER_KINDS[model.kind].published_code)
        check_files(folder, model.parts)
    else:
        check_folder(folder)
    return f"{model.title}: all {len(_files(folder, model))} files are {how}."


def _check_first_seen(model: Stored, record: Record, root: Path) -> str:
    """Compare a model with what its source held first, if that is kept; returns a phrase on it, "" if it is not.

    Raises: UserError, code "changed".
    """
    repo, _, commit = record.source.partition("@")
    first = read_first_seen(root).get(repo)
    if first is None or not any(source.repo == repo and not source.is_pinned for source in model.sources):
        return ""
    if differences := first.unlike((file.path, file.sha256) for file in record.files):
        raise UserError(
            f"Model {model.id} is not what {repo} held when it was first fetched: {'; '.join(differences[:3])}.",
            f"To get that again: python -m engine models remove {model.id}, then download it. To trust what it holds now: add --forget.",
            "changed",
        )
    return f" and as they were first fetched, at {commit[:12]}"


def _files(folder: Path, model: Stored) -> list[Path]:
    """What is loaded of it. Of a folder of the user's the folder itself says what it is."""
    return part_files(folder, model.parts if isinstance(model, Helper) else None)


def _unlike_blobs(folder: Path, model: Stored, report: Report) -> list[str]:
    """Files of the hub's cache whose content is not what their blob is named after. Files elsewhere have no such names."""
    linked = [(path, path.resolve().name) for path in _files(folder, model) if path.is_symlink()]
    progress = Progress("check", sum(path.stat().st_size for path, _ in linked), report)
    problems = []
    for path, blob in linked:
        digest = sha256_of if len(blob) == 64 else git_sha1_of if len(blob) == 40 else None
        if digest is not None and digest(path, progress) != blob:
            problems.append(f"{path.relative_to(folder).as_posix()} has another content than it had")
    return problems


def _mend(model: Stored, folder: Path, root: Path) -> str:
    if folder.parent == root and model.sources:
        return f"This fetches what is damaged, and no more: python -m engine models download {model.id}"
    if folder.is_relative_to(ENGINE_FOLDER):
        return "Install the program again."
    return f"Fetch the files again; if the change was yours: python -m engine models remove {model.id}, then add it again."
