"""One job from request to result folder. The command line and the server both run jobs through `run_job`.

torch is imported only when a request has been found good, so that a bad one is answered at once.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import JobConfig, check_request
from engine.continuation import find_start
from engine.drawn_mesh import check_drawing, draw_mesh, is_drawn
from engine.errors import UserError
from engine.job_failures import DONE, JobCancelledError, failure_of, is_out_of_memory
from engine.job_folder import JobFolder, check_folder, create_job, open_job, output_errors, slug_of, write_json
from engine.job_lock import JobLock
from engine.model_fit import check_fit
from engine.protocol import Event, JobRequest, Plan, Preview, Progress, Proxy, Result, Warn
from engine.stages import find_source
from engine.tensorboard_log import TensorboardLog, check_tensorboard
from engine.training.control import Control

if TYPE_CHECKING:
    import torch

    from engine.meshing.mesh_stage import MeshResult
    from engine.previews import AnyTrainer

EmitFn = Callable[[Event], None]
# Progress lines a second; a reader of a fast run must not drown in them.
PROGRESS_EVERY_S = 0.1
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
            raise JobCancelledError


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
    lock = JobLock(out_dir)
    try:
        folder, warnings = _prepare(request, out_dir, lock, resume=resume, overwrite=overwrite)
        run = _Run(folder, job, emit, control, time.monotonic(), {})
        for text in warnings:
            run.warn(text)
        with output_errors(folder.path):
            _run_phases(run)
        run.emit(Result(job=job, folder=str(folder.result)))
        return DONE
    except Exception as error:  # noqa: BLE001 - the last door: a user never sees a traceback
        failed, code = failure_of(error, job, None if folder is None else folder.path, out_dir)
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
        return folder, check_model(folder.request, folder.config)
    if request is None:
        raise UserError("The prompt is empty.", 'Say what to make, for example "a red mug".', "prompt")
    config = check_request(request)
    check_folder(out_dir, resume=False, overwrite=overwrite)
    warnings = check_model(request, config)
    start = find_start(request, config, out_dir) if request.start_from and request.stage == "generate" else None
    source, config = find_source(request, config, out_dir)
    with output_errors(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    return create_job(out_dir, request, overwrite=overwrite, start=start, source=source, config=config), warnings


def check_model(request: JobRequest, config: JobConfig) -> list[str]:
    """Whether the model is there, knows the prompt's thing and gets what it needs, and what else is optional is installed; reads small
    files only.

    Returns warnings. Raises UserError.
    """
    from engine.guidance.model_table import find_model, free_prompt_models, model_folder
    from engine.guidance.vocabulary import check_prompt
    from engine.model_store import layout

    if config.output.tensorboard:
        check_tensorboard()
    model = find_model(request.model)
    folder = model_folder(model)
    if Path(model.path).is_absolute():  # a folder of the user's, which nobody has looked at yet
        layout.check_folder(folder)
    check_fit(model, request, config)
    vocabulary = model.load_vocabulary()
    if vocabulary is None:
        return []
    texts = [request.prompt, *config.guidance.own_texts().values()]
    known = [check_prompt(text, vocabulary, free_prompt_models()) for text in texts]
    unknown = list(dict.fromkeys(word for found in known for word in found.unknown))
    return [f"{model.title} does not know {', '.join(unknown)} and leaves it out."] if unknown else []


def _run_phases(run: _Run) -> None:
    folder = run.folder
    if (folder.result / "result.json").is_file():
        return  # resumed though done: what was asked for is there
    shutil.rmtree(folder.partial_result, ignore_errors=True)  # of an engine that was killed
    _draw_source(run)
    trainer, device = _trained(run)
    mesh = _mesh(run, trainer)
    _export(run, trainer, mesh, device)


def _draw_source(run: _Run) -> None:
    """The mesh that the job starts from, where a model draws it and has not done so; before the diffusion model takes the memory."""
    request, target = run.folder.request, run.folder.source
    if request.stage != "generate" or target.is_file() or not is_drawn(request.start_mesh):
        return
    root = check_drawing(request.start_mesh)
    start = time.monotonic()

    def report(step: int, of: int) -> None:
        run.stop_if_cancelled()
        pace = (time.monotonic() - start) / max(step, 1)
        run.progress("load", step, of, pace, pace * (of - step) if step else -1.0, "Drawing the first shape with Shap-E")

    mesh = draw_mesh(root, request.prompt, request.seed, pick_device(request.device), report)
    partial = target.with_suffix(".partial")
    mesh.save(partial)
    partial.replace(target)
    _free_memory()
    run.seconds["draw"] = time.monotonic() - start


def _trained(run: _Run) -> tuple[AnyTrainer, torch.device]:
    """Load and train; where the memory runs full, again from the last checkpoint with less of it, until nothing is left to save."""
    from engine.guidance.memory import lower_level

    config = run.folder.config
    while True:
        try:
            trainer, device = _load(run, config)
            _train(run, trainer)
            return trainer, device
        except Exception as error:
            vram, lower = config.model.vram, lower_level(config.model.vram)
            if not is_out_of_memory(error) or lower is None:
                raise
        config = replace(config, model=replace(config.model, vram=lower))
        trainer = None  # type: ignore[assignment]  # before the next one is loaded
        _free_memory()
        place = "the last checkpoint" if any(run.folder.checkpoints.glob("step-*")) else "the start"
        run.warn(f"The memory was full with --vram {vram}. Going on from {place} with --vram {lower}.")


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()  # a failed step leaves cycles behind
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load(run: _Run, config: JobConfig) -> tuple[AnyTrainer, torch.device]:
    start = time.monotonic()
    run.progress("load", 0, 3, text="Starting torch")
    from engine.guidance.configured import load_configured
    from engine.guidance.model_table import find_model, model_folder
    from engine.guidance.picture_views import PicturePrompted
    from engine.make_trainer import make_trainer
    from engine.training.checkpoint import latest_checkpoint
    from engine.training.clip_teacher import make_clip_teacher
    from engine.training.plan import make_plan
    from engine.training.reference import as_prompt, joined_cameras, load_known_views
    from engine.training.surface_trainer import SurfaceTrainer
    from engine.training.surface_views import CONTROL_PX
    from engine.training.teacher import DiffusionTeacher, make_prompts

    request = run.folder.request
    checkpoint = latest_checkpoint(run.folder.checkpoints)  # before the model: a damaged one is found at once
    device = pick_device(request.device)
    run.stop_if_cancelled()
    run.progress("load", 1, 3, text=f"Loading {request.model}")
    model = find_model(request.model)
    denoiser = load_configured(model_folder(model), device, config.model, model.id)
    run.stop_if_cancelled()
    known_views = load_known_views(request, run.folder.path, config.reference, device)
    if isinstance(denoiser, PicturePrompted):
        denoiser.look_at(as_prompt(known_views))
    by_angle = {"on": True, "off": False, "auto": isinstance(denoiser, PicturePrompted)}[config.reference.guidance_by_angle]
    known_cameras = joined_cameras(known_views) if known_views and by_angle else None
    run.progress("load", 2, 3, text="Reading the prompt")
    prompts = make_prompts(denoiser, model, request.prompt, request.negative, config.guidance, config.camera)
    denoiser.drop_text_encoder()
    beside = None
    if config.guidance.clip_model:
        pictures = as_prompt(known_views) if known_views else None
        beside = make_clip_teacher(request.prompt, config.guidance, config.camera, pictures, device, config.model.precision)
    teacher = DiffusionTeacher(denoiser, prompts, config.guidance, known_cameras, beside)
    trainer = make_trainer(run.folder, config, device, teacher, known_views)
    if config.model.control_net and isinstance(trainer, SurfaceTrainer):
        teacher.watch(lambda cameras: trainer.control_picture(cameras, min(denoiser.image_size, CONTROL_PX)))
    run.emit(Plan(job=run.job, text=str(make_plan(trainer, denoiser, checkpoint.meta["step"] if checkpoint else 0))))
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


def _train(run: _Run, trainer: AnyTrainer) -> None:
    from engine.previews import Previews
    from engine.training.checkpoint import save_checkpoint
    from engine.training.loop import CancelledError, Hooks, train

    start = time.monotonic()
    folder = run.folder

    def checkpoint() -> None:
        save_checkpoint(folder.checkpoints, trainer.step, trainer.checkpoint())

    def progress(step: int, of: int, seconds_per_step: float, eta_s: float) -> None:
        run.progress("train", step, of, seconds_per_step, eta_s + MESH_GUESS_S)

    log = TensorboardLog(folder.path, trainer.step) if folder.config.output.tensorboard else None

    def emit(event: Event) -> None:
        run.emit(event)
        if log is not None:
            log.see(event)

    previews = Previews(trainer, folder.previews, run.job, run.control, emit)
    hooks = Hooks(progress=progress, preview=previews.tick, checkpoint=checkpoint, warn=run.warn)
    if log is not None:
        hooks = replace(hooks, measured=log.step)
    try:
        train(trainer, run.control, hooks, seed=folder.request.seed)
        checkpoint()
        previews.finish()
    except CancelledError:
        raise JobCancelledError from None
    finally:
        if log is not None:
            log.close()
    run.seconds["train"] = time.monotonic() - start


def _mesh(run: _Run, trainer: AnyTrainer) -> MeshResult:
    from engine.stage_meshes import result_mesh

    start = time.monotonic()

    def report(phase: str, fraction: float) -> None:
        run.stop_if_cancelled()
        done = round(100 * fraction)
        left = max(0.0, MESH_GUESS_S * (1 - fraction))
        run.progress("mesh" if phase in ("surface", "simplify") else "texture", done, 100, 0.0, left, phase)

    mesh = result_mesh(trainer, run.folder, report)
    run.seconds["mesh"] = time.monotonic() - start
    return mesh


def _export(run: _Run, trainer: AnyTrainer, mesh: MeshResult, device: torch.device) -> None:
    from engine.field_pictures import write_wanted_pictures
    from engine.result_files import write_result_files
    from engine.result_info import result_info
    from engine.training.trainer import Trainer

    start = time.monotonic()
    folder = run.folder
    slug = slug_of(folder.request.title)
    folder.partial_result.mkdir()
    write_result_files(folder.partial_result, mesh, folder.config.output, slug, lambda done, of: run.progress("export", done, of))
    run.stop_if_cancelled()
    if isinstance(trainer, Trainer):
        write_wanted_pictures(folder.partial_result, trainer.trained, folder.config.output, lambda _done, _of: run.stop_if_cancelled())
    run.seconds["export"] = time.monotonic() - start
    run.seconds["total"] = time.monotonic() - run.started
    info = result_info(folder, mesh, device=device, steps_done=trainer.step, restarts=trainer.restarts, seconds=run.seconds)
    write_json(folder.partial_result / "result.json", info)
    folder.partial_result.rename(folder.result)
    run.progress("export", 1, 1, 0.0, 0.0)
