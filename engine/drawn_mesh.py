"""The mesh that a job starts from, drawn from its own prompt by Shap-E: `generate "a red mug" --init shap-e`.

Checked before the job is made, drawn as its first phase, kept as its source like the mesh of a file: a resumed job draws nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.guidance.helpers import HELPER_KINDS, helper_folder, is_helper, renderer_folder

if TYPE_CHECKING:
    import torch

    from engine.guidance.shap_e import ImplicitShape, StepFn
    from engine.meshing.source_mesh import SourceMesh

KIND = "shap-e"
# Points along an edge of the box, as Shap-E's own decoder has them.
GRID_POINTS = 128
# A loose piece smaller than this part of the object is a flaw of the drawing.
MIN_COMPONENT = 0.02


def is_drawn(init: str) -> bool:
    """Whether `--init` names a model that draws a mesh, or the folder of one, rather than a mesh file."""
    return is_helper(init, KIND) or bool(init) and Path(init).is_dir()


def check_drawing(init: str) -> Path:
    """The folder of the model that shall draw, found whole. Reads settings and headers alone. Raises UserError, code "model"."""
    from engine.model_store.layout import check_files, check_weights

    root = helper_folder(init, KIND)
    parts = {part: stem for part, stem in HELPER_KINDS[KIND].parts.items() if part != "renderer"}
    missing = [part for part in parts if not (root / part).is_dir()]
    renderer = renderer_folder(root)
    if (root / "job.json").is_file():
        fix = f"Go on from its checkpoint with --start-from {root}, or start anew from its mesh with --init and the .glb in its result."
        raise UserError(f"{root} is the folder of a job, not a mesh.", fix, "mesh")
    if missing or not renderer.is_dir():
        lacks = ", ".join([*missing, *([] if renderer.is_dir() else [renderer.name])])
        fix = "Give a mesh file, a folder in diffusers' ShapE layout, or fetch it: python -m engine models download shap-e"
        raise UserError(f"{root} is no Shap-E model: it lacks {lacks}.", fix, "model")
    parts[renderer.name] = HELPER_KINDS[KIND].parts["renderer"]
    check_weights(root, parts)
    check_files(root, parts)
    return root


def draw_mesh(root: Path, prompt: str, seed: int, device: torch.device, report: StepFn) -> SourceMesh:
    """A closed mesh with a color at each corner. What drew it is freed. `report` may raise to cancel. Raises UserError."""
    from engine.guidance.shap_e import ImplicitShape, draw_latent

    latent = draw_latent(root, prompt, seed=seed, device=device, report=report)
    return mesh_of(ImplicitShape(root, latent, device))


def mesh_of(shape: ImplicitShape) -> SourceMesh:
    """Where the signed distance is zero. Raises UserError if that is nowhere."""
    import numpy as np
    import torch

    from engine.meshing.cleanup import solid_pieces
    from engine.meshing.isosurface import LOG_RANGE, WORLD_BOX, sample_lattice, surface_of_lattice
    from engine.meshing.source_mesh import SourceMesh, fitted

    def density_at(positions: torch.Tensor) -> torch.Tensor:
        # The cut is made in the logarithm, where this is the distance again, and none of it lies beyond what the cut looks at.
        return (LOG_RANGE * shape.at(positions)[0]).exp()

    lattice = sample_lattice(density_at, resolution=GRID_POINTS - 1, aabb=np.array(WORLD_BOX))
    if not (lattice.densities > 1).any():
        raise UserError("Shap-E drew nothing for this prompt.", "Use another --seed, other words, or no --init.", "empty_field")
    vertices, faces = solid_pieces(*surface_of_lattice(lattice, 1.0), min_component=MIN_COMPONENT)
    colors = shape.at(torch.from_numpy(vertices))[1].numpy()
    places, center, scale = fitted(vertices.astype(np.float64))
    return SourceMesh(places.astype(np.float32), faces, corner_colors=colors[faces], center=center, scale=scale)
