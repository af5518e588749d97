"""What torch asks of an operator, for every one there is: opcheck, and torch.compile of it without a break in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import cuda_ext.ops_adan
import cuda_ext.ops_frequency
import cuda_ext.ops_grid_tv
import cuda_ext.ops_hash
import cuda_ext.ops_march
import cuda_ext.ops_occupancy
import cuda_ext.ops_raster
import cuda_ext.ops_spherical
import cuda_ext.ops_table  # noqa: F401  importing registers the operators
from cuda_ext.cpu import find_kernels
from engine.fields.activations import MIST

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")

LEVELS = ([2, 3, 5], [27, 32, 32], [1.0, 1.0, 0.5], False)
FIELD = (0, 2.0, 4.0, 0.5, MIST)
ALL_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def rand(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def packed() -> Tensor:
    return torch.tensor([[0, 3], [3, 0], [3, 4]])


def marched() -> tuple[Any, ...]:
    return (
        torch.tensor([[0.1, -3.0, 0.1], [0.0, 5.0, 0.0]]),
        torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]),
        torch.tensor([0.5, 0.5]),
        torch.tensor([[-1.0] * 3, [1.0] * 3]),
        (rand(2, 64) * 256).to(torch.uint8),
        *(8, 0.1, 0.05),
    )


ARGUMENTS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "composite": lambda: (rand(7, grad=True), rand(7, seed=1), rand(7, 5, seed=2, grad=True), packed(), 0.4),
    "composite_backward": lambda: (
        *(rand(7), rand(7, 5, seed=1), packed(), torch.tensor([2, 0, 4], dtype=torch.int32)),
        *(rand(7, seed=2) / 4, rand(7, seed=3), rand(3, 5, seed=4)),
    ),
    "march": marched,
    "march_fixed": lambda: (*marched(), 9),
    "dense_field": lambda: (rand(27, 7, grad=True), 3, rand(9, 3, seed=1), *FIELD),
    "dense_field_backward": lambda: (
        *(3, 7, rand(9, 3, seed=1), 0, 2.0),
        *(rand(9, seed=2), rand(9, 3, seed=3), rand(9, 3, seed=4), rand(9, seed=5) + 0.1),
        *(rand(9, seed=6), rand(9, 3, seed=7), rand(9, 3, seed=8)),
    ),
    "dense_table": lambda: (rand(4, 5, 5, 5, grad=True), 2.0, True),
    "dense_table_backward": lambda: (rand(125, 7), 5, 2.0),
    "hash_encode": lambda: (rand(91, 2, grad=True), rand(6, 3, seed=1, grad=True), None, *LEVELS),
    "hash_table_grad": lambda: (rand(6, 3), None, rand(6, 6, seed=1, grad=True), *LEVELS),
    "hash_position_grad": lambda: (rand(91, 2, grad=True), rand(6, 3, seed=1), None, rand(6, 6, seed=2), *LEVELS),
    "frequency_encode": lambda: (rand(5, 3, grad=True), [1.0, 0.5]),
    "frequency_pull": lambda: (rand(5, 15, grad=True), rand(5, 15, seed=1, grad=True)),
    "frequency_push": lambda: (rand(5, 15, grad=True), rand(5, 3, seed=1, grad=True), False),
    "spherical_encode": lambda: (rand(5, 3, grad=True), 3),
    "spherical_pull": lambda: (rand(5, 3, grad=True), rand(5, 9, seed=1, grad=True)),
    "spherical_pull_backward": lambda: (rand(5, 3), rand(5, 9, seed=1), rand(5, 3, seed=2)),
    "grid_tv": lambda: (rand(91, 2, grad=True), rand(6, 3, seed=1), *LEVELS[:3]),
    "grid_tv_backward": lambda: (rand(2, 91).t(), rand(6, 3, seed=1), rand(3, 6, seed=2), *LEVELS[:3]),
    "occupancy_update": lambda: (rand(2, 5, 5, 5), rand(2, 5, 5, 5, seed=1), 0.9, torch.tensor(0.9)),
    "raster_count": lambda: (rand(5, 3, 2) * 9, 7, 8),
    "raster_fragments": lambda: (rand(5, 3, 2) * 9, 7, 8),
    "raster_nearest": lambda: (rand(5, 3, 2) * 9, rand(5, 3, seed=1) + 0.5, 7, 8, False, 1e-3),
    "adan_step": lambda: (*(rand(20, seed=k) for k in range(6)), 0.98, 0.92, 0.99, 1e-2, 1e-2, 0.5, 1e-8, 1.0),
}


def test_every_operator_is_here() -> None:
    schemas = [str(schema.name) for schema in torch._C._jit_get_all_schemas()]
    assert {name.removeprefix("dreamfusion::") for name in schemas if name.startswith("dreamfusion::")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_operator_passes_opcheck(name: str) -> None:
    checks = ALL_CHECKS[:3] if name in ("march", "raster_fragments") else ALL_CHECKS  # an unknown number of samples cannot be traced ahead
    torch.library.opcheck(getattr(torch.ops.dreamfusion, name).default, ARGUMENTS[name](), test_utils=checks)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_operator_compiles_without_a_break_in_the_graph(name: str) -> None:
    operator = getattr(torch.ops.dreamfusion, name).default
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()  # the other operators count against one limit of recompilations
        arguments = ARGUMENTS[name]()
        call = torch.compile(lambda *a: operator(*a), fullgraph=True, backend="aot_eager") if compiled else operator
        found = call(*arguments)
        outputs = [found] if isinstance(found, Tensor) else [*(found or arguments[:1])]  # in place: what it wrote
        results.append(outputs)
        leaves = [tensor for tensor in arguments if isinstance(tensor, Tensor) and tensor.requires_grad]
        if leaves:
            results[-1] += torch.autograd.grad(sum(out.square().sum() for out in outputs), leaves)  # type: ignore[arg-type]
    for found_part, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found_part, wanted)
