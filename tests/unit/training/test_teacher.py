"""The teacher: every setting of every method reaches the guidance, and the texts of a run are those that were asked for."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.config import make_config
from engine.guidance.denoiser import Denoiser
from engine.guidance.guidance_config import DEFAULT_NEGATIVES, METHOD_SETTINGS, GuidanceConfig
from engine.guidance.guidances import GUIDANCES
from engine.guidance.model_table import find_model
from engine.guidance.oracle import OracleDenoiser
from engine.scene.cameras import Cameras, orbit_cameras
from engine.scene.scene_config import CameraConfig
from engine.training.checkpoint import latest_checkpoint, save_checkpoint
from engine.training.teacher import DiffusionTeacher, clip_gradient, make_guidance, make_prompts
from engine.training.trainer import Trainer
from tests.tiny_sd import build_tiny_sd

SMALL = {
    "training.n_steps": "6", "training.batch_size": "2", "render.size_px": "16", "render.n_samples": "24",
    "render.occupancy_resolution": "16", "field.finest_resolution": "16", "field.n_levels": "2",
}  # fmt: skip
SETTINGS = [(method, name) for method, names in METHOD_SETTINGS.items() for name in sorted(names)]


class Embedder(OracleDenoiser):
    """Notes what it is asked to embed."""

    def embed(self, prompts: list[str]) -> Tensor:
        self.texts = prompts
        return super().embed(prompts)


def oracle() -> Embedder:
    pictures = torch.stack([torch.full((8, 8, 3), value) for value in (0.2, 0.8)])
    return Embedder(pictures, ["mug", "hat"], std=0.1)


def cameras() -> Cameras:
    return orbit_cameras(torch.tensor([0.0, 180.0]), torch.zeros(2), torch.full((2,), 2.9), torch.full((2,), 40.0))


def test_the_words_of_the_setting_are_the_rows_of_the_table() -> None:
    words = typing.get_args(typing.get_type_hints(GuidanceConfig)["method"])
    assert list(words) == list(GUIDANCES) == list(METHOD_SETTINGS)
    assert DEFAULT_NEGATIVES.keys() <= GUIDANCES.keys()


def test_the_guide_has_a_row_for_every_method() -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs" / "guidance.md").read_text(encoding="utf-8")
    assert [method for method in GUIDANCES if f"\n| `{method}`" not in guide] == []


@pytest.mark.parametrize("method", GUIDANCES)
def test_every_field_of_a_method_is_a_setting(method: str) -> None:
    fields = {item.name for item in dataclasses.fields(GUIDANCES[method])} - {"renders"}  # type: ignore[arg-type]  # what VSD trains
    assert fields == METHOD_SETTINGS[method]


@pytest.mark.parametrize(("method", "name"), SETTINGS)
def test_a_setting_reaches_the_guidance(method: str, name: str) -> None:
    given = {"timestep_weight": "uniform", "rms_limit": "clip", "space": "latent"}.get(name)
    value = given or {"n_ddim_steps": 3, "n_inversion_steps": 3, "n_crops": 3}.get(name, 0.75)
    config = GuidanceConfig(method=method, **{name: value})  # type: ignore[arg-type]
    assert getattr(make_guidance(config, 0, 10), name) == value


def test_schedules_are_resolved_at_the_step() -> None:
    config = make_config("draft", {"guidance.method": "csd", "guidance.grad_clip": "0,0.5,1,2"}).guidance
    first, last = make_guidance(config, 0, 100), make_guidance(config, 99, 100)
    assert (first.negative_scale, first.grad_clip) == (0.0, 0.5)  # type: ignore[attr-defined]
    assert (last.negative_scale, last.grad_clip) == (1.0, 2.0)  # type: ignore[attr-defined]
    bridge = make_config("draft", {"guidance.method": "sds-bridge"}).guidance
    assert [make_guidance(bridge, step, 100).bridge for step in (0, 49, 50, 99)] == [0, 0, 1, 1]  # type: ignore[attr-defined]


def test_the_texts_are_those_of_the_settings() -> None:
    denoiser = oracle()
    config = make_config("draft", {"guidance.method": "sds-bridge", "guidance.prompt_back": "a mug's handle", "guidance.flaws": "gray"})
    make_prompts(denoiser, find_model("toybox"), "a mug", "", config.guidance, CameraConfig())
    assert {"a mug's handle", "a mug's handle, gray", "a mug, front view", "a mug, front view, gray", ""} <= set(denoiser.texts)
    assert "a mug, back view" not in denoiser.texts


def test_a_model_of_free_prompts_gets_the_methods_own_negative_prompt_unless_the_user_gave_one() -> None:
    config = make_config("draft", {"guidance.method": "nfsd"}).guidance
    for model, negative, wanted in (("sd21-base", "", "unrealistic, blurry"), ("sd21-base", "a hat", "a hat"), ("toybox", "", "")):
        denoiser = oracle()
        make_prompts(denoiser, find_model(model), "a mug", negative, config, CameraConfig())
        assert denoiser.texts[0].startswith(wanted) and bool(denoiser.texts[0]) == bool(wanted)


# An oracle has nothing that VSD could train, and is no CLIP.
@pytest.mark.parametrize("method", [method for method in GUIDANCES if method not in ("vsd", "clip")])
@pytest.mark.parametrize("perp_neg", ["0", "1"])
def test_every_method_judges_renders_from_its_settings_alone(method: str, perp_neg: str) -> None:
    config = make_config("draft", {"guidance.method": method, "guidance.perp_neg": perp_neg}).guidance
    denoiser = oracle()
    teacher = DiffusionTeacher(denoiser, make_prompts(denoiser, find_model("toybox"), "a mug", "a hat", config, CameraConfig()), config)
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for step in (0, 60, 99):
        teacher.loss(images, cameras(), "albedo", step, 100, torch.Generator().manual_seed(step)).backward()
    assert images.grad is not None and torch.isfinite(images.grad).all() and (images.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(("perp_neg", "evaluations"), [("0", 4), ("0,0,1,1", 8)])
def test_perp_neg_reaches_the_denoiser_as_two_more_prompts_a_view(perp_neg: str, evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("draft", {"guidance.method": "sds", "guidance.perp_neg": perp_neg}).guidance
    denoiser = oracle()
    teacher = DiffusionTeacher(denoiser, make_prompts(denoiser, find_model("toybox"), "a mug", "", config, CameraConfig()), config)
    asked: list[int] = []
    predict = denoiser.predict
    monkeypatch.setattr(denoiser, "predict", lambda noisy, t, embeds: (asked.append(len(noisy)), predict(noisy, t, embeds))[1])
    teacher.loss(torch.rand(2, 8, 8, 3), cameras(), "albedo", 50, 100, torch.Generator())
    assert asked == [evaluations]


def test_the_gradient_at_the_picture_is_clipped_value_by_value() -> None:
    images = torch.zeros(1, 2, 1, 3, requires_grad=True)
    weights = torch.tensor([0.1, -5.0, 5.0, -0.2, 0.0, 1.0]).view(1, 2, 1, 3)
    (clip_gradient(images * 2, 0.5) * weights).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad, 2 * weights.clamp(-0.5, 0.5))
    plain = torch.zeros(1, requires_grad=True)
    assert clip_gradient(plain, 0.0) is plain


def test_vsds_adapters_and_their_optimizer_are_part_of_the_run(tmp_path: Path) -> None:
    """A run restored from its checkpoint goes on as the run itself; one of another method, or after a collapse, starts them anew."""
    denoiser = Denoiser.load(build_tiny_sd(tmp_path / "model"))
    config = make_config("draft", SMALL | {"guidance.method": "vsd", "guidance.lora_rate": "0.01"})

    def trainer(seed: int = 0) -> Trainer:
        prompts = make_prompts(denoiser, find_model("toybox"), "a mug", "", config.guidance, CameraConfig())
        return Trainer(config, seed, torch.device("cpu"), DiffusionTeacher(denoiser, prompts, config.guidance))

    first = trainer()
    untrained = {name: value.clone() for name, value in first.checkpoint().parts["adapters"].items()}
    for _ in range(2):
        first.train_step()
    save_checkpoint(tmp_path / "checkpoints", first.step, first.checkpoint())
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None and any(not torch.equal(untrained[name], value) for name, value in saved.parts["adapters"].items())
    wanted = first.train_step()
    wanted_adapters = first.checkpoint().parts["adapters"]
    first.teacher._renders.adapters.remove()  # type: ignore[attr-defined]

    second = trainer(seed=1)
    second.restore(saved)
    assert torch.equal(second.train_step().loss, wanted.loss)
    got = second.checkpoint().parts["adapters"]
    assert all(torch.equal(got[name], value) for name, value in wanted_adapters.items())
    second.restart("empty")
    assert all(float(value.abs().sum()) == 0 for name, value in second.checkpoint().parts["adapters"].items() if name.startswith("up."))
    for part in ("adapters", "adapters_optimizer"):
        del saved.parts[part]
    second.restore(saved)
    second.train_step()
