"""A march of fixed size against one of as many samples as there are: the same pictures and gradients, and nobody waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig
from engine.rendering.march import PackedSamples, march
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.render import RenderOutput, render
from engine.scene.cameras import camera_rays, orbit_cameras

STEP = 0.06
HAS_KERNELS = find_kernels()[0] is not None


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(
    params=[pytest.param(True, marks=pytest.mark.skipif(not HAS_KERNELS, reason="no library")), False], ids=["kernels", "twins"]
)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(ops, "serves", lambda _tensor: False)
    return bool(request.param)


def shell() -> OccupancyGrid:
    occupancy = OccupancyGrid(24)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.15).float(), 0, generator(1))
    return occupancy


def cameras() -> Any:
    return orbit_cameras(*(torch.tensor(value) for value in ([20.0, 170.0], [10.0, -60.0], [2.9, 3.0], [40.0, 45.0])))


def marched(max_samples: int) -> PackedSamples:
    return march(*camera_rays(cameras(), 16, 16), shell(), STEP, generator=generator(2), max_samples=max_samples)


def test_with_room_to_spare_all_samples_are_there_and_copies_have_no_length(kernels: bool) -> None:
    exact = marched(0)
    n = len(exact.t_starts)
    found = marched(n + 1000)
    assert n > 1000 and len(found.t_starts) == n + 1000 and exact.left_out is None
    assert torch.equal(found.packed_info, exact.packed_info) and torch.equal(found.ray_indices[:n], exact.ray_indices)
    torch.testing.assert_close(found.t_starts[:n], exact.t_starts)
    assert torch.equal(found.t_starts[n:], found.t_ends[n:]) and found.left_out is not None and found.left_out == 0
    torch.testing.assert_close(found.t_starts[n:], 0.5 * (exact.t_starts + exact.t_ends)[:1000])  # places that exist
    assert torch.equal(found.ray_indices[n:], exact.ray_indices[:1000])


def test_without_room_each_ray_keeps_the_same_share_from_its_front(kernels: bool) -> None:
    exact = marched(0)
    n = len(exact.t_starts)
    capacity = n // 2
    found = marched(capacity)
    counts = exact.packed_info[:, 1] * capacity // n
    assert torch.equal(found.packed_info, torch.stack([counts.cumsum(0) - counts, counts], dim=1))
    assert found.left_out is not None and float(found.left_out) == pytest.approx(1 - int(counts.sum()) / n)
    for ray in counts.nonzero()[:, 0].tolist():
        first, count = found.packed_info[ray].tolist()
        begin = int(exact.packed_info[ray, 0])
        torch.testing.assert_close(found.t_starts[first : first + count], exact.t_starts[begin : begin + count])
    assert torch.equal(found.t_starts[counts.sum() :], found.t_ends[counts.sum() :])


def rendered(max_samples: int, occupancy: OccupancyGrid) -> tuple[RenderOutput, list[Tensor]]:
    """A picture of a noisy field, and the gradients of a random sum of it and of its weights."""
    field = make_field(FieldConfig(finest_resolution=12, n_levels=2), generator(3))
    parameters = list(field.encoding.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator(4)) * 0.3)
    out = render(
        *(field, cameras(), 16, 16, occupancy), step_size=STEP, background=torch.zeros(2, 3), shading="lambertian", ambient_ratio=0.3,
        max_samples=max_samples,
    )  # fmt: skip
    loss = (out.image * torch.randn(out.image.shape, generator=generator(5))).sum() + out.weights.square().sum()
    return out, list(torch.autograd.grad(loss, parameters))


def test_pictures_and_gradients_are_those_of_all_samples(kernels: bool) -> None:
    exact, wanted = rendered(0, shell())
    n = len(exact.weights)
    out, found = rendered(2 * n + 17, shell())
    torch.testing.assert_close(out.image, exact.image)
    torch.testing.assert_close(out.depth, exact.depth)
    torch.testing.assert_close(out.weights[:n], exact.weights)
    assert not out.weights[n:].any()
    for part, wanted_part in zip(found, wanted):
        torch.testing.assert_close(part, wanted_part)


def test_where_no_ray_meets_anything_there_is_nothing(kernels: bool) -> None:
    occupancy = shell()
    occupancy.bits.zero_()
    out, gradients = rendered(100, occupancy)
    assert len(out.weights) == 100 and not out.weights.any() and not out.image.any() and out.left_out == 0
    assert not any(part.any() for part in gradients)


def test_one_sample_and_no_rays(kernels: bool) -> None:
    assert len(marched(1).t_starts) == 1
    assert len(march(torch.zeros(0, 3), torch.zeros(0, 3), shell(), STEP, max_samples=9).t_starts) == 0


@pytest.mark.skipif(not HAS_KERNELS, reason="no library")
def test_nothing_is_read_back_so_a_graph_may_record_it() -> None:
    rays = camera_rays(cameras(), 16, 16)
    occupancy = shell()
    read: list[str] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(function).split(".")[1] in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero"):
                read.append(str(function))
            return function(*args, **(kwargs or {}))

    with Reads():
        march(*rays, occupancy, STEP, max_samples=500)
    assert not read
    with Reads():
        int(march(*rays, occupancy, STEP).packed_info.sum())
    assert read  # the watch sees such things


def test_pruning_and_a_fixed_number_exclude_each_other() -> None:
    field = make_field(FieldConfig(finest_resolution=12, n_levels=2), generator(3))
    with pytest.raises(ValueError, match="not both"):
        render(field, cameras(), 8, 8, shell(), step_size=STEP, background=torch.zeros(2, 3), prune=True, max_samples=9)
