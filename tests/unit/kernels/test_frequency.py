"""The kernels of the frequency encoding against the twin in torch: waves, their gradient, and normals with a gradient of their own."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_frequency import MOST_BANDS, frequency_encode
from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import waves_twin
from engine.fields.mlp import DirectionNetwork
from tests.unit.kernels.cases import frequency_case, generator_of

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")
CPU = torch.device("cpu")


def test_kernel_is_its_twin_to_second_order() -> None:
    found, wanted = (frequency_case(CPU, torch.float32, kernel=kernel) for kernel in (True, False))
    for found_part, wanted_part in zip(found, wanted, strict=True):
        torch.testing.assert_close(found_part, wanted_part, rtol=1e-4, atol=1e-5 * float(wanted_part.abs().max()))
    assert len(found) == 3 and all(part.abs().max() > 0 for part in found)


def test_the_highest_band_is_as_exact_as_the_lowest() -> None:
    """In float32, against the same waves of the same numbers in double; also where sine and cosine are at their turns."""
    x = torch.rand(20_000, 3, generator=generator_of(1)) * 2 - 1
    x[0], x[1] = 0.0, torch.tensor([1.0, -1.0, torch.pi / 4])
    x[2] = torch.tensor([torch.pi * 5000, torch.pi * 5000.5, -torch.pi * 9999]) / 2**15
    openness = (1.0,) * MOST_BANDS
    error = (frequency_encode(x, openness).double() - waves_twin(x.double(), openness)).abs()
    assert error[:, :3].max() == 0 and error.max() < 1e-6


def test_what_is_no_number_stays_none() -> None:
    features = frequency_encode(torch.tensor([[float("nan"), 0.5, 0.5], [0.5, 0.5, 0.5]]), (1.0, 1.0))
    assert features[0, [0, 3, 6, 9, 12]].isnan().all() and features[1].isfinite().all()


def test_both_orders_of_gradients_in_double() -> None:
    x = (torch.rand(4, 3, generator=generator_of(2), dtype=torch.float64) * 2 - 1).requires_grad_()
    encode = lambda x: frequency_encode(x, (1.0, 1.0, 0.5, 0.0))  # noqa: E731
    assert torch.autograd.gradcheck(encode, (x,))
    assert torch.autograd.gradgradcheck(encode, (x,))


def test_there_is_no_third_order_and_no_seventeenth_band() -> None:
    x = torch.rand(4, 3, generator=generator_of(3)).requires_grad_()
    (first,) = torch.autograd.grad(frequency_encode(x, (1.0,)).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no third derivative"):
        second.square().sum().backward()
    with pytest.raises(ValueError, match="at most 16 bands, got 17"):
        frequency_encode(x, (1.0,) * 17)


def test_no_samples() -> None:
    x = torch.zeros(0, 3).requires_grad_()
    out = frequency_encode(x, (1.0, 1.0))
    out.sum().backward()
    assert out.shape == (0, 15) and x.grad is not None and x.grad.shape == (0, 3)


def test_normals_and_their_gradient_are_the_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole field: waves, network, normals, and a loss on them."""
    config = FieldConfig(encoding="frequency", n_levels=5, hidden_width=16, density_scale=1000.0)
    positions = torch.rand(300, 3, generator=generator_of(4)) * 1.8 - 0.9
    results = []
    for kernel in (True, False):
        field = make_field(config, generator_of(5))
        if not kernel:
            monkeypatch.setattr(ops, "serves", lambda _tensor: False)
        normals = field.evaluate(positions, with_normals=True).normals
        assert normals is not None
        (normals * torch.randn(normals.shape, generator=generator_of(6))).sum().backward()
        results.append((normals.detach(), *(p.grad for p in field.decoder.parameters())))
    for found_part, wanted in zip(*results):
        if wanted is not None:
            torch.testing.assert_close(found_part, wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))
    assert results[0][1] is not None and results[0][1].abs().max() > 0


def test_a_learned_background_sees_by_the_same_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    background = DirectionNetwork(generator_of(7))
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator_of(8)), dim=-1)
    found = background(directions)
    monkeypatch.setattr(ops, "serves", lambda _tensor: False)
    torch.testing.assert_close(found, background(directions))
    assert found.std() > 0
