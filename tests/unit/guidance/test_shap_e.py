"""Shap-E draws what diffusers' pipeline draws, in our axes, and its mesh is what a job can start from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ShapEPipeline
from diffusers.pipelines.shap_e.camera import create_pan_cameras
from diffusers.pipelines.shap_e.renderer import MeshDecoderOutput, volume_query_points
from safetensors.torch import load_file, save_file

from engine.drawn_mesh import check_drawing, draw_mesh, is_drawn, mesh_of
from engine.errors import UserError
from engine.guidance.shap_e import ImplicitShape, draw_latent
from engine.meshing.cleanup import is_closed
from engine.meshing.isosurface import signed_volume
from tests.tiny_shap_e import HIGH, LOW, build_tiny_shap_e

PROMPT = "a red mug"


@pytest.fixture(scope="module")
def random_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_shap_e(tmp_path_factory.mktemp("random") / "shap-e", is_shaped=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_shap_e(tmp_path_factory.mktemp("box") / "shap-e")


def silent(_step: int, _of: int) -> None:
    pass


def draw(root: Path, prompt: str = PROMPT, seed: int = 5, n_steps: int = 6) -> torch.Tensor:
    return draw_latent(root, prompt, seed=seed, device="cpu", n_steps=n_steps, report=silent)


def test_the_latent_and_its_distances_are_the_pipelines(random_root: Path) -> None:
    pipe = ShapEPipeline.from_pretrained(random_root, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    n = pipe.prior.config.num_embeddings * pipe.prior.config.embedding_dim
    noise = torch.randn(1, n, generator=torch.Generator().manual_seed(5))
    theirs = pipe(PROMPT, num_inference_steps=6, guidance_scale=15.0, latents=noise, output_type="latent").images
    ours = draw(random_root)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, draw(random_root, seed=6), atol=1e-2) and ours.std() > 0.1

    fields = []

    class Recorder(torch.nn.Module):
        def forward(self, field: torch.Tensor, _low: torch.Tensor, _size: torch.Tensor) -> MeshDecoderOutput:
            fields.append(field)
            return MeshDecoderOutput(verts=torch.zeros(1, 3), faces=torch.zeros(1, 3, dtype=torch.long), vertex_channels=None)

    pipe.shap_e_renderer.mesh_decoder = Recorder()
    pipe.shap_e_renderer.decode_to_mesh(theirs, "cpu", grid_size=8)
    positions = volume_query_points(pipe.shap_e_renderer.volume, 8)  # to the bit: the highest frequency magnifies 16,384 times
    distances, colors = ImplicitShape(random_root, ours, "cpu").at(positions)
    torch.testing.assert_close(distances.reshape(8, 8, 8), fields[0][1:-1, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert colors.shape == (512, 3) and 0 <= colors.min() and colors.max() <= 1


def test_its_axes_are_ours() -> None:
    """The first of the cameras that Shap-E's pipeline looks through stands in front of and above the object: Z up, front -Y."""
    cameras = create_pan_cameras(8)
    x, y, z = cameras.origin[0].tolist()
    assert abs(x) < 1e-6 and y < -3 and z > 1
    down = cameras.y[0]  # of the picture
    assert down[2] < -0.8 and cameras.x[0, 0] > 0.99
    assert cameras.origin[:, 2].std() < 1e-5  # it walks round the Z axis


def test_the_mesh_keeps_place_axes_and_colors(root: Path) -> None:
    mesh = draw_mesh(root, PROMPT, 0, torch.device("cpu"), silent)
    assert is_closed(mesh.faces) and signed_volume(mesh.vertices, mesh.faces) > 0
    places = mesh.vertices * mesh.scale + np.array(mesh.center)
    assert np.allclose(places.min(axis=0), np.array(LOW) - 0.02, atol=0.02)
    assert np.allclose(places.max(axis=0), np.array(HIGH) + 0.02, atol=0.02)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.9, abs=1e-3)
    assert mesh.corner_colors is not None
    corners, colors = places[mesh.faces].reshape(-1, 3), mesh.corner_colors.reshape(-1, 3)
    front, back, top, low = corners[:, 1] < -0.45, corners[:, 1] > 0.05, corners[:, 2] > 0.65, corners[:, 2] < -0.15
    assert colors[front, 0].mean() > 0.95 and colors[back, 0].mean() < 0.4
    assert colors[top, 1].mean() > 0.95 and colors[low, 1].mean() < 0.2


def test_steps_are_reported_and_may_end_it(random_root: Path) -> None:
    seen: list[tuple[int, int]] = []
    draw_latent(random_root, PROMPT, seed=0, device="cpu", n_steps=3, report=lambda step, of: seen.append((step, of)))
    assert seen == [(i, 5) for i in range(6)]  # two looks a level, one at the last

    def cancel(step: int, _of: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_latent(random_root, PROMPT, seed=0, device="cpu", n_steps=3, report=cancel)


def test_the_hubs_layout_is_read_too(root: Path, tmp_path: Path) -> None:
    """There the renderer with safetensors lies in `renderer`, beside one that is a pickle, and lacks the table of cases."""
    copy = Path(shutil.copytree(root, tmp_path / "hub"))
    shutil.copytree(copy / "shap_e_renderer", copy / "renderer")
    (copy / "shap_e_renderer" / "diffusion_pytorch_model.safetensors").unlink()
    (copy / "shap_e_renderer" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    file = copy / "renderer" / "diffusion_pytorch_model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if not name.startswith("mesh_decoder.")}
    save_file(weights, file, metadata={"format": "pt"})
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert check_drawing(str(copy)) == copy and is_drawn(str(copy))
    assert mesh_of(ImplicitShape(copy, draw(copy), "cpu")).faces.shape[0] > 100


def test_what_cannot_draw_is_a_sentence(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFUSION_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    assert is_drawn("shap-e") and is_drawn("openai/shap-e") and not is_drawn("mug.glb") and not is_drawn("")

    def refused(init: Path | str, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            check_drawing(str(init))
        assert caught.value.code == "model" and caught.value.fix

    refused("shap-e", "Model shap-e .* is not on this machine. Run: python -m engine models download shap-e")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is no Shap-E model: it lacks tokenizer, text_encoder, prior, scheduler, shap_e_renderer")
    copy = Path(shutil.copytree(root, tmp_path / "pickle"))
    (copy / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    refused(copy, "holds no .safetensors file")
    (copy / "prior" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    refused(copy, "as a pickle only, which can run code")
    half = Path(shutil.copytree(root, tmp_path / "half"))
    file = half / "prior" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    refused(half, "is cut off")


def test_a_renderer_that_lacks_weights_and_an_empty_drawing_are_sentences(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    file = copy / "shap_e_renderer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["mlp.mlp.2.bias"][0] = -9.0  # outside everywhere
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="Shap-E drew nothing for this prompt. Use another --seed"):
        mesh_of(ImplicitShape(copy, draw(copy), "cpu"))
    del weights["mlp.mlp.2.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of its weights, the first of them mlp.mlp.2.bias"):
        ImplicitShape(copy, draw(copy), "cpu")
