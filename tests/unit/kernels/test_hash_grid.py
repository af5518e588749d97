"""The hash grid's kernels against the twin in torch: features, both gradients, and normals with their own gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ext import ops, ops_hash
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_hash import Levels, hash_encode
from engine.errors import UserError
from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig
from engine.fields.hash_grid import HashGrid

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")

# One level of points with rows of their own, one that shares rows, one that is half open, one that is closed.
SMALL = Levels((2, 3, 5, 6), (27, 32, 32, 32), (1.0, 1.0, 0.5, 0.0), False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy_grid(features: int, *, smooth: bool, max_level: float = 1.0) -> HashGrid:
    grid = HashGrid((4, 9, 16, 30), features, 10, seeded(1), smooth=smooth)
    grid.max_level = max_level
    with torch.no_grad():
        grid.table.copy_(torch.randn(grid.table.shape, generator=seeded(2)))
    return grid


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("features", "max_level"), [(2, 1.0), (4, 0.6), (3, 1.0), (1, 0.0)])
def test_kernel_is_its_twin_forward_and_backward(features: int, max_level: float, smooth: bool) -> None:
    results = []
    for kernel in (True, False):
        grid = noisy_grid(features, smooth=smooth, max_level=max_level)
        positions = torch.rand(700, 3, generator=seeded(3)) * 1.2 - 0.1  # some outside
        positions[0], positions[1] = 0.0, 1.0
        positions.requires_grad_()
        out = grid(positions) if kernel else grid.forward_twin(positions)
        (out * torch.randn(out.shape, generator=seeded(4))).sum().backward()
        results.append((out.detach(), grid.table.grad, positions.grad))
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(wanted.abs().max())))
    assert results[0][1].abs().max() > 0


@pytest.mark.parametrize("smooth", [False, True])
def test_normals_and_their_gradient_are_the_twins(smooth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole field: grid, network, normals, and a loss on them."""
    config = FieldConfig(
        encoding="hash",
        n_levels=3,
        finest_resolution=24,
        features=2,
        hidden_width=8,
        log2_table_size=10,
        interpolation="smoothstep" if smooth else "linear",
    )
    positions = torch.rand(300, 3, generator=seeded(5)) * 1.8 - 0.9
    results = []
    for kernel in (True, False):
        field = make_field(config, seeded(6))
        assert isinstance(field.encoding, HashGrid)
        with torch.no_grad():
            field.encoding.table.mul_(3000)
        if not kernel:
            monkeypatch.setattr(ops, "serves", lambda _tensor: False)
        found = field.evaluate(positions, with_normals=True)
        assert found.normals is not None
        (found.normals * torch.randn(found.normals.shape, generator=seeded(7))).sum().backward()
        results.append((found.normals.detach(), field.encoding.table.grad, *(p.grad for p in field.decoder.parameters())))
    for found_part, wanted in zip(*results):
        if wanted is not None:  # the biases of the last layer have no part in a normal
            torch.testing.assert_close(found_part, wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("smooth", [False, True])
def test_both_orders_of_gradients_in_double(smooth: bool) -> None:
    levels = SMALL._replace(smooth=smooth)
    table = torch.randn(sum(levels.sizes), 2, generator=seeded(8), dtype=torch.float64).requires_grad_()
    positions = (torch.rand(4, 3, generator=seeded(9), dtype=torch.float64) * 0.98 + 0.01).requires_grad_()
    encode = lambda t, x: hash_encode(t, x, levels)  # noqa: E731
    assert torch.autograd.gradcheck(encode, (table, positions))
    assert torch.autograd.gradgradcheck(encode, (table, positions))


def test_normals_of_an_averaged_field_and_no_table_gradient_in_vain() -> None:
    field = make_field(FieldConfig(encoding="hash", n_levels=3, features=2, hidden_width=8), seeded(6))
    positions = torch.rand(50, 3, generator=seeded(5)) - 0.5
    calls: list[str] = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(str(function))
            return function(*args, **(kwargs or {}))

    with Calls():
        wanted = field.normals(positions, create_graph=True)
    assert any("hash_position_grad" in call for call in calls) and not any("hash_table_grad" in call for call in calls)
    field.requires_grad_(False)
    torch.testing.assert_close(field.normals(positions, create_graph=False), wanted)


def test_threads_do_not_change_a_gradient() -> None:
    grads, before = [], torch.get_num_threads()
    positions = torch.rand(20_000, 3, generator=seeded(10))
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            grid = noisy_grid(2, smooth=False)
            at = positions.clone().requires_grad_()
            grid(at).square().sum().backward()
            grads.append((grid.table.grad, at.grad))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(grads[0][0], grads[1][0]) and torch.equal(grads[0][1], grads[1][1])  # each row is one thread's


def test_no_samples_and_a_table_of_another_size() -> None:
    grid = noisy_grid(2, smooth=False)
    empty = grid(torch.zeros(0, 3))
    empty.sum().backward()
    assert empty.shape == (0, 8) and grid.table.grad is not None and not grid.table.grad.any()
    with pytest.raises(ValueError, match=r"table must be \[123, "):
        hash_encode(torch.zeros(122, 2), torch.zeros(1, 3), SMALL)
    with pytest.raises(ValueError, match="one type"):
        hash_encode(torch.zeros(123, 2), torch.zeros(1, 3).double(), SMALL)


def test_operators_pass_opcheck() -> None:
    table = torch.randn(sum(SMALL.sizes), 2, generator=seeded(11)).requires_grad_()
    x = torch.rand(5, 3, generator=seeded(12)).requires_grad_()
    g = torch.randn(5, 8, generator=seeded(13)).requires_grad_()
    for operator, arguments in (
        (torch.ops.dreamfusion.hash_encode, (table, x, None, *SMALL)),
        (torch.ops.dreamfusion.hash_table_grad, (x, None, g, *SMALL)),
        (torch.ops.dreamfusion.hash_position_grad, (table, x, None, g, *SMALL)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_smoothstep_asks_for_a_hash_grid() -> None:
    with pytest.raises(UserError, match="a dense grid is read by straight lines"):
        FieldConfig(interpolation="smoothstep")
    assert ops_hash.MOST_FEATURES == 32  # what FieldConfig.features allows
