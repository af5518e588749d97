"""One tiny model for all tests of this folder that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.guidance.denoiser import Denoiser
from tests.tiny_sd import build_tiny_sd


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sd(tmp_path_factory.mktemp("tiny_sd"), latent_channels=8, addition_embed_type="text")


@pytest.fixture(scope="session")
def tiny(tiny_root: Path) -> Denoiser:
    return Denoiser.load(tiny_root)
