"""A tiny model as a copy on a hub, and a models folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.guidance.model_table import MODELS_VARIABLE
from tests.tiny_sd import build_tiny_sd
from tests.unit.models.fake_hub import FakeHub


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has them: half and full precision, a pickle, code, pictures."""
    folder = build_tiny_sd(tmp_path_factory.mktemp("copy") / "tiny", variant="fp16")
    for part in ("unet", "vae"):
        shutil.copy(folder / part / "diffusion_pytorch_model.fp16.safetensors", folder / part / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "unet" / "custom.py").write_text("raise SystemExit")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"12345678")
    (folder / "README.md").write_text("# tiny")
    return folder


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def clean_model(copy: Path) -> Path:
    """The tiny model without what is unsafe: a folder that a user has."""
    shutil.rmtree(copy / "safety_checker")
    for name in ("unet/custom.py", "unet/diffusion_pytorch_model.bin", "README.md"):
        (copy / name).unlink()
    return copy


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder; nothing of this machine's own is seen."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "models"
