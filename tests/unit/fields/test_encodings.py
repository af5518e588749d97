"""Frequency waves, tinycudann's grid behind our face, and the shapes that stand there at the start."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from engine.errors import UserError
from engine.fields.activations import ACTIVATIONS, BLOBS, MIST
from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import FrequencyEncoding
from engine.fields.hash_grid import HashGrid

POSITIONS = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_waves_are_those_of_the_formula() -> None:
    encoding = FrequencyEncoding(3)
    found = encoding(POSITIONS)
    x = POSITIONS * 2 - 1
    expected = [x] + [f(2.0**k * x) for k in range(3) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(found, torch.cat(expected, dim=1))
    assert found.shape == (50, encoding.n_features) and encoding.n_features == 21


def test_waves_open_from_coarse_to_fine_without_a_jump() -> None:
    encoding = FrequencyEncoding(4)
    encoding.max_level = 0.5
    half = encoding(POSITIONS)
    assert (half[:, :15] != 0).any() and (half[:, 15:] == 0).all()
    encoding.max_level = 0.5 + 1e-6
    torch.testing.assert_close(encoding(POSITIONS), half, atol=1e-5, rtol=0)


def test_waves_have_a_second_derivative() -> None:
    at = POSITIONS[:3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(FrequencyEncoding(3), (at,))


class Encoding(torch.nn.Module):
    """What tinycudann documents of its own: a stand-in with our hash grid inside, for machines without an NVIDIA GPU."""

    made: dict[str, object] = {}

    def __init__(self, n_input_dims: int, encoding_config: dict[str, object], seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        Encoding.made = encoding_config
        assert n_input_dims == 3 and encoding_config["otype"] == "HashGrid"
        self.grid = HashGrid((8, 16), 2, 10, torch.Generator().manual_seed(seed))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return self.grid(positions)


@pytest.fixture
def tinycudann(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=Encoding))  # type: ignore[arg-type]


CONFIG = FieldConfig(encoding="tcnn", n_levels=2, base_resolution=8, finest_resolution=16, features=2, log2_table_size=10, hidden_width=8)


def test_tinycudanns_grid_is_asked_for_our_levels_and_opens_them(tinycudann: None) -> None:
    field = make_field(CONFIG, torch.Generator().manual_seed(0))
    assert Encoding.made["n_levels"] == 2 and Encoding.made["per_level_scale"] == 2.0 and Encoding.made["base_resolution"] == 8
    whole = field.encoding(POSITIONS.float())
    field.max_level = 0.5
    half = field.encoding(POSITIONS.float())
    assert whole.shape == (50, 4) and (half[:, 2:] == 0).all()
    torch.testing.assert_close(half[:, :2], whole[:, :2])


def test_the_field_draws_tinycudanns_numbers_from_our_generator(tinycudann: None) -> None:
    one, again, other = (make_field(CONFIG, torch.Generator().manual_seed(s)).encoding(POSITIONS.float()) for s in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_without_tinycudann_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(UserError, match="package tinycudann cannot be used here") as raised:
        make_field(CONFIG, torch.Generator())
    assert "--field.encoding hash" in raised.value.fix


@pytest.mark.parametrize("activation", ["softplus", "exp"])
@pytest.mark.parametrize("shape", ["gaussian", "sphere"])
def test_a_blob_stands_for_the_same_densities_under_either_activation(activation: str, shape: str) -> None:
    x = (POSITIONS * 2 - 1).requires_grad_()
    radius = x.norm(dim=-1)
    wanted = 6 * torch.exp(-2 * radius**2 / 0.45**2) + MIST if shape == "gaussian" else F.softplus(6 * (1 - radius / 0.45))
    found = ACTIVATIONS[activation](BLOBS[activation, shape](x, 6.0, 0.45))
    torch.testing.assert_close(found, wanted, atol=MIST + 1e-9, rtol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(gradient).all() and (gradient * x).sum(-1).max() <= 0, "denser towards the middle"
