"""benchmarks/large_step.py: the architectures are the published ones, and the very code that measures them runs with tiny ones."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from benchmarks import large_step
from benchmarks.floor import Rates, Work, encoder_work, unet_work
from benchmarks.large_models import ARCHITECTURES, PARAMETERS, Architecture, make_denoiser, make_parts, random_embeds
from benchmarks.large_step import HEAD, MEASURES, Bench, Measure, measure_row, run_steps
from engine.config import make_config
from engine.guidance.families import FAMILIES

CPU = torch.device("cpu")
# Of a VAE of Stable Diffusion, as published.
VAE_PARAMETERS = 83_653_863
TINY_UNET = {"sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
TINY_VAE = {"sample_size": 32, "block_out_channels": (8, 8, 16), "layers_per_block": 1, "norm_num_groups": 4}
TINY_VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
TAESD_BLOCKS = {f"{part}_block_out_channels": (8, 8, 8) for part in ("encoder", "decoder")}
TAESD_BLOCKS |= {f"num_{part}_blocks": (1, 1, 1) for part in ("encoder", "decoder")}


def tiny(name: str) -> Architecture:
    """A real architecture with every width and depth cut down; the classes and the kinds of blocks stay."""
    real = ARCHITECTURES[name]
    small: dict[str, object] = {**TINY_UNET, "down_block_types": real.unet.get("down_block_types", ("CrossAttnDownBlock2D",) * 2)[:2]}
    small["up_block_types"] = real.unet.get("up_block_types", ("CrossAttnUpBlock2D",) * 2)[-2:]
    if name == "sdxl":
        small |= {"attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2), "cross_attention_dim": 24}
        small |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8}
    elif name == "if":
        small |= {"attention_head_dim": 8, "cross_attention_dim": 32, "encoder_hid_dim": 24, "addition_embed_type_num_heads": 2}
    else:
        small |= {"cross_attention_dim": 24}
    vae = None if real.vae is None else {**real.vae, **TINY_VAE}
    shape = (real.embed_shape[0], 24)
    return dataclasses.replace(real, unet={**real.unet, **small}, vae=vae, tiny_vae=TAESD_BLOCKS, embed_shape=shape)


def bench(name: str, n_steps: int = 2) -> Bench:
    overrides = {"guidance.method": "sds", "training.n_steps": str(n_steps), "training.batch_size": "1", "render.size_px": "16"}
    known = {torch.float32: Rates(flops=1e12, bytes=1e10)}  # measuring the machine's takes longer than all else here
    return Bench(tiny(name), make_config("draft", overrides), CPU, torch.float32, _rates=known)


def numbers(row: str) -> dict[str, float]:
    """A row's columns by the names in the table's head."""
    names = [cell.strip() for cell in HEAD.splitlines()[0].split("|")[2:-1]]
    return dict(zip(names, (float(cell) for cell in row.split("|")[2:-1]), strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architectures_have_the_published_number_of_parameters(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert FAMILIES[architecture.kind].fits({"in_channels": 4, "out_channels": 4, **architecture.unet})
    parts = make_parts(architecture, "meta", torch.bfloat16)
    counts = {part: sum(weight.numel() for weight in module.parameters()) for part, module in parts.items()}
    assert counts["unet"] == PARAMETERS[name]
    assert counts.get("vae") == (None if name == "if" else VAE_PARAMETERS)


def test_work_is_counted_for_each_row_and_both_ways() -> None:
    architecture = ARCHITECTURES["sd15"]
    one, two = (unet_work(architecture, rows, torch.float16) for rows in (1, 2))
    assert two.flops == 2 * one.flops and two.bytes == one.bytes == 2 * PARAMETERS["sd15"]
    # Some 400 billion multiply-adds a picture are what others count; linear layers that see no picture differ by little.
    assert 0.75e12 < one.flops < 0.85e12
    encoder = encoder_work(architecture, 1, torch.float16)
    assert encoder.flops > 5 * encoder_work(architecture, 1, torch.float16, tiny=True).flops > 0
    assert encoder_work(ARCHITECTURES["if"], 1, torch.float16) == Work(0, 0)


def test_a_floor_is_the_slower_of_computing_and_reading() -> None:
    rates = Rates(flops=10.0, bytes=2.0)
    assert (Work(100, 10).floor(rates), Work(10, 100).floor(rates)) == (10.0, 50.0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_random_weights_keep_numbers_finite_in_their_own_type(name: str) -> None:
    denoiser = make_denoiser(tiny(name), CPU, torch.bfloat16)
    assert {weight.dtype for part in denoiser.parts.values() for weight in part.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        latents = denoiser.encode(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)))
        noise = denoiser.predict_noise(latents, torch.tensor([500]), random_embeds(tiny(name), 1, CPU))
    assert noise.shape == latents.shape and 1e-3 < float(noise.std()) < 1e3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_has_a_step_beside_its_parts_and_its_floor(name: str) -> None:
    found = numbers(measure_row(bench(name), "as shipped", Measure()))
    assert 1.0 < found["step / (U-Net + VAE)"] < math.inf, "a tiny model is far quicker than the render around it"
    assert found["step ms"] > 0 and found["peak GB"] > 0 and found["first step s"] > 0
    assert found["step / floor"] > 1


def test_u_net_and_vae_alone_get_what_the_step_gave_them() -> None:
    used = bench("sd15")
    timing = run_steps(used, Measure())
    assert timing.rows == 2 and len(timing.steps) == len(timing.unet) == len(timing.vae) == 2
    assert min(timing.unet) > 0 and min(timing.vae) > 0
    assert timing.ratio == pytest.approx(sum(timing.steps) / sum(timing.unet + timing.vae))
    assert run_steps(bench("if"), Measure()).vae == [0.0, 0.0]


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if not measure.compiler])
def test_every_measure_gives_a_row(name: str) -> None:
    row = measure_row(bench("sd15", n_steps=1), name, MEASURES[name])
    assert row.startswith(f"| {name} |") and numbers(row)["step ms"] > 0


def test_measures_reach_the_model() -> None:
    used = bench("sd15")
    plain = large_step.make_model(used, Measure(plain_attention=True, other_unet_format=True))[0].parts["unet"]
    assert {type(processor).__name__ for processor in plain.attn_processors.values()} == {"AttnProcessor"}
    assert plain.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    tiny_encoder = large_step.make_model(used, Measure(tiny_vae=True))[2]
    assert tiny_encoder is not None and type(tiny_encoder.inner.__self__).__name__ == "AutoencoderTiny"
    compiled = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", lambda _module, backend: compiled.append(backend))
        large_step.make_model(used, Measure(compiler="inductor"))
    assert compiled == ["inductor"]


def test_what_cannot_be_measured_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure_row(bench("sd15"), "CUDA graphs", MEASURES["CUDA graphs"]) == "| CUDA graphs | not measured: they are NVIDIA's |"
    row = measure_row(bench("if"), "TAESD", MEASURES["TAESD"])
    assert row.startswith("| TAESD | not measured: The model has no encoder")

    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore lines.")

    monkeypatch.setattr(large_step, "make_denoiser", full)
    assert measure_row(bench("sd15"), "float32", MEASURES["float32"]) == "| float32 | not measured: CUDA out of memory. |"


def test_without_a_gpu_the_command_tells_the_work_and_no_times(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    large_step.main(["--model", "sd15"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sd15: U-Net, 2 rows: 1.607 TFLOP, 1,719 MB of weights read"
    assert lines[-1] == "Step times: not measured: no CUDA GPU here." and len(lines) == 4
    with pytest.raises(SystemExit, match="2"):
        large_step.main(["--measures", "magic"])


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(ARCHITECTURES, "sd15", tiny("sd15"))
    monkeypatch.setattr(large_step, "measure_rates", lambda *_: Rates(1e12, 1e10))
    monkeypatch.setattr(torch, "set_num_threads", lambda _n: None)  # the number is the whole test process's
    large_step.main(["--device", "cpu", "--steps", "1", "--threads", "1", "--dtype", "float32", "--measures", "--vram low;CUDA graphs"])
    out = capsys.readouterr().out
    assert "a matrix product runs at 1.00 TFLOP/s, a copy at 10.0 GB/s" in out
    rows = out.split(HEAD)[1].strip().splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["--vram low", "CUDA graphs"]
    assert numbers(rows[0])["step / (U-Net + VAE)"] > 1
