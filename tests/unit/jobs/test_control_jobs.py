"""A ControlNet in whole jobs: it sees the mesh that is painted, what it sees makes a difference, and what does not fit is refused."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from engine.guidance.control_net import ControlNet
from engine.jobs import run_job
from engine.protocol import JobRequest
from engine.training.control import Control
from tests.tiny_control_net import build_control_net
from tests.tiny_families import build_tiny_if, build_tiny_sdxl
from tests.tiny_mvdream import build_tiny_mvdream
from tests.unit.jobs.test_texture import STAGE, box_file

FEW = {"training.n_steps": "3", "output.inspect_every": "2", "surface.resolution": "10"}


@pytest.fixture(scope="module")
def control_net(model, tmp_path_factory):
    return str(build_control_net(tmp_path_factory.mktemp("control") / "depth", model))


@pytest.fixture
def paint(model, tmp_path):
    """Run a stage on a box; returns exit code, events and folder."""
    box = str(box_file(tmp_path / "box.glb"))

    def run(name, stage="texture", **settings):
        overrides = {**STAGE, **FEW, **{f"model.{key}": value for key, value in settings.items()}}
        request = JobRequest(prompt="a red box", model=model, overrides=overrides, stage=stage, start_mesh=box)
        events = []
        return run_job(request, tmp_path / name, events.append, Control()), events, tmp_path / name

    return run


def albedo_of(folder):
    return np.asarray(PIL.Image.open(folder / "result/albedo.png"), np.float32) / 255


def test_depth_and_normals_make_a_difference_and_without_strength_there_is_none(paint, control_net):
    ways = {
        "plain": {},
        "depth": {"control_net": control_net},
        "normal": {"control_net": control_net, "control_kind": "normal"},
        "off": {"control_net": control_net, "control_scale": "0"},
    }
    runs = {name: paint(name, **settings) for name, settings in ways.items()}
    assert [code for code, _, _ in runs.values()] == [0] * 4, [events[-1] for _, events, _ in runs.values()]
    albedo = {name: albedo_of(folder) for name, (_, _, folder) in runs.items()}
    assert np.array_equal(albedo["plain"], albedo["off"])
    assert not np.array_equal(albedo["plain"], albedo["depth"]) and not np.array_equal(albedo["depth"], albedo["normal"])
    kept = json.loads((runs["normal"][2] / "job.json").read_text())["config"]["model"]
    assert (kept["control_net"], kept["control_kind"], kept["control_scale"]) == (control_net, "normal", 1.0)
    assert (runs["depth"][2] / "previews/guidance-0000002.png").is_file()


@pytest.mark.parametrize("stage", ["texture", "refine"])
def test_it_is_shown_the_mesh_from_each_camera_at_the_models_size(paint, control_net, monkeypatch, stage):
    shown = []
    show = ControlNet.show
    monkeypatch.setattr(ControlNet, "show", lambda self, pictures: (shown.append(pictures), show(self, pictures))[1])
    code, events, _ = paint("job", stage, control_net=control_net)
    assert code == 0, events[-1]
    steps = [pictures for pictures in shown if len(pictures) == 1]
    assert len(steps) >= 4 and all(pictures.shape == (1, 32, 32, 3) for pictures in steps)  # the plan's, three steps', a look's
    for picture in steps:
        assert 0.02 < (picture > 0).float().mean() < 0.9 and picture.amax() == 1 and picture[:, 0, 0].amax() == 0
    assert not torch.equal(steps[-1], steps[-2])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"control_net": "NOWHERE"}, "is neither its name nor a folder, and a ControlNet is wanted. Use depth-sd15 or"),
        ({"control_net": "PICKLE"}, "is no ControlNet: it holds no .safetensors file. Choose one with safetensors, not pickles."),
        (
            {"control_net": "NET", "model": "IF"},
            "DeepFloyd IF, stage I takes no ControlNet, only Stable Diffusion and Stable Diffusion XL do.",
        ),
        ({"control_net": "NET", "model": "MVDREAM"}, "MVDream takes no ControlNet"),
        ({"control_net": "NET", "model": "XL"}, "was made for another model: its cross_attention_dim is 16, the model's is 40."),
        ({"control_net": "NET", "control_kind": "canny"}, "model.control-kind is 'canny', but must be one of depth, normal."),
        ({"control_net": "NET", "control_scale": "3"}, "model.control-scale is 3, but must lie in 0..2"),
        ({"control_kind": "normal"}, "model.control-kind has no effect without a ControlNet. Name its folder with --control-net"),
        ({"control_scale": "0.5"}, "model.control-scale has no effect without a ControlNet."),
    ],
)
def test_what_does_not_fit_is_a_sentence(model, control_net, tmp_path, settings, says):
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle/config.json").write_text("{}")
    makers = {
        "NOWHERE": lambda: tmp_path / "nowhere",
        "PICKLE": lambda: tmp_path / "pickle",
        "NET": lambda: control_net,
        "IF": lambda: build_tiny_if(tmp_path / "if"),
        "MVDREAM": lambda: build_tiny_mvdream(tmp_path / "mvdream"),
        "XL": lambda: build_tiny_sdxl(tmp_path / "xl"),
    }
    given = {name: str(makers[value]()) if value in makers else value for name, value in settings.items()}
    four = {"camera.placement": "four-view", "training.batch_size": "4"} if settings.get("model") == "MVDREAM" else {}
    request = JobRequest(
        prompt="a red box",
        model=given.pop("model", model),
        overrides={**STAGE, **FEW, **four, **{f"model.{key}": value for key, value in given.items()}},
        stage="texture",
        start_mesh=str(box_file(tmp_path / "box.glb")),
    )
    events = []
    assert run_job(request, tmp_path / "none", events.append, Control()) == 2
    assert says in f"{events[-1].text} {events[-1].fix}"
    assert not (tmp_path / "none").exists() or "another model" in says  # what the weights say is known when they are loaded


def test_a_new_field_has_no_surface_to_hold_to(generate, control_net):
    run = generate("a mug", last=["--control-net", control_net])
    assert run.code == 2 and not run.folder.exists()
    assert "holds the model to a surface that is known, and a new field has none. Use it with the stages texture and refine" in run.err
