"""CLIP R-Precision of free prompts: the judge is CLIP, it tells objects apart, and the command prints a row per method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import trimesh
from transformers import CLIPConfig, CLIPModel

from benchmarks.clip_precision import FREE_PROMPTS, N_AZIMUTHS, ClipJudge, FreeRun, free_table, pictures_of, r_precision, ring
from benchmarks.quality import main
from benchmarks.score import GROUNDS, Mesh
from engine.errors import UserError
from engine.scene.cameras import camera_angles
from tests.tiny_sd import tiny_tokenizer


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From CLIP's real config classes, 32 pixels."""
    root = tmp_path_factory.mktemp("clip") / "clip"
    tokenizer = tiny_tokenizer()
    text = dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = dict(image_size=32, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(root, safe_serialization=True)
    tokenizer.save_pretrained(root)
    return root


def mesh_of(shape: trimesh.Trimesh, color: tuple[float, float, float]) -> Mesh:
    faces = np.asarray(shape.faces)
    return Mesh(np.asarray(shape.vertices), faces, np.full((len(faces), 3, 2), 0.5, np.float32), np.full((8, 8, 3), color, np.float32))


BALL = mesh_of(trimesh.creation.icosphere(subdivisions=2, radius=0.5), (0.8, 0.1, 0.1))
BOX = mesh_of(trimesh.creation.box((1.4, 0.3, 0.3)), (0.1, 0.2, 0.8))


def test_the_judge_is_clip(clip: Path) -> None:
    judge, model = ClipJudge(clip), CLIPModel.from_pretrained(clip)
    images = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    pixels = (images - torch.tensor((0.4815, 0.4578, 0.4082))) / torch.tensor((0.2686, 0.2613, 0.2758))
    tokens = tiny_tokenizer()(["a red mug", "a mug"], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(pixel_values=pixels.permute(0, 3, 1, 2), **tokens)
    torch.testing.assert_close(judge.pictures(images), theirs.image_embeds, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(judge.texts(["a red mug", "a mug"]), theirs.text_embeds, rtol=1e-3, atol=1e-3)


def test_views_stand_all_round_thirty_degrees_up() -> None:
    azimuths, elevations = camera_angles(ring())[:2]
    assert elevations.tolist() == pytest.approx([30.0] * N_AZIMUTHS, abs=1e-3)
    assert sorted((azimuths % 360).round().tolist()) == [i * 360 / N_AZIMUTHS for i in range(N_AZIMUTHS)]


def test_precision_is_the_share_of_views_that_find_their_own() -> None:
    texts = torch.eye(3)
    pictures = torch.tensor([[1.0, 0.2, 0.0], [0.0, 1.0, 0.2], [0.9, 0.1, 0.0], [0.1, 0.0, 0.8]])
    assert [r_precision(pictures, texts, own) for own in range(3)] == [0.5, 0.25, 0.25]


def test_objects_are_told_apart_in_color_and_by_shape_alone(clip: Path) -> None:
    judge = ClipJudge(clip)
    seen = [[judge.pictures(images) for images in pictures_of(mesh, judge.size_px)] for mesh in (BALL, BOX)]
    assert all(len(features) == N_AZIMUTHS * len(GROUNDS) for kinds in seen for features in kinds)
    for kind in range(2):  # over one ground, which random weights see most; each object's own mean stands for a text that describes it
        features = [seen[i][kind][-N_AZIMUTHS:] for i in range(2)]
        middle = (features[0].mean(0) + features[1].mean(0)) / 2
        features = [value - middle for value in features]
        texts = torch.stack([value.mean(0) for value in features])
        shares = [r_precision(features[own], texts, own) for own in range(2)]
        assert min(shares) > 0.6, (kind, shares)
    colored, textureless = pictures_of(BALL, 32)
    assert colored[:, 16, 16, 0].mean() > 3 * colored[:, 16, 16, 2].mean()
    assert textureless[:, 16, 16].std(dim=-1).max() < 1e-5


def test_the_command_prints_a_row_per_method(clip: Path, tmp_path: Path) -> None:
    """From results that are there already: no engine is started."""
    (tmp_path / "prompts.txt").write_text("a red mug\n\na mug\na red mug\n")
    folder = tmp_path / "the-good-one"
    for name, mesh in (("a-red-mug-0", BALL), ("a-mug-0", BOX)):
        result = folder / name / "result"
        result.mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps({"wall_s": 60, "peak_gb": 1.25}))
        np.savez(result / "mesh.npz", vertices=mesh.vertices, faces=mesh.faces, corner_uvs=mesh.corner_uvs)
        PIL.Image.fromarray((255 * mesh.albedo).astype(np.uint8)).save(result / "albedo.png")
        (result / "result.json").write_text(json.dumps({"stats": {}, "restarts": 0}))
    shown: list[str] = []
    words = ["--method", "The good one:", "--seeds", "1", "--out", str(tmp_path), "--model", "sd21-base", "--clip", str(clip)]
    main([*words, "--free-prompts", str(tmp_path / "prompts.txt")], shown.append)
    assert len(shown) == 4 and "2 free prompts" in shown[2]
    judge = ClipJudge(clip)
    texts = judge.texts(["a red mug", "a mug"])
    expected = [
        np.mean([r_precision(judge.pictures(pictures_of(mesh, 32)[kind]), texts, own) for own, mesh in enumerate((BALL, BOX))])
        for kind in range(2)
    ]
    cells = [cell.strip() for cell in shown[-1].splitlines()[-1].strip("|").split("|")]
    assert [float(cell.removesuffix(" %")) / 100 for cell in cells[1:3]] == pytest.approx(expected, abs=0.01)
    assert cells[0] == "The good one" and cells[3:] == ["0 %", "0 %", "60", "1.25"]


def test_a_run_without_a_mesh_is_found_in_no_view() -> None:
    runs = [FreeRun("a", 60.0, 1.0, 1.0, 0.5, 1), FreeRun("b", 20.0, 2.0, None, None, 0)]
    assert free_table({"half": runs}).splitlines()[-1] == "| half | 50.0 % | 25.0 % | 50 % | 50 % | 40 | 2.00 |"
    assert len(set(FREE_PROMPTS)) == len(FREE_PROMPTS) == 16


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "sd21-base", "--clip", "nowhere"], "is no CLIP: it has no config.json. Give the folder"),
        (["--clip", "nowhere"], "free prompts need a model that takes them, for example --model sd21-base"),
        (["--model", "sd21-base", "--free-prompts", "nowhere.txt", "--clip", "nowhere"], "nowhere.txt"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--method", "a:", *words])
    assert says in capsys.readouterr().err


def test_one_prompt_and_a_pickle_are_refused(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("a mug\n")
    with pytest.raises(SystemExit):
        main(["--method", "a:", "--model", "x", "--clip", str(clip), "--free-prompts", str(tmp_path / "one.txt")])
    assert "needs two different prompts" in capsys.readouterr().err
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text((clip / "config.json").read_text())
    (tmp_path / "clip" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="cannot be loaded"):
        ClipJudge(tmp_path / "clip")
