"""The refine stage: whole jobs with a tiny random model, and what it does to a shape under an oracle."""

import json

import numpy as np
import pytest
import torch

from engine.config import make_config
from engine.fields.field import make_field
from engine.jobs import run_job
from engine.meshing.cleanup import is_closed
from engine.meshing.isosurface import extract
from engine.meshing.raster import iou, silhouettes
from engine.protocol import JobRequest, Progress
from engine.scene.sampling import survey_cameras
from engine.training.control import Control
from engine.training.surface_losses import laplacian_loss, normal_consistency_loss
from engine.training.surface_model import DeformableSurface
from engine.training.surface_render import Surface, render_surface
from engine.training.surface_trainer import SurfaceTrainer
from tests.unit.jobs.conftest import SMALL
from tests.unit.meshing.known_fields import KnownField, sphere, torus

CPU = torch.device("cpu")
STAGE = {flag[2:]: value for flag, value in zip(SMALL[0::2], SMALL[1::2])} | {
    "training.preview-every-s": "0",
    "surface.resolution": "0,10,0.5,10,0.5,14",
}


@pytest.fixture(autouse=True)
def every_progress(monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)


def ball(radius):
    return extract(KnownField(lambda p: sphere(p, radius=radius)).density_at, resolution=32, isovalue=40)


def run(request, folder, control=None, **how):
    events = []
    control = control or Control()

    def emit(event):
        events.append(event)
        if hasattr(control, "watch"):
            control.watch(event)

    return run_job(request, folder, emit, control, **how), events


def test_a_job_refines_the_mesh_of_another_and_a_broken_one_goes_on_to_the_same_mesh(model, tmp_path):
    from tests.unit.jobs.test_generate import AskAt

    assert run(JobRequest(prompt="a red mug", model=model, overrides=STAGE), tmp_path / "first")[0] == 0
    request = JobRequest(prompt="a red mug", model=model, overrides=STAGE, stage="refine", start_from=str(tmp_path / "first"))
    code, events = run(request, tmp_path / "whole")
    assert code == 0, events[-1]
    info = json.loads((tmp_path / "whole/result/result.json").read_text())
    assert info["stage"] == "refine" and info["stats"]["open_edges"] == 0 and info["stats"]["silhouette_iou"] > 0.95
    assert is_closed(np.load(tmp_path / "whole/result/mesh.npz")["faces"])
    assert list(dict.fromkeys(e.phase for e in events if isinstance(e, Progress))) == ["load", "train", "mesh", "texture", "export"]
    assert run(request, tmp_path / "broken", AskAt("cancel", 5))[0] == 130  # on the finer of the two lattices
    assert run(None, tmp_path / "broken", resume=True)[0] == 0
    broken, whole = (np.load(tmp_path / name / "result/mesh.npz")["vertices"] for name in ("broken", "whole"))
    assert np.array_equal(broken, whole)


class Wanted:
    """An oracle: pulls every picture to that of a known mesh in clay, squared error as a diffusion model's target would."""

    def __init__(self, vertices, faces):
        self.surface = Surface(torch.from_numpy(vertices), torch.from_numpy(faces).long())

    def loss(self, images, cameras, shading, step, n_steps, generator):
        size = images.shape[1]
        white = torch.ones(len(cameras), 3)
        wanted = render_surface(self.surface, torch.ones_like, cameras, size, size, background=white).opacity
        seen = 1 - images.mean(-1)  # black on white
        return 0.5 * (seen - wanted).square().sum() / len(cameras)


def oracle_trainer(start, wanted, n_steps, **changes):
    overrides = {
        "training.n-steps": str(n_steps), "training.batch-size": "3", "render.size-px": "32", "surface.resolution": "14",
        "light.textureless-ratio": "0", "light.lambertian-ratio": "0", "field.finest-resolution": "16", "field.n-levels": "2",
        "loss.lambda-smooth": "0", "surface.shape-rate": "10", "optimizer.warm-up-steps": "0", "surface.lambda-normal": "20",
        "surface.lambda-laplacian": "5",
    } | changes  # fmt: skip
    config = make_config("draft", overrides, "refine")

    def make_model(generator):
        colors = make_field(config.field, generator)
        return DeformableSurface.of_mesh(*start, 14, colors, CPU)

    return SurfaceTrainer(config, 0, CPU, Wanted(*wanted), make_model)


@pytest.fixture
def black_on_white(monkeypatch):
    """The oracle sees the outline alone."""
    from engine.training import surface_trainer

    def outline(surface, albedo_at, cameras, height, width, **how):
        how["background"] = torch.ones(len(cameras), 3)
        return render_surface(surface, torch.zeros_like, cameras, height, width, **how)

    monkeypatch.setattr(surface_trainer, "render_surface", outline)


def test_under_an_oracle_a_ball_grows_to_the_size_of_the_pictures(black_on_white):
    trainer = oracle_trainer(ball(0.5), ball(0.56), 40)
    cameras = survey_cameras(6)
    wanted = silhouettes(*ball(0.56), cameras, 64, 64)
    for _ in range(40):
        trainer.train_step()
    shape = trainer.rough_shape()
    assert is_closed(shape.faces)
    assert iou(silhouettes(*ball(0.5), cameras, 64, 64), wanted) < 0.83
    assert iou(silhouettes(shape.vertices, shape.faces, cameras, 64, 64), wanted) > 0.95


def test_a_shape_keeps_its_place_and_genus_on_another_lattice():
    vertices, faces = extract(KnownField(torus).density_at, resolution=48, isovalue=40)
    colors = make_field(make_config("draft", {}).field, torch.Generator().manual_seed(0))
    coarse = DeformableSurface.of_mesh(vertices, faces, 24, colors, CPU)
    fine = coarse.refined(36)
    assert coarse.refined(24) is None and fine.resolution == 36 and fine.colors is coarse.colors
    cameras = survey_cameras(8)
    wanted = silhouettes(vertices, faces, cameras, 64, 64)
    for surface in (coarse.surface(), fine.surface()):
        vertices, faces = surface.vertices.detach().numpy(), surface.faces.numpy()
        assert is_closed(faces) and len(vertices) - len(faces) / 2 == 0  # Euler's number of a torus
        assert iou(silhouettes(vertices, faces, cameras, 64, 64), wanted) > 0.95


def test_normal_consistency_and_laplacian_have_their_closed_forms():
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    right_angle = Surface(corner, torch.tensor([[0, 1, 2], [1, 0, 3]]))
    assert normal_consistency_loss(right_angle).item() == pytest.approx(1.0)
    flat = Surface(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]), torch.tensor([[0, 1, 2], [1, 3, 2]]))
    assert normal_consistency_loss(flat).item() == pytest.approx(0.0)
    tetrahedron = Surface(corner, torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    away = (corner.sum(0, keepdim=True) - corner) / 3 - corner
    assert laplacian_loss(tetrahedron, 0.5).item() == pytest.approx((away.norm(dim=1) / 0.5).mean().item())
    for loss in (normal_consistency_loss, lambda surface: laplacian_loss(surface, 0.3)):
        noisy = (corner + 0.1 * torch.rand(corner.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()
        assert torch.autograd.gradcheck(lambda at, loss=loss: loss(Surface(at, tetrahedron.faces)), noisy)
    assert laplacian_loss(Surface(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), 0.3).item() == 0


def test_a_weight_on_the_grids_variation_counts_on_a_surface_too():
    plain, weighted = (
        oracle_trainer(ball(0.5), ball(0.5), 4, **{"loss.lambda-grid-tv": weight}).train_step().loss.item() for weight in ("0", "1e4")
    )
    assert weighted > plain


def test_a_vanishing_surface_is_told_and_not_a_traceback():
    from engine.errors import UserError

    trainer = oracle_trainer(ball(0.5), ball(0.5), 4)
    with torch.no_grad():
        for model in (trainer.model, trainer.ema.module):
            model.values.fill_(1.0)
    assert trainer.picture(survey_cameras(2), 32, 32).opacity.sum() == 0
    for action in (trainer.rough_shape, lambda: trainer.model.refined(30)):
        with pytest.raises(UserError, match="vanished"):
            action()
