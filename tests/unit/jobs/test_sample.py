"""`python -m engine sample`: pictures from the denoiser that guides, the same as diffusers' pipeline draws."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine.cli import main


@pytest.fixture
def sample(model, tmp_path, capsys):
    def run(*words):
        capsys.readouterr()
        code = main(["sample", *words, "--model", model, "--out", str(tmp_path / "pictures"), "--json"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, lines[-1]

    return run


def pixels(path):
    return np.asarray(PIL.Image.open(path))


def test_pictures_are_those_of_the_pipeline(sample, model, monkeypatch):
    # The pipeline computes in float32; a processor with bfloat16 would be 3/255 off.
    monkeypatch.setattr("engine.guidance.configured.job_dtype", lambda device: torch.float32)
    code, done = sample(
        "a red mug", "--view", "none", "--number", "2", "--steps", "4", "--guidance-scale", "3", "--seed", "5", "--negative", "fog"
    )
    assert code == 0 and done["type"] == "done" and len(done["result"]["paths"]) == 2
    pipe = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    for path in done["result"]["paths"]:
        noise = torch.randn(1, 4, 8, 8, generator=generator)
        theirs = pipe(
            "a red mug", negative_prompt="fog", num_inference_steps=4, guidance_scale=3.0, latents=noise, output_type="np"
        ).images[0]
        assert np.abs(pixels(path) / 255 - theirs).max() < 1 / 255
    assert not np.array_equal(*(pixels(path) for path in done["result"]["paths"]))


def test_the_view_is_asked_for_in_the_jobs_words_and_other_sizes_are_drawn(sample):
    _, plain = sample("a red mug, side view", "--view", "none", "--number", "1", "--steps", "2")
    wanted = pixels(plain["result"]["paths"][0])
    _, viewed = sample("a red mug", "--view", "left side", "--number", "1", "--steps", "2")
    assert np.array_equal(pixels(viewed["result"]["paths"][0]), wanted) and viewed["result"]["paths"][0].endswith("a-red-mug-0-00.png")
    _, wide = sample("a red mug", "--number", "1", "--steps", "2", "--height", "48", "--width", "64", "--vram", "low")
    assert pixels(wide["result"]["paths"][0]).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a mug", "--height", "44"], "height is 44, but must be a multiple of 8 with this model. Use --height 48."),
        (["a mug", "--view", "behind"], "view is 'behind', but must be one of front, left side, back"),
        (["a mug", "--steps", "0"], "steps is 0, but must lie in 1..1000"),
        (["a mug", "--vram", "tiny"], "vram is 'tiny', but must be one of low, normal, high"),
        (["a mug", "--lora", "x.ckpt"], "must be a .safetensors file"),
        (["a mug", "--lora", "none.safetensors"], "There is no LoRA file"),
        ([" "], "The prompt is empty. Say what to draw"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence_with_the_fix(sample, words, says):
    code, failed = sample(*words)
    assert code == 2 and failed["type"] == "failed" and says in f"{failed['text']} {failed['fix']}"


def test_toybox_says_what_it_does_not_know(tmp_path, capsys):
    assert main(["sample", "an astronaut", "--out", str(tmp_path / "x")]) == 2
    assert "knows nothing in 'an astronaut'" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.needs_weights
def test_toybox_draws_a_red_mug(tmp_path, capsys):
    assert main(["sample", "a red mug", "--number", "1", "--steps", "8", "--out", str(tmp_path)]) == 0
    picture = pixels(capsys.readouterr().out.strip())
    center = picture[24:40, 24:40].reshape(-1, 3).mean(axis=0)
    assert picture.shape == (64, 64, 3) and center[0] > 1.5 * max(center[1], center[2])
