"""result.json: how a mesh came about, so that it can be told, compared and made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from engine.config import config_to_json
from engine.guidance.model_table import find_model
from engine.job_folder import JobFolder, slug_of
from engine.meshing.mesh_stage import MeshResult
from engine.result_files import peak_memory_bytes, versions
from engine.scene.baked_light import baked_light
from engine.stages import source_info
from engine.training.teacher import make_guidance
from engine.version import ENGINE_VERSION


def result_info(
    folder: JobFolder, mesh: MeshResult, *, device: torch.device, steps_done: int, restarts: int, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The content of result.json. seconds: wall time by phase."""
    request, n_steps = folder.request, folder.config.training.n_steps
    return {
        "format": 1,
        "engine": ENGINE_VERSION,
        "slug": slug_of(request.title),
        "title": request.title,
        **{name: asdict(request)[name] for name in ("prompt", "negative", "model", "preset", "seed")},
        **_model_info(folder),
        "request": asdict(request),
        "config": config_to_json(folder.config),
        "versions": versions(),
        "device": str(device),
        "steps_done": steps_done,
        "n_steps": n_steps,
        "restarts": restarts,
        **source_info(folder),
        "finished_early": steps_done < n_steps,
        "stats": {**asdict(mesh.stats), "n_vertices": len(mesh.vertices)},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _model_info(folder: JobFolder) -> dict[str, Any]:
    """What an object made with the model must tell about it."""
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
