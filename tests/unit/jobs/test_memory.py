"""Less memory: the same numbers at every level, a plan before the run, and a full memory that the job survives."""

import json
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from engine.errors import UserError
from engine.guidance.configured import load_configured
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig
from engine.guidance.memory import blocks, lower_level, save_memory, stream, weight_bytes
from tests.tiny_families import build_tiny_if, build_tiny_sdxl


def gradient_and_noise(denoiser):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 32, 32, 3, generator=generator).requires_grad_()
    latents = denoiser.encode(images)
    latents.square().sum().backward()
    noise = denoiser.predict_noise(latents.detach(), torch.tensor([300, 600]), denoiser.embed(["a mug", "a red mug"]))
    return images.grad, noise.detach()


@pytest.mark.parametrize("level", ["normal", "low"])
def test_a_thrifty_model_says_the_same(model, level):
    wanted = gradient_and_noise(Denoiser.load(model))
    denoiser = Denoiser.load(model)
    save_memory(denoiser, level)
    got = gradient_and_noise(denoiser)
    torch.testing.assert_close(got, wanted, atol=1e-4 * float(wanted[0].abs().max()), rtol=1e-4)


def test_low_keeps_fewer_activations_of_the_encoder(model):
    def kept_bytes(level):
        denoiser = Denoiser.load(model)
        save_memory(denoiser, level)
        images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        seen = {}

        def pack(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            denoiser.encode(images)
        weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parts["vae"].parameters()}
        return sum(size for place, size in seen.items() if place not in weights)

    assert kept_bytes("low") < 0.6 * kept_bytes("high")


def test_a_streamed_unet_has_one_block_at_a_time_and_says_the_same(model):
    wanted = gradient_and_noise(Denoiser.load(model))
    denoiser = Denoiser.load(model)
    unet = denoiser.parts["unet"]
    largest = max(sum(p.numel() for p in block.parameters()) for block in blocks(unet))
    there, peak = [], []

    def fetch(home):
        copy = home.clone()
        there.append(copy)
        return copy

    stream(unet, fetch, keep=lambda weight: weight)
    for block in blocks(unet):
        block.register_forward_hook(lambda *_: (peak.append(sum(t.numel() for t in there)), there.clear()) and None)
    got = gradient_and_noise(denoiser)
    torch.testing.assert_close(got, wanted)
    assert max(peak) == largest < sum(p.numel() for p in unet.parameters()) / 2


def test_lists_in_lists_are_streamed_by_what_is_called():
    inner = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    module = torch.nn.ModuleDict({"a": torch.nn.ModuleList([torch.nn.ModuleList(inner)]), "b": torch.nn.Sequential(torch.nn.Linear(2, 2))})
    assert list(blocks(module)) == [*inner, module["b"]]


def test_levels_go_down_to_low():
    assert [lower_level(level) for level in ("high", "normal", "low")] == ["normal", "low", None]


def test_weights_are_counted_in_their_bytes(model):
    full, half = Denoiser.load(model), load_configured(Path(model), "cpu", DenoiserConfig(precision="float16"))
    assert weight_bytes(full)["unet"] == 2 * weight_bytes(half)["unet"] > 100_000
    full.drop_text_encoder()
    assert set(weight_bytes(full)) == {"unet", "vae"}


@pytest.fixture
def tiny_vae(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1), latent_channels=4,
        )  # fmt: skip
    tiny.save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


def test_a_tiny_encoder_stands_in_until_its_time_is_over(model, tiny_vae):
    own = Denoiser.load(model)
    denoiser = load_configured(Path(model), "cpu", DenoiserConfig(precision="float32", tiny_vae=str(tiny_vae), tiny_vae_until=0.5))
    images = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    theirs = AutoencoderTiny.from_pretrained(tiny_vae).encode(2 * images.permute(0, 3, 1, 2) - 1).latents
    denoiser.at(0.2)
    torch.testing.assert_close(denoiser.encode(images), theirs)
    denoiser.at(0.5)
    torch.testing.assert_close(denoiser.encode(images), own.encode(images))


def test_a_tiny_encoder_that_does_not_fit_is_refused(model, tiny_vae, tmp_path):
    with pytest.raises(UserError, match="is neither its name nor a folder"):
        load_configured(Path(model), "cpu", DenoiserConfig(tiny_vae=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_configured(Path(model), "cpu", DenoiserConfig(tiny_vae=str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"no encoder that a tiny one could stand in for"):
        load_configured(build_tiny_if(tmp_path / "if"), "cpu", DenoiserConfig(tiny_vae=str(tiny_vae)))
    config = json.loads((tiny_vae / "config.json").read_text())
    other = AutoencoderTiny.from_config({**config, "latent_channels": 8})
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"makes latents of shape \[8, 8, 8\], and the model's are \[4, 8, 8\]"):
        load_configured(Path(model), "cpu", DenoiserConfig(tiny_vae=str(tmp_path / "other")))


# Whole jobs


def test_a_job_says_its_plan_before_it_trains(generate, model):
    run = generate("a red mug", "--vram", "low", "--guidance.method", "sds", last=("--training.batch-size", "2"))
    assert run.code == 0
    kinds = [event["type"] for event in run.events if event["type"] == "plan" or event.get("phase") == "train"]
    assert kinds[0] == "plan" and kinds.count("plan") == 1
    text = run.of("plan")[0]["text"]
    assert text.startswith("6 steps. The model: ") and "s for 2 views, measured here" in text and "GPU" not in text
    kept = weight_bytes(Denoiser.load(model))
    assert f"{(kept['unet'] + kept['vae']) / 1e6:,.0f} MB of weights" in text


def test_the_plan_does_not_change_the_run(generate, monkeypatch):
    first = generate("a red mug", folder=None)
    monkeypatch.setattr("engine.training.plan.make_plan", lambda *_: "none")
    second = generate("a red mug", folder=first.folder.parent / "again")
    assert second.of("plan")[0]["text"] == "none"
    meshes = [np.load(run.folder / "result" / "mesh.npz")["vertices"] for run in (first, second)]
    assert np.array_equal(*meshes)


def refuse_large_batches(monkeypatch, after):
    """The encoder runs out of memory as a GPU does: with more than one picture at a time, from its call number `after` on."""
    from diffusers.models.autoencoders.vae import Encoder

    calls = []
    original = Encoder.forward

    def forward(self, sample):
        calls.append(len(sample))
        if len(sample) > 1:
            time.sleep(0.4)  # so that a checkpoint is due before the memory is full
            if len(calls) > after:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, sample)

    monkeypatch.setattr(Encoder, "forward", forward)
    return calls


SDS_OF_TWO = ("--guidance.method", "sds", "--training.batch-size", "2", "--training.n-steps", "8", "--training.checkpoint-every-s", "1")


def test_a_full_memory_costs_one_level_and_the_job_goes_on_from_its_checkpoint(generate, monkeypatch):
    calls = refuse_large_batches(monkeypatch, after=6)
    run = generate("a red mug", last=SDS_OF_TWO)
    assert run.code == 0 and run.events[-1]["type"] == "result"
    said = [event["text"] for event in run.of("warning")]
    assert said == ["The memory was full with --vram normal. Going on from the last checkpoint with --vram low."]
    steps = [event["step"] for event in run.of("progress") if event["phase"] == "train"]
    assert steps[-1] == 8 and len(run.of("plan")) == 2 and not run.of("plan")[1]["text"].startswith("8 steps")
    assert calls[-1] == 1 and 2 in calls


def test_a_memory_that_is_too_small_at_every_level_is_a_sentence(generate, monkeypatch):
    from diffusers import UNet2DConditionModel

    def forward(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    run = generate("a red mug", "--vram", "high")
    assert run.code == 2 and run.events[-1]["code"] == "memory"
    assert [event["text"] for event in run.of("warning")] == [
        "The memory was full with --vram high. Going on from the start with --vram normal.",
        "The memory was full with --vram normal. Going on from the start with --vram low.",
    ]


def test_what_the_model_sees_is_drawn_on_request(generate):
    run = generate("a red mug", "--output.inspect-every", "3")
    pictures = sorted((run.folder / "previews").glob("guidance-*.png"))
    assert [path.name for path in pictures] == ["guidance-0000003.png", "guidance-0000006.png"]
    tiles = np.asarray(PIL.Image.open(pictures[0])).reshape(32, 4, 32, 3).transpose(1, 0, 2, 3).astype(float)
    assert all(np.abs(a - b).mean() > 1 for i, a in enumerate(tiles) for b in tiles[:i])


# Other families, and what is put on top, through the whole job


@pytest.mark.parametrize("build", [build_tiny_sdxl, build_tiny_if])
def test_a_job_runs_with_every_family(generate, tmp_path, monkeypatch, build):
    monkeypatch.setenv("DREAMFUSION_MODELS", str(tmp_path / "models"))
    run = generate("a red mug", last=("--model", str(build(tmp_path / "family")), "--guidance.method", "sds"))
    assert run.code == 0, run.err
    assert json.loads((run.folder / "result" / "result.json").read_text())["steps_done"] == 6


def test_a_lora_and_a_tiny_encoder_reach_the_job(generate, tmp_path, tiny_vae):
    lora = tmp_path / "style.safetensors"
    tensors = {"lora_unet_conv_in.lora_down.weight": torch.ones(1, 4, 3, 3), "lora_unet_conv_in.lora_up.weight": torch.ones(16, 1, 1, 1)}
    save_file(tensors, lora)
    plain = generate("a red mug", "--guidance.method", "sds")
    styled = generate("a red mug", "--guidance.method", "sds", "--lora", f"{lora}:0.5", folder=tmp_path / "styled")
    tiny = generate("a red mug", "--guidance.method", "sds", "--model.tiny-vae", str(tiny_vae), folder=tmp_path / "tiny")
    assert (plain.code, styled.code, tiny.code) == (0, 0, 0)
    meshes = [np.load(run.folder / "result" / "mesh.npz")["vertices"] for run in (plain, styled, tiny)]
    assert all(a.shape != b.shape or not np.array_equal(a, b) for i, a in enumerate(meshes) for b in meshes[:i])
    missing = generate("a red mug", "--lora", "none.safetensors", folder=tmp_path / "missing")
    assert missing.code == 2 and "There is no LoRA file" in missing.events[-1]["text"]
