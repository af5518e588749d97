"""Give a field the shape of a mesh, and its colors where it has any: what `generate --init` starts from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from engine.fields.field import RadianceField
from engine.meshing.signed_distance import signed_distance
from engine.meshing.source_mesh import SourceMesh

N_STEPS, N_PLACES = 200, 8192
LEARNING_RATE = 0.02
# Lattice on which the distance is measured, cells along the mesh's longest side.
RESOLUTION = 48
# Half of the places lie this near the surface (standard deviation, world units), the rest anywhere in the box.
SPREAD = 0.06
# The outline is as soft as this, world units: a field that is trained on has no harder one.
SOFTNESS = 0.02
COLOR_WEIGHT = 0.2


def fit_shape(field: RadianceField, source: SourceMesh, step_size: float, generator: np.random.Generator) -> float:
    """Train the field's density to the inside of the mesh, and its albedo to its colors; returns the last mean squared error.

    Args:
        step_size: length of a sample in world units; what is fitted is the opacity of one such sample.
    Raises: UserError if the mesh encloses nothing.
    """
    device = next(field.parameters()).device
    distance = signed_distance(source.vertices, source.faces, resolution=RESOLUTION, margin_cells=2)
    optimizer = torch.optim.Adam(field.parameter_groups(LEARNING_RATE), lr=LEARNING_RATE, betas=(0.9, 0.99), eps=1e-15)
    error = torch.zeros(())
    for step in range(N_STEPS):
        near, face, weights = source.sample_surface(N_PLACES // 2, generator)
        near = (near + generator.normal(0.0, SPREAD, near.shape)).clip(-1, 1)
        anywhere = generator.uniform(-1, 1, (N_PLACES // 2, 3))
        places = torch.from_numpy(np.concatenate([near, anywhere]).astype(np.float32)).to(device)
        densities, albedo = field(places)
        wanted = torch.sigmoid(-distance.at(places) / SOFTNESS)
        error = F.mse_loss(1 - torch.exp(-densities * step_size), wanted)
        loss = error
        if source.has_colors:
            loss = loss + COLOR_WEIGHT * F.l1_loss(albedo[: N_PLACES // 2], torch.from_numpy(source.colors_at(face, weights)).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * group["lr_scale"] * (1 - step / N_STEPS)
        optimizer.step()
    return float(error.detach())
