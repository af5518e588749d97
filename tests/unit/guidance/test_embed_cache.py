"""What large text encoders said is kept by content: a second job of the same words loads none, other words or weights never meet it."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from engine.guidance import embed_cache
from engine.guidance.configured import load_configured
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig
from engine.guidance.model_records import MODELS_VARIABLE
from tests.tiny_families import build_tiny_sdxl
from tests.tiny_mvdream import build_tiny_mvdream
from tests.tiny_sd import build_tiny_sd

PROMPTS = ["a red mug", "a mug", ""]
BUILDERS: dict[str, Callable[[Path], Path]] = {"sd": build_tiny_sd, "xl": build_tiny_sdxl, "mvdream": build_tiny_mvdream}


@pytest.fixture(scope="module", params=BUILDERS)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(embed_cache, "LARGE_BYTES", 0)
    return tmp_path / "models" / ".embeddings"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the text encoders that are loaded."""
    seen: list[str] = []
    for cls in (CLIPTextModel, CLIPTextModelWithProjection):
        original = cls.from_pretrained.__func__

        def counted(cls: type, *words: object, original: Callable = original, **more: object) -> object:
            seen.append(cls.__name__)
            return original(cls, *words, **more)

        monkeypatch.setattr(cls, "from_pretrained", classmethod(counted))
    return seen


def test_a_second_model_reads_without_an_encoder_and_the_same(root: Path, folder: Path, loads: list[str]) -> None:
    first = Denoiser.load(root)
    assert not loads and "text_encoder" not in first.parts
    embeds = first.embed(PROMPTS)
    n_encoders = len(loads)
    assert n_encoders == len([part for part in first.parts if part.startswith("text_encoder")]) > 0
    assert len(list(folder.iterdir())) == len(PROMPTS)
    again = Denoiser.load(root)
    assert torch.equal(again.embed(PROMPTS[::-1]), embeds.flip(0)) and len(loads) == n_encoders
    assert not any(part.startswith("text_encoder") for part in again.parts)
    mixed = again.embed(["a blue mug", PROMPTS[0]])
    assert len(loads) == 2 * n_encoders and torch.equal(mixed[1], embeds[0]) and not torch.equal(mixed[0], embeds[0])
    again.drop_text_encoder()
    with pytest.raises(ValueError, match="was dropped"):
        again.embed(PROMPTS)


def test_what_is_kept_is_what_an_encoder_that_is_here_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Denoiser.load(root).embed(PROMPTS)
    kept = Denoiser.load(root).embed(PROMPTS)
    monkeypatch.setattr(embed_cache, "LARGE_BYTES", 1 << 40)
    small = Denoiser.load(root)
    assert "text_encoder" in small.parts
    torch.testing.assert_close(small.embed(PROMPTS), kept, rtol=0, atol=0)


def test_other_weights_and_other_settings_do_not_meet_it(root: Path, tmp_path: Path) -> None:
    first = Denoiser.load(root).embed(PROMPTS)
    other = Path(shutil.copytree(root, tmp_path / "other"))
    file = other / "text_encoder" / "model.safetensors"
    save_file(
        {name: 1.01 * value if value.is_floating_point() else value for name, value in load_file(file).items()}, file, {"format": "pt"}
    )
    assert not torch.equal(Denoiser.load(other).embed(PROMPTS), first)


def test_a_lora_changes_what_is_said_and_keeps_nothing(tmp_path: Path, folder: Path) -> None:
    root = build_tiny_sd(tmp_path / "model")
    plain = Denoiser.load(root).embed(PROMPTS)
    before = {path.name for path in folder.iterdir()}
    lora = tmp_path / "style.safetensors"
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    save_file({f"{name}.lora_down.weight": torch.ones(1, 16), f"{name}.lora_up.weight": torch.ones(16, 1)}, lora)
    styled = load_configured(root, "cpu", DenoiserConfig(precision="float32", lora=str(lora)))
    assert not torch.allclose(styled.embed(PROMPTS), plain) and {path.name for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, folder: Path, loads: list[str]) -> None:
    root = build_tiny_sd(tmp_path / "model")
    folder.parent.mkdir()
    folder.write_text("a file in the way: not even an administrator can write into it")
    first = Denoiser.load(root).embed(PROMPTS)
    assert torch.equal(Denoiser.load(root).embed(PROMPTS), first) and len(loads) == 2
    folder.unlink()
    Denoiser.load(root).embed(PROMPTS)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert torch.equal(Denoiser.load(root).embed(PROMPTS), first) and len(loads) == 3
    finally:
        folder.chmod(stat.S_IRWXU)


def test_damaged_files_are_made_anew(tmp_path: Path, folder: Path, loads: list[str]) -> None:
    root = build_tiny_sd(tmp_path / "model")
    first = Denoiser.load(root).embed(PROMPTS)
    for path in folder.iterdir():
        path.write_bytes(b"broken")
    assert torch.equal(Denoiser.load(root).embed(PROMPTS), first) and len(loads) == 2


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = embed_cache.EmbedCache("key", folder)

    def encode(texts: list[str]) -> torch.Tensor:
        return torch.rand(len(texts), 4, 64)

    cache.embeds(["one"], encode)
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(embed_cache, "MAX_BYTES", 3 * size)
    import os

    for i, text in enumerate(("one", "two", "three")):
        cache.embeds([text], encode)
        os.utime(cache._path(text), (1000 + i, 1000 + i))
    cache.embeds(["one"], encode)  # used again, so it is the youngest but for what comes next
    cache.embeds(["four"], encode)
    assert {path for path in folder.iterdir()} == {cache._path(text) for text in ("one", "three", "four")}
