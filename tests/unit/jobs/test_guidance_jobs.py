"""Every guidance through `generate`, from the command line to the result folder."""

import json

import pytest

from engine.guidance.guidance_config import METHOD_SETTINGS
from engine.training.checkpoint import latest_checkpoint


@pytest.mark.parametrize("method", sorted(METHOD_SETTINGS.keys() - {"image-target", "sds", "nfsd", "vsd", "clip"}))
def test_every_method_makes_a_result(generate, method):
    run = generate("a mug", "--negative", "a red view", "--guidance.method", method, "--guidance.perp-neg", "1")
    assert run.code == 0, run.of("failed")
    assert json.loads((run.folder / "result" / "result.json").read_text())["guidance"] == method


def test_vsd_makes_a_result_and_its_checkpoint_holds_the_adapters_with_which_it_resumes(generate):
    run = generate("a mug", "--guidance.method", "vsd")
    assert run.code == 0, run.of("failed")
    parts = latest_checkpoint(run.folder / "checkpoints").parts
    assert any(value.abs().sum() > 0 for name, value in parts["adapters"].items() if name.startswith("up."))
    assert {"adapters", "adapters_optimizer"} <= parts.keys()


def test_a_run_that_goes_on_from_another_may_go_on_with_vsd(generate, tmp_path):
    first = generate("a mug", folder=tmp_path / "first")
    assert first.code == 0
    words = ("--start-from", str(first.folder), "--guidance.method", "vsd")
    second = generate("a mug", *words, folder=tmp_path / "second", last=("--training.n-steps", "8"))
    assert second.code == 0, second.of("failed")


def test_falling_noise_and_prompts_for_each_view_run(generate):
    views = [f"--guidance.prompt-{view}=a mug, {view}" for view in ("front", "side", "back", "overhead", "bottom")]
    run = generate("a mug", *views, "--guidance.annealing", "dreamtime", "--guidance.image-grad-clip", "0.1")
    assert run.code == 0, run.of("failed")
    assert json.loads((run.folder / "job.json").read_text())["config"]["guidance"]["prompt_back"] == "a mug, back"


@pytest.mark.parametrize("preset", ["stable-dreamfusion", "threestudio-dreamfusion-sd"])
def test_the_presets_of_other_programs_run(generate, preset):
    smaller = ("--field.log2-table-size", "10", "--field.n-levels", "4", "--field.base-resolution", "4")
    run = generate("a mug", "--preset", preset, last=smaller)
    assert run.code == 0, run.of("failed")
    config = json.loads((run.folder / "job.json").read_text())["config"]
    assert (config["guidance"]["method"], config["field"]["encoding"]) == ("sds", "hash")
    assert config["field"]["background_encoding"] == ("frequency" if preset == "stable-dreamfusion" else "spherical-harmonics")


def test_a_view_prompt_that_toybox_does_not_know_is_refused_before_anything_is_written(generate):
    run = generate("a mug", "--guidance.prompt-back", "a griffin's tail", small=False)
    assert run.code == 2 and "knows nothing in" in run.of("failed")[0]["text"]
    assert not run.folder.exists()
