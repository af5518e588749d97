"""The trainer of a job, by its stage: of a field, or of the surface that it starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from engine.config import JobConfig
from engine.fields.field import RadianceField, make_field
from engine.job_folder import JobFolder
from engine.meshing.source_mesh import SourceMesh
from engine.previews import AnyTrainer
from engine.rendering.render import step_size_for
from engine.schedule import scheduled
from engine.training.color_fit import fit_colors
from engine.training.reference import KnownView
from engine.training.run_state import Teacher
from engine.training.shape_fit import fit_shape
from engine.training.surface_model import DeformableSurface, FixedSurface, SurfaceModel
from engine.training.surface_trainer import SurfaceTrainer
from engine.training.trainer import Trainer


def make_trainer(
    folder: JobFolder, config: JobConfig, device: torch.device, teacher: Teacher, known_views: Sequence[KnownView]
) -> AnyTrainer:
    """Ready for the first step, or for `restore`; `config` is the folder's, or thriftier with memory.

    Raises: UserError if the source mesh in the folder is damaged.
    """
    request = folder.request
    source = SourceMesh.load(folder.source) if request.start_mesh or request.stage != "generate" else None
    if request.stage == "generate":
        return Trainer(config, request.seed, device, teacher, known_views, _shaper(folder, source))
    assert source is not None

    def make_model(generator: torch.Generator) -> SurfaceModel:
        colors = _colors(folder, source, generator, device)
        if request.stage == "texture":
            return FixedSurface(source.vertices, source.faces, colors, device)
        resolution = round(scheduled(config.surface.resolution, 0, config.training.n_steps))
        return DeformableSurface.of_mesh(source.vertices, source.faces, resolution, colors, device)

    return SurfaceTrainer(config, request.seed, device, teacher, make_model)


def _shaper(folder: JobFolder, source: SourceMesh | None) -> Callable[[RadianceField], None] | None:
    """Gives a new field the shape of the mesh that the job grows from, if there is one."""
    if source is None:
        return None
    step_size = step_size_for(folder.config.render.n_samples)

    def shape(field: RadianceField) -> None:
        fit_shape(field, source, step_size, np.random.default_rng(folder.request.seed))

    return shape


def _colors(folder: JobFolder, source: SourceMesh, generator: torch.Generator, device: torch.device) -> RadianceField:
    field = make_field(folder.config.field, generator).to(device)
    if folder.config.surface.colors == "source":
        draws = int(torch.randint(2**31 - 1, (1,), generator=generator))
        fit_colors(field, source, np.random.default_rng(draws))
    return field
