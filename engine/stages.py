"""The stages that start from a mesh: which mesh, and with what settings. torch and the meshing libraries only where it is read.

The mesh is copied into the new job's folder first (source.npz). From then on the job is like any other: it resumes by itself,
and the file or job that it came from may go.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import JobConfig
from engine.drawn_mesh import check_drawing, is_drawn
from engine.errors import UserError
from engine.job_folder import JobFolder, read_job
from engine.protocol import JobRequest
from engine.start_sphere import is_sphere, sphere_mesh

if TYPE_CHECKING:
    from engine.meshing.source_mesh import SourceMesh


def stage_request(stage: str, source: Path) -> JobRequest:
    """What a stage on `source` asks for without further words: for a job folder, what that job did; for a file only the mesh.

    The settings of the other job are not taken over: they were made for a field.
    """
    if not source.is_dir():
        return JobRequest(prompt="", stage=stage, start_mesh=str(source))
    before, _ = _read(source)
    kept = {name: getattr(before, name) for name in ("prompt", "negative", "model", "preset", "seed", "device")}
    return JobRequest(**kept, stage=stage, start_from=str(source))


def find_source(request: JobRequest, config: JobConfig, out_dir: Path) -> tuple[SourceMesh | None, JobConfig]:
    """The mesh that the job starts from (None: from nothing), and `config` with what depends on it settled. Raises UserError."""
    if not request.start_mesh and (request.stage == "generate" or not request.start_from):
        return None, config
    if request.stage == "generate" and is_sphere(request.start_mesh):
        return sphere_mesh(request.start_mesh), config
    if request.stage == "generate" and is_drawn(request.start_mesh):
        if not request.prompt.strip():
            fix = "Say what the picture shows, or start from a mesh file."
            raise UserError("Shap-E draws from words, and the prompt is empty.", fix, "prompt")
        check_drawing(request.start_mesh)
        return None, config  # the job draws it, as its first phase
    from engine.meshing.source_mesh import read_mesh, read_result

    if request.start_mesh:
        source, same_prompt = read_mesh(Path(request.start_mesh)), False
    else:
        folder = Path(request.start_from)
        if folder.resolve() == out_dir.resolve():
            raise UserError(f"The job cannot start from {folder} and be written there.", "Use another --out.", "output")
        before, _ = _read(folder)
        source, same_prompt = read_result(folder), before.prompt.strip() == request.prompt.strip()
    colors = config.surface.colors
    if colors == "source" and not source.has_colors:
        raise UserError("surface.colors is source, but the mesh has no colors.", "Use --surface.colors gray.", "option")
    if colors == "auto":
        colors = "source" if same_prompt and source.has_colors else "gray"
    return source, dataclasses.replace(config, surface=dataclasses.replace(config.surface, colors=colors))


def source_info(folder: JobFolder) -> dict[str, Any]:
    """For result.json: how the result's places become those of the mesh file it was made from."""
    if not folder.source.is_file():
        return {}
    from engine.meshing.source_mesh import SourceMesh

    source = SourceMesh.load(folder.source)
    return {"stage": folder.request.stage, "source": {"center": list(source.center), "scale": source.scale}}


def _read(folder: Path) -> tuple[JobRequest, JobConfig]:
    if not (folder / "job.json").is_file():
        text = f"There is no job in {folder} to start from."
        raise UserError(text, "Give the folder of a finished job, the one that holds job.json, or a mesh file.", "mesh")
    return read_job(folder)
