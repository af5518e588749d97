"""The trainer of a job, by its stage: of a field, or of the surface that it starts from."""

from __future__ import annotations

import numpy as np
import torch

from engine.fields.field import RadianceField, make_field
from engine.job_folder import JobFolder
from engine.meshing.source_mesh import SourceMesh
from engine.previews import AnyTrainer
from engine.schedule import scheduled
from engine.training.color_fit import fit_colors
from engine.training.reference import KnownView
from engine.training.surface_model import DeformableSurface, FixedSurface, SurfaceModel
from engine.training.surface_trainer import SurfaceTrainer
from engine.training.trainer import Teacher, Trainer


def make_trainer(folder: JobFolder, device: torch.device, teacher: Teacher, known_view: KnownView | None) -> AnyTrainer:
    """Ready for the first step, or for `restore`. Raises UserError if the source mesh in the folder is damaged."""
    request, config = folder.request, folder.config
    if request.stage == "generate":
        return Trainer(config, request.seed, device, teacher, known_view)
    source = SourceMesh.load(folder.source)

    def make_model(generator: torch.Generator) -> SurfaceModel:
        colors = _colors(folder, source, generator, device)
        if request.stage == "texture":
            return FixedSurface(source.vertices, source.faces, colors, device)
        resolution = round(scheduled(config.surface.resolution, 0, config.training.n_steps))
        return DeformableSurface.of_mesh(source.vertices, source.faces, resolution, colors, device)

    return SurfaceTrainer(config, request.seed, device, teacher, make_model)


def _colors(folder: JobFolder, source: SourceMesh, generator: torch.Generator, device: torch.device) -> RadianceField:
    field = make_field(folder.config.field, generator).to(device)
    if folder.config.surface.colors == "source":
        draws = int(torch.randint(2**31 - 1, (1,), generator=generator))
        fit_colors(field, source, np.random.default_rng(draws))
    return field
