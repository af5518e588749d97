"""Whole jobs under CLIP alone, and what CLIP cannot do, in sentences."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from engine.errors import UserError
from engine.guidance.clip import ClipSimilarity
from engine.guidance.model_table import MODELS_VARIABLE, find_model
from engine.jobs import run_job
from engine.protocol import JobRequest
from engine.sample import SampleRequest, draw_samples
from engine.training.checkpoint import latest_checkpoint
from engine.training.control import Control
from tests.tiny_clip import build_tiny_clip
from tests.unit.jobs.test_texture import STAGE, box_file

CLIP = ("--guidance.method", "clip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(build_tiny_clip(tmp_path_factory.mktemp("models") / "clip"))


def test_a_prompt_becomes_a_mesh_under_clip_alone(generate, clip):
    run = generate("a red mug", "--negative", "a view", last=["--model", clip, *CLIP, "--guidance.n-crops", "2"])
    assert run.code == 0, run.err
    result = json.loads((run.folder / "result/result.json").read_text())
    assert result["guidance"] == "clip" and (run.folder / "result/a-red-mug.glb").is_file()
    assert run.of("plan")


def test_a_mesh_is_painted_so_that_it_fits_the_prompt_better(clip, tmp_path, monkeypatch):
    """Mean fit over the views of the last steps, against a run with the same seed, thus the same views, that learns nothing."""
    seen = []
    loss = ClipSimilarity.loss

    def noted(self, *arguments):
        said = loss(self, *arguments)
        seen.append(float(said.metrics["similarity"]))
        return said

    monkeypatch.setattr(ClipSimilarity, "loss", noted)
    box = str(box_file(tmp_path / "box.glb"))
    longer = {"training.n_steps": "60", "training.batch_size": "4", "guidance.method": "clip", "guidance.view_prompts": "off"}
    fits = {}
    for rate in ("0.000001", "0.01"):
        request = JobRequest(
            prompt="a red mug",
            model=clip,
            overrides={**STAGE, **longer, "render.size_px": "32", "optimizer.learning_rate": rate},
            stage="texture",
            start_mesh=box,
        )
        events = []
        assert run_job(request, tmp_path / rate, events.append, Control()) == 0, events[-1]
        fits[rate] = float(np.mean(seen[-20:]))
    assert fits["0.01"] > fits["0.000001"] + 0.02, fits  # 0.09 after 0.05


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "CLIP"], "CLIP denoises nothing, so guidance.method image-target cannot use it. Use --guidance.method clip"),
        (["--model", "SD", *CLIP], "guidance.method clip needs CLIP, and model is a diffusion model. Use --model clip-vit-l14"),
        (["--model", "CLIP", *CLIP, "--output.inspect-every", "2"], "denoises nothing, so output.inspect-every has nothing to show"),
        (["--model", "CLIP", *CLIP, "--guidance.perp-neg", "1"], "guidance.perp-neg has no effect with guidance.method clip"),
        (["--model", "CLIP", *CLIP, "--guidance.view-contrast", "1"], "guidance.view-contrast has no effect with guidance.method clip"),
        (["--model", "CLIP", *CLIP, "--guidance.annealing", "sqrt"], "guidance.annealing has no effect with guidance.method clip"),
        (
            ["--model", "CLIP", *CLIP, "--guidance.timestep-weight", "uniform"],
            "guidance.timestep-weight has no effect with guidance.method clip",
        ),
        (["--model", "SD", "--guidance.n-crops", "2"], "guidance.n-crops has no effect with guidance.method image-target"),
        (["--model", "CLIP", *CLIP, "--guidance.n-crops", "0"], "guidance.n-crops is 0, but must lie in 1..64"),
        (["--model", "SD", "--guidance.clip-model", "SD"], "model, which is no CLIP. Use --guidance.clip-model clip-vit-l14."),
        (["--model", "SD", "--guidance.clip-model", "dalle"], "model is 'dalle', but must be one of"),
        (["--model", "SD", "--guidance.clip-model", "clip-vit-l14"], "is not on this machine. Run: python -m engine models download"),
        (["--model", "SD", "--guidance.clip-model", "PICKLE"], "holds its weights as a pickle only, which can run code."),
        (["--model", "SD", "--guidance.clip-weight", "5"], "guidance.clip-weight has no effect without guidance.clip-model."),
        (["--model", "CLIP", *CLIP, "--guidance.clip-model", "CLIP"], "but guidance.method is clip already. Leave --guidance.clip-model"),
        (["--model", "SD", "--guidance.clip-model", "CLIP", "--guidance.clip-weight", "2000"], "clip-weight is 2000, but must lie in"),
    ],
)
def test_what_does_not_fit_is_a_sentence(generate, model, clip, tmp_path, monkeypatch, words, says):
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    pickled = build_tiny_clip(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    places = {"CLIP": clip, "SD": model, "PICKLE": str(pickled)}
    run = generate("a mug", small=False, last=[places.get(word, word) for word in words])
    assert run.code == 2 and says in run.err and not run.folder.exists(), run.err


def test_clip_beside_another_method_makes_a_difference(generate, clip, tmp_path):
    beside = ["--guidance.clip-model", clip, "--guidance.n-crops", "2"]
    image = tmp_path / "red.png"
    picture = PIL.Image.new("RGB", (60, 60), (250, 250, 250))
    picture.paste((200, 20, 20), (15, 10, 45, 50))
    picture.save(image)
    runs = {
        name: generate("a red mug", *words, folder=tmp_path / name, last=[*beside, "--guidance.clip-weight", weight])
        for name, weight, words in (("off", "0", ()), ("on", "1000", ()), ("seen", "1000", ("--image", str(image))))
    }
    assert [run.code for run in runs.values()] == [0, 0, 0], [run.err for run in runs.values()]
    fields = {name: latest_checkpoint(run.folder / "checkpoints").parts["field"] for name, run in runs.items()}
    names = [name for name, value in fields["off"].items() if value.is_floating_point()]
    assert not all(torch.equal(fields["off"][name], fields["on"][name]) for name in names)


def test_clip_draws_no_pictures(clip, tmp_path):
    with pytest.raises(UserError, match="CLIP judges pictures and draws none. Choose a text-to-image model"):
        draw_samples(SampleRequest(prompt="a red mug", model=clip), tmp_path, print)


def test_clip_is_in_the_table_but_not_among_the_models_that_make_pictures(clip):
    from engine.guidance.model_table import free_prompt_models

    assert find_model("clip-vit-l14").kind == find_model(clip).kind == "clip"
    assert "clip-vit-l14" not in free_prompt_models()
