"""Going on from another job's last checkpoint: what fits it, and how far the new job trains. torch only where it is read.

The new job gets a copy of that checkpoint in its own folder before anything else happens. From then on it is a job like any
other: it resumes by itself, and the job it came from may be deleted. Schedules in fractions of the run are fractions of the
new, longer run: it takes up where its step stands in that one, so late settings come again, softened, and end as before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import JobConfig, options
from engine.errors import UserError
from engine.job_folder import read_job
from engine.options import to_text
from engine.protocol import JobRequest, with_kept_pictures

if TYPE_CHECKING:
    from engine.training.checkpoint import Checkpoint

# Without a word about it a job goes on for half as long again.
MORE = 1.5
MAX_STEPS = 1_000_000
# A checkpoint of a run with other values of these is of another field, or of an optimizer that remembers other things.
# The occupancy grid is not among them: it is looked at anew.
_MAY_DIFFER = ("field.normals", "field.level_rate", "field.table_precision")  # how a field is looked at and how it learns, not what it is
_MUST_MATCH = ("optimizer.method", *(key for key, option in options().items() if option.group == "field" and key not in _MAY_DIFFER))


@dataclass(frozen=True)
class Start:
    """Where a new job begins: its settings, and a checkpoint that fits them."""

    config: JobConfig
    checkpoint: Checkpoint


def find_start(request: JobRequest, config: JobConfig, out_dir: Path) -> Start:
    """What `request.start_from` offers a job with `config` in `out_dir`; reads only. Raises UserError."""
    folder = Path(request.start_from)
    old_request, old = _read(folder)
    if folder.resolve() == out_dir.resolve():
        raise UserError(f"The job cannot go on from {folder} and be written there.", "Use another --out.", "output")
    _check_fit(config, old, folder)
    checkpoint = _last_checkpoint(folder)
    if request.seed != old_request.seed:
        # Another seed asks for other draws; the old generators would go on with the same.
        checkpoint = dataclasses.replace(checkpoint, meta={**checkpoint.meta, "new_seed": True})
    n_steps = config.training.n_steps
    more = min(round(MORE * old.training.n_steps), MAX_STEPS)
    if request.preset == old_request.preset and not any(_is_n_steps(key) for key in request.overrides):
        n_steps = more  # nobody said how far
    if n_steps <= (done := checkpoint.meta["step"]):
        raise UserError(
            f"training.n-steps is {n_steps}, but the job in {folder}, from which to go on, has done {done} steps.",
            f"Use --training.n-steps {max(more, done + 1)}.",
            "option",
        )
    return Start(dataclasses.replace(config, training=dataclasses.replace(config.training, n_steps=n_steps)), checkpoint)


def continued_request(folder: Path) -> JobRequest:
    """The request of the job in `folder`, as one that goes on from there. Raises UserError."""
    request, _ = _read(folder)
    overrides = {key: text for key, text in request.overrides.items() if not _is_n_steps(key)}
    return dataclasses.replace(with_kept_pictures(request, str(folder)), overrides=overrides, start_from=str(folder))


def _read(folder: Path) -> tuple[JobRequest, JobConfig]:
    if not (folder / "job.json").is_file():
        raise UserError(f"There is no job in {folder} to go on from.", "Give the folder of a job, the one that holds job.json.", "option")
    request, config = read_job(folder)
    if request.stage != "generate":
        text = f"The job in {folder} is of the stage {request.stage} and has no field to go on with."
        raise UserError(text, f"Give its mesh to another stage: python -m engine {request.stage} {folder}", "option")
    return request, config


def _check_fit(config: JobConfig, old: JobConfig, folder: Path) -> None:
    for key in _MUST_MATCH:
        option = options()[key]
        given, was = (getattr(getattr(one, option.group), option.name) for one in (config, old))
        if given != was:
            raise UserError(
                f"{option.flag[2:]} is {to_text(given)}, but the job in {folder}, from which to go on, was trained with {to_text(was)}.",
                f"Use {option.flag} {to_text(was)}.",
                "option",
            )


def _last_checkpoint(folder: Path) -> Checkpoint:
    from engine.training.checkpoint import latest_checkpoint

    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        raise UserError(f"The job in {folder} has no checkpoint to go on from.", "Make it again from the beginning.", "checkpoint")
    return checkpoint


def _is_n_steps(key: str) -> bool:
    return key.replace("-", "_") == "training.n_steps"
