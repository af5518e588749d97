"""A field that starts with the shape and the colors of a mesh."""

import dataclasses

import numpy as np
import torch

from engine.config import make_config
from engine.meshing.isosurface import extract
from engine.meshing.raster import iou, silhouettes
from engine.meshing.source_mesh import SourceMesh
from engine.rendering.render import step_size_for
from engine.scene.sampling import survey_cameras
from engine.training.shape_fit import fit_shape
from engine.training.trainer import Trainer
from tests.unit.meshing.known_fields import KnownField, torus

SMALL = {"field.finest-resolution": "32", "field.n-levels": "3", "training.max-level": "1", "training.n-steps": "4"}


def test_a_new_field_has_the_mesh_s_shape_and_colors_also_after_a_restart():
    vertices, faces = extract(KnownField(torus).density_at, resolution=32, isovalue=40)
    colors = np.where(vertices[faces][..., :1] > 0, np.float32([0.9, 0.1, 0.1]), np.float32([0.1, 0.1, 0.9]))
    source = dataclasses.replace(SourceMesh(vertices, faces), corner_colors=colors.astype(np.float32))
    config = make_config("draft", SMALL)

    def initialise(field):
        error = fit_shape(field, source, step_size_for(config.render.n_samples), np.random.default_rng(0))
        assert error < 0.02

    trainer = Trainer(config, 0, torch.device("cpu"), None, initialise=initialise)
    trainer.occupancy.update(trainer.field.density, 0, trainer.device_generator)
    cameras = survey_cameras(4)
    picture = trainer.picture(cameras, 48, 48)
    wanted = silhouettes(vertices, faces, cameras, 48, 48)
    assert iou(picture.opacity.numpy() > 0.5, wanted) > 0.85
    places = torch.tensor([[0.55, 0.0, 0.0], [-0.55, 0.0, 0.0]])
    albedo = trainer.field(places)[1]
    assert albedo[0, 0] > 0.7 > albedo[0, 2] and albedo[1, 2] > 0.7 > albedo[1, 0]
    trainer.restart("empty")
    assert torch.allclose(trainer.field(places)[1], albedo, atol=0.1)
