"""MVDream's U-Net against its published names and shapes, and against its architecture evaluated literally, layer by layer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import UserError
from engine.guidance.ddim import denoise
from engine.guidance.image_target import ImageTarget
from engine.guidance.mvdream import MVDream, camera_numbers
from engine.guidance.mvdream_unet import load_published, make_unet, published_names
from engine.guidance.sds import SDS
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_mvdream import CONFIG, build_tiny_mvdream, tiny_state
from tests.unit.guidance.test_picture_views import orbit

# unet/config.json and some names and shapes of the published model. Sources: github.com/ashawkey/mvdream_diffusers
# (convert_mvdream_to_diffusers.py keeps the first names; mv_unet.py is what they belong to) and the original settings,
# github.com/bytedance/MVDream mvdream/configs/sd-v2-base.yaml.
PUBLISHED = {
    **CONFIG, "image_size": 32, "model_channels": 320, "num_res_blocks": 2, "attention_resolutions": [4, 2, 1],
    "channel_mult": [1, 2, 4, 4], "num_head_channels": 64, "context_dim": 1024,
}  # fmt: skip
PUBLISHED_SHAPES = {
    "time_embed.0.weight": (1280, 320),
    "camera_embed.0.weight": (1280, 16),
    "camera_embed.2.bias": (1280,),
    "input_blocks.0.0.weight": (320, 4, 3, 3),
    "input_blocks.1.1.proj_in.weight": (320, 320),
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    "input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
    "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    "input_blocks.11.0.out_layers.3.weight": (1280, 1280, 3, 3),
    "middle_block.1.proj_out.bias": (1280,),
    "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.weight": (320, 320),
    "output_blocks.11.0.emb_layers.1.weight": (320, 1280),
    "out.2.weight": (4, 320, 3, 3),
}


def literal(state: dict[str, Tensor], x: Tensor, t: Tensor, context: Tensor, camera: Tensor, n_views: int) -> Tensor:
    """The published architecture at CONFIG's size, from its weights, without any module of ours or diffusers'."""

    def linear(name: str, v: Tensor) -> Tensor:
        return F.linear(v, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def conv(name: str, v: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(v, weight, state[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def group_norm(name: str, v: Tensor, eps: float) -> Tensor:
        return F.group_norm(v, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def layer_norm(name: str, v: Tensor) -> Tensor:
        return F.layer_norm(v, v.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    frequencies = torch.exp(-math.log(10000) * torch.arange(CONFIG["model_channels"] // 2) / (CONFIG["model_channels"] // 2))
    angles = t[:, None] * frequencies
    emb = linear("time_embed.2", F.silu(linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))))
    emb = emb + linear("camera_embed.2", F.silu(linear("camera_embed.0", camera)))

    def residual(name: str, v: Tensor) -> Tensor:
        h = conv(f"{name}.in_layers.2", F.silu(group_norm(f"{name}.in_layers.0", v, 1e-5)))
        h = h + linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        h = conv(f"{name}.out_layers.3", F.silu(group_norm(f"{name}.out_layers.0", h, 1e-5)))
        return h + (conv(f"{name}.skip_connection", v) if f"{name}.skip_connection.weight" in state else v)

    def attention(name: str, v: Tensor, source: Tensor) -> Tensor:
        heads = v.shape[-1] // CONFIG["num_head_channels"]
        q, k, w = (
            linear(f"{name}.{layer}", part).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, part in (("to_q", v), ("to_k", source), ("to_v", source))
        )
        weights = (q @ k.transpose(-1, -2) / CONFIG["num_head_channels"] ** 0.5).softmax(dim=-1)
        return linear(f"{name}.to_out.0", (weights @ w).transpose(1, 2).flatten(2))

    def transformer(name: str, v: Tensor) -> Tensor:
        n, c, height, width = v.shape
        h = linear(f"{name}.proj_in", group_norm(f"{name}.norm", v, 1e-6).flatten(2).transpose(1, 2))
        inside = f"{name}.transformer_blocks.0"
        rows = h.reshape(n // n_views, -1, c)
        normed = layer_norm(f"{inside}.norm1", rows)
        h = (rows + attention(f"{inside}.attn1", normed, normed)).reshape(n, -1, c)
        h = h + attention(f"{inside}.attn2", layer_norm(f"{inside}.norm2", h), context)
        value, gate = linear(f"{inside}.ff.net.0.proj", layer_norm(f"{inside}.norm3", h)).chunk(2, dim=-1)
        h = h + linear(f"{inside}.ff.net.2", value * F.gelu(gate))
        return v + linear(f"{name}.proj_out", h).transpose(1, 2).reshape(n, c, height, width)

    h1 = conv("input_blocks.0.0", x)
    h2 = transformer("input_blocks.1.1", residual("input_blocks.1.0", h1))
    h3 = conv("input_blocks.2.0.op", h2, stride=2)
    h4 = transformer("input_blocks.3.1", residual("input_blocks.3.0", h3))
    h5 = conv("input_blocks.4.0.op", h4, stride=2)
    h6 = residual("input_blocks.5.0", h5)
    h = residual("middle_block.2", transformer("middle_block.1", residual("middle_block.0", h6)))
    h = residual("output_blocks.0.0", torch.cat([h, h6], dim=1))
    h = residual("output_blocks.1.0", torch.cat([h, h5], dim=1))
    h = conv("output_blocks.1.1.conv", F.interpolate(h, scale_factor=2, mode="nearest"))
    h = transformer("output_blocks.2.1", residual("output_blocks.2.0", torch.cat([h, h4], dim=1)))
    h = transformer("output_blocks.3.1", residual("output_blocks.3.0", torch.cat([h, h3], dim=1)))
    h = conv("output_blocks.3.2.conv", F.interpolate(h, scale_factor=2, mode="nearest"))
    h = transformer("output_blocks.4.1", residual("output_blocks.4.0", torch.cat([h, h2], dim=1)))
    h = transformer("output_blocks.5.1", residual("output_blocks.5.0", torch.cat([h, h1], dim=1)))
    return conv("out.2", F.silu(group_norm("out.0", h, 1e-5)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MVDream:
    return MVDream.load(build_tiny_mvdream(tmp_path_factory.mktemp("mvdream")))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def four(azimuth: float = 0.0, elevation: float = 15.0, radius: float = 3.0):  # type: ignore[no-untyped-def]
    return orbit(*((azimuth + 90.0 * k, elevation) for k in range(4)), radius=radius)


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        unet = make_unet(PUBLISHED, 4)
    names, state = published_names(unet), unet.state_dict()
    shapes = {theirs: tuple(state[ours].shape) for ours, theirs in names.items()}
    assert {name: shapes.get(name) for name in PUBLISHED_SHAPES} == PUBLISHED_SHAPES
    assert len(shapes) == len(names) == 690  # the 686 of Stable Diffusion's U-Net and the camera's two layers
    described = {name: tuple(value.shape) for name, value in tiny_state().items()}
    small = make_unet(CONFIG, 4)
    tiny = {theirs: tuple(small.state_dict()[ours].shape) for ours, theirs in published_names(small).items()}
    assert tiny == described


def test_it_computes_what_its_architecture_says() -> None:
    unet, state = make_unet(CONFIG, 4).eval(), tiny_state()
    load_published(unet, state)
    x, t, context, camera = draw(8, 4, 8, 8), torch.tensor([500] * 4 + [20] * 4), draw(8, 5, 16, seed=1), draw(8, 16, seed=2)
    with torch.no_grad():
        found = unet(x, t, encoder_hidden_states=context, class_labels=camera).sample
        expected = literal(state, x, t, context, camera, 4)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    apart = literal(state, x, t, context, camera, 1)
    assert (apart - expected).abs().max() > 100 * (found - expected).abs().max(), "the views must see each other"


def test_cameras_are_blenders_on_the_unit_sphere() -> None:
    numbers = camera_numbers(four(elevation=0.0, radius=2.5)).view(4, 4, 4)
    front = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -1], [0, 1, 0, 0], [0, 0, 0, 1]])  # the released get_camera at azimuth 0
    torch.testing.assert_close(numbers[0], front, atol=1e-6, rtol=0)
    torch.testing.assert_close(numbers[1, :3, 3], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(numbers[:, :3, 3].norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("guidance", [SDS(guidance_scale=50.0), ImageTarget(guidance_scale=50.0, space="latent")], ids=["sds", "x0"])
def test_guidances_work_on_groups_of_four(model: MVDream, guidance: SDS | ImageTarget) -> None:
    text = model.embed(["a red mug", ""])
    prompt = model.condition(
        PromptEmbeds(text[:1].expand(8, -1, -1), text[1:].expand(8, -1, -1)), orbit(*[(k * 90.0, 0.0) for k in range(8)])
    )
    images = torch.rand(8, 32, 32, 3, requires_grad=True)
    loss = guidance.loss(model, images, prompt, torch.tensor([300] * 4 + [600] * 4), torch.Generator().manual_seed(0)).loss
    loss.backward()
    assert images.grad is not None and torch.isfinite(images.grad).all() and (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_its_x0_loss_is_the_published_one_with_the_contrast_of_four_views_together(model: MVDream) -> None:
    """2308.16512, section 3.3, written out: scale 50, phi 0.5, f = std(x0 text) / std(x0) over the views of a group."""
    embeds = model.embed(["a red mug", ""])
    prompt = PromptEmbeds(embeds[:1].expand(8, -1, -1), embeds[1:].expand(8, -1, -1))
    prompt = model.condition(prompt, orbit(*[(k * 90.0, 0.0) for k in range(8)]))
    z, t, noise = draw(8, 4, 8, 8), torch.tensor([300] * 4 + [600] * 4), draw(8, 4, 8, 8, seed=5)
    guided = denoise(model, model.add_noise(z, noise, t), [t], prompt, guidance_scale=50.0, rescale_phi=0.5)
    with torch.no_grad():
        text, negative = (model.predict(model.add_noise(z, noise, t), t, embed)[1] for embed in (prompt.text, prompt.negative))
    x0 = negative + 50 * (text - negative)
    for group in (slice(0, 4), slice(4, 8)):
        expected = 0.5 * (text[group].std() / x0[group].std()) * x0[group] + 0.5 * x0[group]
        torch.testing.assert_close(guided[group], expected, atol=2e-3 * float(expected.std()), rtol=1e-3)
    apart = 0.5 * (text[0].std() / x0[0].std()) * x0[0] + 0.5 * x0[0]
    assert (apart - guided[0]).abs().max() > 20e-3 * float(guided[0].std())


def test_a_view_depends_on_its_neighbours_and_on_all_cameras_but_on_no_other_group(model: MVDream) -> None:
    text, z = model.embed(["a red mug"]).expand(8, -1, -1), draw(8, 4, 8, 8)

    def first(z: Tensor, cameras) -> Tensor:  # type: ignore[no-untyped-def]
        prompt = model.condition(PromptEmbeds(text, text), cameras)
        return model.predict_noise(z, torch.full((8,), 400), prompt.text)[0]

    places = [(k * 90.0, 10.0) for k in range(8)]
    base = first(z, orbit(*places))
    for changed, same in ((2, False), (6, True)):
        other = z.clone()
        other[changed] += 1
        assert torch.allclose(first(other, orbit(*places)), base, atol=1e-5) is same
        moved = [(azimuth, 60.0 if k == changed else elevation) for k, (azimuth, elevation) in enumerate(places)]
        assert torch.allclose(first(z, orbit(*moved)), base, atol=1e-5) is same


def test_views_come_in_fours(model: MVDream) -> None:
    with pytest.raises(ValueError, match="views in fours, got 3"):
        model.predict(draw(3, 4, 8, 8), torch.tensor([1, 1, 1]), draw(3, 25, 16))


def test_a_broken_or_another_folder_is_a_sentence(tmp_path: Path) -> None:
    root = build_tiny_mvdream(tmp_path / "model", ip_dim=16)
    with pytest.raises(UserError, match="cannot be loaded: it is ImageDream, which is prompted by a picture too"):
        MVDream.load(root)
    (root / "unet" / "config.json").write_text(json.dumps({**CONFIG, "camera_dim": None}))
    with pytest.raises(UserError, match="cannot be loaded: its U-Net is none of MVDream's"):
        MVDream.load(root)
    (root / "unet" / "config.json").write_text(json.dumps(CONFIG))
    file = root / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(str(file))
    del state["camera_embed.0.bias"]
    save_file(state, str(file))
    with pytest.raises(UserError, match="its U-Net lacks camera_embed.0.bias. Fetch the folder again"):
        MVDream.load(root)
