"""One job from request to result folder. The command line and the server both run jobs through `run_job`.

torch is imported only when a request has been found good, so that a bad one is answered at once.
"""

from __future__ import annotations

import logging
import shutil
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import check_request
from engine.continuation import find_start
from engine.errors import UserError
from engine.job_folder import JobFolder, check_folder, create_job, open_job, output_errors, slug_of, write_json
from engine.job_lock import JobLock
from engine.protocol import CANCELLED, Event, Failed, JobRequest, Preview, Progress, Proxy, Result, Warn
from engine.training.control import Control
from engine.version import ENGINE_VERSION

if TYPE_CHECKING:
    import torch

    from engine.meshing.mesh_stage import MeshResult
    from engine.training.trainer import Trainer

logger = logging.getLogger(__name__)

EmitFn = Callable[[Event], None]
# Progress lines a second; a reader of a fast run must not drown in them.
PROGRESS_EVERY_S = 0.1
# Views by which the isovalue is chosen and the mesh is judged.
SILHOUETTE_VIEWS = 12
SILHOUETTE_PX = 96
# How long the mesh and the files take, guessed until they are done; only for the shown time left.
MESH_GUESS_S = 12.0


@dataclass
class _Run:
    """What a running job carries from phase to phase."""

    folder: JobFolder
    job: str
    send: EmitFn
    control: Control
    started: float
    seconds: dict[str, float]
    last_progress: float = 0.0
    last_phase: str = ""

    def emit(self, event: Event) -> None:
        if isinstance(event, Progress):
            now = time.monotonic()
            is_edge = event.phase != self.last_phase or event.step == event.of
            if not is_edge and now - self.last_progress < PROGRESS_EVERY_S:
                return
            self.last_progress, self.last_phase = now, event.phase
        if not isinstance(event, Proxy) and not (isinstance(event, Preview) and event.view == "camera"):
            self.folder.record(event)  # those follow the user's hand, several a second, and their files are soon gone
        self.send(event)

    def progress(self, phase: str, step: int, of: int, seconds_per_step: float = 0.0, eta_s: float = -1.0, text: str = "") -> None:
        self.emit(Progress(job=self.job, phase=phase, step=step, of=of, seconds_per_step=seconds_per_step, eta_s=eta_s, text=text))

    def warn(self, text: str) -> None:
        self.emit(Warn(job=self.job, text=text))

    def stop_if_cancelled(self) -> None:
        if self.control.cancelled:
            raise _CancelledError


class _CancelledError(Exception):
    """The user ended the job."""


def run_job(
    request: JobRequest | None,
    out_dir: Path,
    emit: EmitFn,
    control: Control,
    *,
    resume: bool = False,
    overwrite: bool = False,
    job: str = "",
) -> int:
    """Run a job to its end; every end is an event, none an exception.

    Args:
        request: what to make; None only with `resume`, which then takes what the folder says.
        out_dir: the job folder. `resume` continues from its last checkpoint, `overwrite` replaces it.
        emit: called with each event from the calling thread.
    Returns: 0 with a result, 2 if the user can mend what is wrong, 130 if cancelled, 1 for a fault of the engine.
    """
    job = job or uuid.uuid4().hex[:8]
    folder: JobFolder | None = None
    failed: Failed
    lock = JobLock(out_dir)
    try:
        folder, warnings = _prepare(request, out_dir, lock, resume=resume, overwrite=overwrite)
        run = _Run(folder, job, emit, control, time.monotonic(), {})
        for text in warnings:
            run.warn(text)
        with output_errors(folder.path):
            _run_phases(run)
        run.emit(Result(job=job, folder=str(folder.result)))
        return 0
    except _CancelledError:
        failed, code = Failed(job=job, code=CANCELLED, text="The job was cancelled.", fix="Continue it with --resume."), 130
    except UserError as error:
        failed, code = Failed(job=job, code=error.code, text=error.text, fix=error.fix), 2
    except ModuleNotFoundError as error:
        fix = "Set the engine up again, or install requirements/engine.txt into this Python."
        failed, code = Failed(job=job, code="setup", text=f"The engine's Python has no package {error.name}.", fix=fix), 2
    except Exception as error:  # noqa: BLE001 - the last door: a user never sees a traceback, it goes into a file
        if _is_out_of_memory(error):
            failed, code = _out_of_memory(job), 2
        else:
            failed, code = _fault(job, error, folder, out_dir), 1
    finally:
        lock.release()
    if folder is not None:
        folder.record(failed)
    emit(failed)
    return code


def _prepare(request: JobRequest | None, out_dir: Path, lock: JobLock, *, resume: bool, overwrite: bool) -> tuple[JobFolder, list[str]]:
    """Everything that can be refused before anything is written or loaded; takes the lock before the first thing is."""
    if resume and overwrite:
        raise UserError("--resume continues a job and --overwrite replaces it, so they exclude each other.", "Leave one out.", "option")
    if resume:
        folder = open_job(out_dir, request)
        with output_errors(out_dir):
            lock.acquire()
        return folder, _check_model(folder.request)
    if request is None:
        raise UserError("The prompt is empty.", 'Say what to make, for example "a red mug".', "prompt")
    config = check_request(request)
    check_folder(out_dir, resume=False, overwrite=overwrite)
    warnings = _check_model(request)
    start = find_start(request, config, out_dir) if request.start_from else None
    with output_errors(out_dir):
        out_dir.mkdir(exist_ok=True)
        lock.acquire()
    return create_job(out_dir, request, overwrite=overwrite, start=start), warnings


def _check_model(request: JobRequest) -> list[str]:
    """Whether the model is there and knows the prompt's thing; reads small files only. Returns warnings. Raises UserError."""
    from engine.guidance.model_table import find_model, free_prompt_models, model_folder
    from engine.guidance.vocabulary import check_prompt

    model = find_model(request.model)
    model_folder(model)
    vocabulary = model.load_vocabulary()
    if vocabulary is None:
        return []
    known = check_prompt(request.prompt, vocabulary, free_prompt_models())
    return [f"{model.title} does not know {', '.join(known.unknown)} and leaves it out."] if known.unknown else []


def _run_phases(run: _Run) -> None:
    folder = run.folder
    if (folder.result / "result.json").is_file():
        return  # resumed though done: what was asked for is there
    shutil.rmtree(folder.partial_result, ignore_errors=True)  # of an engine that was killed
    trainer, device = _load(run)
    _train(run, trainer)
    mesh = _mesh(run, trainer)
    _export(run, trainer, mesh, device)


def _load(run: _Run) -> tuple[Trainer, torch.device]:
    start = time.monotonic()
    run.progress("load", 0, 3, text="Starting torch")
    from engine.guidance.denoiser import Denoiser
    from engine.guidance.model_table import find_model, model_folder
    from engine.scene.view_prompts import ViewPrompts
    from engine.scene.view_weights import VIEWS
    from engine.training.checkpoint import latest_checkpoint
    from engine.training.reference import KnownView
    from engine.training.teacher import DiffusionTeacher
    from engine.training.trainer import Trainer

    request, config = run.folder.request, run.folder.config
    checkpoint = latest_checkpoint(run.folder.checkpoints)  # before the model: a damaged one is found at once
    device = pick_device(request.device)
    run.stop_if_cancelled()
    run.progress("load", 1, 3, text=f"Loading {request.model}")
    model = find_model(request.model)
    denoiser = Denoiser.load(model_folder(model), device)
    run.stop_if_cancelled()
    run.progress("load", 2, 3, text="Reading the prompt")
    words = {view: "" for view in VIEWS} if config.guidance.view_prompts == "off" else model.view_words
    mode: Any = "named" if config.guidance.view_prompts == "named" else "interpolated"
    prompts = ViewPrompts(request.prompt, request.negative, denoiser.embed, view_words=words, shading_words=model.shading_words, mode=mode)
    denoiser.drop_text_encoder()
    known_view = KnownView.load(run.folder.reference, config.reference, device) if request.reference_image else None
    trainer = Trainer(config, request.seed, device, DiffusionTeacher(denoiser, prompts, config.guidance), known_view)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    run.seconds["load"] = time.monotonic() - start
    run.progress("load", 3, 3)
    return trainer, device


def pick_device(name: str) -> torch.device:
    """A device by the request's word. Raises UserError if it is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device is {name}, but torch sees no such GPU here.", "Use --device auto.", "device")
    return device


def _train(run: _Run, trainer: Trainer) -> None:
    from engine.previews import Previews
    from engine.training.checkpoint import save_checkpoint
    from engine.training.loop import CancelledError, Hooks, train

    start = time.monotonic()
    folder = run.folder

    def checkpoint() -> None:
        save_checkpoint(folder.checkpoints, trainer.step, trainer.checkpoint())

    def progress(step: int, of: int, seconds_per_step: float, eta_s: float) -> None:
        run.progress("train", step, of, seconds_per_step, eta_s + MESH_GUESS_S)

    previews = Previews(trainer, folder.previews, run.job, run.control, run.emit)
    hooks = Hooks(progress=progress, preview=previews.tick, checkpoint=checkpoint, warn=run.warn)
    try:
        train(trainer, run.control, hooks, seed=folder.request.seed)
    except CancelledError:
        raise _CancelledError from None
    checkpoint()
    previews.finish()
    run.seconds["train"] = time.monotonic() - start


def _mesh(run: _Run, trainer: Trainer) -> MeshResult:
    import torch

    from engine.meshing.mesh_stage import make_mesh
    from engine.scene.sampling import survey_cameras

    start = time.monotonic()
    cameras = survey_cameras(SILHOUETTE_VIEWS)
    field = trainer.ema.module

    def report(phase: str, fraction: float) -> None:
        run.stop_if_cancelled()
        done = round(100 * fraction)
        left = max(0.0, MESH_GUESS_S * (1 - fraction))
        run.progress("mesh" if phase in ("surface", "simplify") else "texture", done, 100, 0.0, left, phase)

    with torch.no_grad(), field.frozen():
        opacity = trainer.picture(cameras, SILHOUETTE_PX, SILHOUETTE_PX).opacity.cpu()
        mesh = make_mesh(
            field.density,
            lambda positions: field(positions)[1],
            opacity,
            cameras,
            run.folder.config.mesh,
            report=report,
            device=trainer.device,
        )
    run.seconds["mesh"] = time.monotonic() - start
    return mesh


def _export(run: _Run, trainer: Trainer, mesh: MeshResult, device: torch.device) -> None:
    from engine.result_files import peak_memory_bytes, versions, write_result_files

    start = time.monotonic()
    folder = run.folder
    slug = slug_of(folder.request.prompt)
    folder.partial_result.mkdir()
    write_result_files(folder.partial_result, mesh, folder.config.output, slug, lambda done, of: run.progress("export", done, of))
    run.stop_if_cancelled()
    run.seconds["export"] = time.monotonic() - start
    run.seconds["total"] = time.monotonic() - run.started
    info = {
        "format": 1,
        "engine": ENGINE_VERSION,
        "slug": slug,
        **{name: asdict(folder.request)[name] for name in ("prompt", "negative", "model", "preset", "seed")},
        **_model_info(folder),
        "request": asdict(folder.request),
        "config": _job_json(folder)["config"],
        "versions": versions(),
        "device": str(device),
        "steps_done": trainer.step,
        "n_steps": trainer.n_steps,
        "restarts": trainer.restarts,
        "finished_early": trainer.step < trainer.n_steps,
        "stats": {**asdict(mesh.stats), "n_vertices": len(mesh.vertices)},
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_json(folder.partial_result / "result.json", info)
    folder.partial_result.rename(folder.result)
    run.progress("export", 1, 1, 0.0, 0.0)


def _model_info(folder: JobFolder) -> dict[str, Any]:
    """What an object made with the model must tell about it."""
    from engine.guidance.model_table import find_model
    from engine.scene.baked_light import baked_light
    from engine.training.teacher import make_guidance

    model = find_model(folder.request.model)
    config, n_steps = folder.config.guidance, folder.config.training.n_steps
    scale = getattr(make_guidance(config, n_steps, n_steps), "guidance_scale", 0.0)  # a scheduled one: how it ended
    light = baked_light(
        folder.config.light, n_steps, knows_unlit="albedo" in model.shading_words, has_reference=bool(folder.request.reference_image)
    )
    return {
        "model_title": model.title,
        "model_licence": model.licence,
        "guidance": config.method,
        "guidance_scale": scale,
        "baked_light": light,
    }


def _job_json(folder: JobFolder) -> dict[str, Any]:
    from engine.config import config_to_json

    return {"config": config_to_json(folder.config)}


def _is_out_of_memory(error: Exception) -> bool:
    """torch's own error by its name (torch may not be imported here), and what its libraries raise as RuntimeError."""
    words = ("out of memory", "alloc_failed", "allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(word in str(error).lower() for word in words)


def _out_of_memory(job: str) -> Failed:
    return Failed(
        job=job,
        code="memory",
        text="The memory is full.",
        fix="Close other programs, or use a smaller --training.batch-size or --device cpu.",
    )


def _fault(job: str, error: Exception, folder: JobFolder | None, out_dir: Path) -> Failed:
    """A sentence for the user; the traceback goes to error.log in the job folder, or to the log."""
    logger.exception("a fault of the engine")
    text = f"The engine hit a fault of its own ({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no text'})."
    if folder is not None:
        try:
            (folder.path / "error.log").write_text(traceback.format_exc(), encoding="utf-8")
        except OSError:
            return Failed(job=job, code="internal", text=text, fix="Try again with --resume.")
        return Failed(job=job, code="internal", text=text, fix=f"Report it with {folder.path / 'error.log'}.")
    return Failed(job=job, code="internal", text=text, fix=f"Try another --out than {out_dir}.")
