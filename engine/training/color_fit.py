"""Give a field the colors that a mesh has already.

Shapes: n places on the surface.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from engine.fields.field import RadianceField
from engine.meshing.source_mesh import SourceMesh
from engine.training.surface_model import albedo_of

N_STEPS, N_PLACES = 80, 8192
LEARNING_RATE = 0.02
# The color is also learned this far off the surface (standard deviation, world units), where the surface may move to.
SPREAD = 0.02


def fit_colors(field: RadianceField, source: SourceMesh, generator: np.random.Generator) -> float:
    """Train the field's albedo to the mesh's colors; returns the last mean absolute error in 0..1.

    All levels are open meanwhile, for the texture is there in all its detail already.
    """
    device = next(field.parameters()).device
    optimizer = torch.optim.Adam(field.parameter_groups(LEARNING_RATE), lr=LEARNING_RATE, betas=(0.9, 0.99), eps=1e-15)
    error = 0.0
    for step in range(N_STEPS):
        places, face, weights = source.sample_surface(N_PLACES, generator)
        places += generator.normal(0.0, SPREAD, places.shape).astype(np.float32) * (step % 2)
        wanted = torch.from_numpy(source.colors_at(face, weights)).to(device)
        loss = F.l1_loss(albedo_of(field, torch.from_numpy(places).to(device)), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * group["lr_scale"] * (1 - step / N_STEPS)
        optimizer.step()
        error = float(loss.detach()) if step % 2 == 0 else error
    return error
