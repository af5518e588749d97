"""What can be made of a job after its training, finished or stopped: pictures, and meshes with other settings. No diffusion model."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from engine.config import JobConfig, options
from engine.errors import UserError, check_range
from engine.job_folder import JobFolder, read_job, slug_of, write_json
from engine.options import parse_value

ReportFn = Callable[[str, int, int], None]
"""Called with what is being done ("render", "mesh", "export"), how much of it is done, and how much there is."""

# Settings that still mean something when training is over.
LATE_GROUPS = ("mesh", "output")


def render_job(
    job: Path, out: Path | None, *, kinds: Sequence[str], n_frames: int | None, size: int | None, device: str, report: ReportFn
) -> Path:
    """Turning videos and six views of a job's last checkpoint, each in every kind; returns their folder. Raises UserError.

    Args:
        out: the new folder; None makes one in the job's `renders`.
        kinds: some of `config.PICTURE_KINDS`.
        n_frames: of a turn, 0..720; 0 makes no videos. size: width and height in pixels, 32..2048. None: as the job's turntable.
    """
    from engine.field_pictures import write_six_views, write_turns
    from engine.jobs import pick_device
    from engine.training.checkpoint import latest_checkpoint
    from engine.training.trained import load_trained

    folder = _open(job)
    size = folder.config.output.turntable_size_px if size is None else size
    n_frames = folder.config.output.turntable_frames if n_frames is None else n_frames
    check_range("size", size, 32, 2048)
    check_range("frames", n_frames, 0, 720)
    checkpoint = latest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise _nothing_trained(job)
    trained = load_trained(folder.config, checkpoint, pick_device(device))
    out = out or _next_number(folder.path / "renders")
    with _whole_folder(out) as partial:
        write_turns(partial, trained, kinds, n_frames, size, lambda done, of: report("render", done, of))
        write_six_views(partial, trained, kinds, size)
    return out


def export_job(job: Path, out: Path | None, settings: Mapping[str, str], *, device: str, report: ReportFn) -> Path:
    """The mesh of a job's last checkpoint with other settings, as a result folder; returns it. Raises UserError.

    Args:
        out: the new folder; None makes one in the job's `exports`. The job's own result stays as it is.
        settings: values as typed by key, of LATE_GROUPS.
    """
    from engine.extraction import extract_mesh
    from engine.field_pictures import write_wanted_pictures
    from engine.jobs import pick_device
    from engine.result_files import write_result_files
    from engine.result_info import result_info
    from engine.training.checkpoint import latest_checkpoint
    from engine.training.trained import load_trained

    started = time.monotonic()
    folder = _open(job)
    folder = dataclasses.replace(folder, config=_changed(folder.config, settings))
    checkpoint = latest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise _nothing_trained(job)
    torch_device = pick_device(device)
    trained = load_trained(folder.config, checkpoint, torch_device)
    out = out or _next_number(folder.path / "exports")
    with _whole_folder(out) as partial:
        mesh = extract_mesh(trained, folder.config.mesh, lambda _phase, fraction: report("mesh", round(100 * fraction), 100))
        write_result_files(partial, mesh, folder.config.output, slug_of(folder.request.title), lambda k, of: report("export", k, of))
        write_wanted_pictures(partial, trained, folder.config.output, lambda k, of: report("render", k, of))
        seconds = {"mesh": mesh.stats.seconds, "total": time.monotonic() - started}
        meta = checkpoint.meta
        info = result_info(folder, mesh, device=torch_device, steps_done=meta["step"], restarts=meta["restarts"], seconds=seconds)
        write_json(partial / "result.json", info)
    return out


def _open(job: Path) -> JobFolder:
    if not (job / "job.json").is_file():
        raise UserError(f"There is no job in {job}.", "Give the folder of a job, the one that holds job.json.", "option")
    request, config = read_job(job)
    if request.stage != "generate":
        text = f"The job in {job} is of the stage {request.stage}: it has a surface and no field to look at."
        raise UserError(text, "Give the job that made the field, or open the mesh in this one's result.", "option")
    return JobFolder(job.resolve(), request, config)


def _nothing_trained(job: Path) -> UserError:
    fix = f'Train it first: python -m engine generate --resume --out "{job}"'
    return UserError(f"The job in {job} has no checkpoint, so there is nothing to show yet.", fix, "checkpoint")


def _changed(config: JobConfig, settings: Mapping[str, str]) -> JobConfig:
    groups: dict[str, dict[str, object]] = {}
    for key, text in settings.items():
        option = options()[key]
        groups.setdefault(option.group, {})[option.name] = parse_value(text, option.kind, option.flag[2:])
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values) for group, values in groups.items()})


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` at the end, or vanishes. Raises UserError."""
    if out.exists():
        raise UserError(f"{out} is there already.", "Use another --out; nothing is written over.", "output")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir(parents=True)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise UserError(f"Writing to {out} failed: {error.strerror or error}.", "Make room, or use another --out.", "output") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _next_number(folder: Path) -> Path:
    return folder / str(max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0) + 1)
