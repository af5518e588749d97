"""Every kernel against its plain torch twin, forward and backward, and in double precision against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from cuda_ext import ops, ops_march
from cuda_ext.build import RECORD, source_hash
from cuda_ext.cpu import find_kernels, platform_name
from cuda_ext.ops_adan import adan_step
from engine.fields.activations import MIST
from engine.fields.field import RadianceField, make_field
from engine.fields.field_config import FieldConfig
from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import PackedSamples, _march_twin, march, pack
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import camera_rays, orbit_cameras
from engine.training.adan import Adan
from tests.unit.kernels.cases import CASES

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rays_with_samples(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Densities, deltas, values, ray_indices, packed_info: rays of 0 to 9 samples, some of them opaque."""
    generator = seeded(3)
    counts = torch.tensor([0, 3, 9, 1, 0, 5, 7, 0])
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), counts)
    n = int(counts.sum())
    densities = torch.rand(n, generator=generator, dtype=dtype) * 6
    densities[5] = 500.0
    deltas = torch.rand(n, generator=generator, dtype=dtype) * 0.2 + 0.05
    values = torch.randn(n, 5, generator=generator, dtype=dtype)
    return densities, deltas, values, ray_indices, pack(ray_indices, len(counts))


def test_library_is_made_of_these_sources() -> None:
    import json

    assert json.loads(RECORD.read_text())["sources"] == source_hash(), "run python -m cuda_ext.build and commit cuda_ext/lib"


@pytest.mark.parametrize("platform", ["macos-x64", "macos-arm64"])
def test_a_macos_library_calls_itself_by_its_bare_name(platform: str) -> None:
    """And not by the folder of the machine that built it."""
    from cuda_ext.build import LIBRARIES, TARGETS

    name = TARGETS[platform].file
    content = (LIBRARIES / platform / name).read_bytes()
    assert name.encode() in content and f"/{name}".encode() not in content


def test_platform_has_a_name_that_build_knows() -> None:
    from cuda_ext.build import TARGETS

    assert platform_name() in TARGETS


def test_composite_is_its_twin_forward_and_backward() -> None:
    densities, deltas, values, ray_indices, packed_info = rays_with_samples()
    results = []
    for kernel in (True, False):
        d, v = densities.clone().requires_grad_(), values.clone().requires_grad_()
        if kernel:
            weights, sums = ops.composite(d, deltas, v, packed_info)
        else:
            weights, _ = weights_from_density(d, deltas, packed_info)
            sums = accumulate(weights, v, ray_indices, packed_info.shape[0])
        generator = seeded(4)
        loss = (weights * torch.randn(weights.shape, generator=generator)).sum() + (
            sums * torch.randn(sums.shape, generator=generator)
        ).sum()
        loss.backward()
        results.append((weights.detach(), sums.detach(), d.grad, v.grad))
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_composite_gradients_in_double() -> None:
    densities, deltas, values, _, packed_info = rays_with_samples(torch.float64)
    densities[5] = 3.0
    assert torch.autograd.gradcheck(
        lambda d, v: ops.composite(d, deltas, v, packed_info), (densities.requires_grad_(), values.requires_grad_())
    )


def test_a_ray_ends_where_too_little_light_is_left_and_its_gradients_are_exact() -> None:
    """In double, by finite differences: what lies behind neither counts nor pulls."""
    n, stop = 12, 0.1
    densities = torch.linspace(2, 6, n, dtype=torch.float64)
    deltas = torch.full((n,), 0.1, dtype=torch.float64)
    values, packed_info = torch.randn(n, 3, generator=seeded(4), dtype=torch.float64), torch.tensor([[0, n]])
    weights, sums = ops.composite(densities, deltas, values, packed_info, stop)
    whole, _ = ops.composite(densities, deltas, values, packed_info)
    before = 1 - torch.cat([whole.new_zeros(1), whole.cumsum(0)[:-1]])
    n_kept = int((before >= stop).sum())
    assert 3 < n_kept < n - 3
    assert torch.equal(weights, torch.where(before >= stop, whole, 0.0))
    torch.testing.assert_close(sums[0], (weights[:, None] * values).sum(dim=0))
    d, v = densities.clone().requires_grad_(), values.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda d, v: ops.composite(d, deltas, v, packed_info, stop), (d, v))
    _, sums = ops.composite(d, deltas, v, packed_info, stop)
    for gradient in torch.autograd.grad(sums.sum(), (d, v)):
        assert gradient[:n_kept].ne(0).any() and gradient[n_kept:].eq(0).all()


def test_composite_of_weights_alone_has_a_gradient() -> None:
    densities, deltas, values, _, packed_info = rays_with_samples()
    d = densities.clone().requires_grad_()
    weights, _ = ops.composite(d, deltas, values, packed_info)
    weights.square().sum().backward()
    assert d.grad is not None and d.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", ["occupancy_update", "adan_step", "raster"])
def test_operator_without_gradient_is_its_twin(name: str, dtype: torch.dtype) -> None:
    for found, wanted in zip(*(CASES[name](torch.device("cpu"), dtype, kernel=kernel) for kernel in (True, False)), strict=True):
        torch.testing.assert_close(found, wanted)


def test_adan_takes_the_same_steps_with_and_without_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole optimizer; a second parameter, of another layout, is the twin's either way."""
    results = []
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(ops, "serves", lambda _tensor: False)
        parameters = [torch.nn.Parameter(torch.randn(30, 4, generator=seeded(1))), torch.nn.Parameter(torch.ones(4, 30).t())]
        optimizer = Adan(parameters, lr=0.05, weight_decay=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            sum((p - 0.3).square().sum() for p in parameters).backward()  # type: ignore[union-attr]
            optimizer.step()
        results.append([p.detach() for p in parameters])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="contiguous"):
        p, state = torch.ones(4, 30).t(), tuple(torch.ones(30, 4) for _ in range(4))
        adan_step(p, torch.ones(30, 4), state, (0.98, 0.92, 0.99), 1, 0.1, 1e-8, 0.0)  # type: ignore[arg-type]


def shell(resolution: int) -> OccupancyGrid:
    occupancy = OccupancyGrid(resolution)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, seeded(1))
    return occupancy


@pytest.mark.parametrize("jitter", [False, True])
def test_march_is_its_twin(jitter: bool) -> None:
    occupancy = shell(24)
    cameras = orbit_cameras(*(torch.tensor(v) for v in ([20.0, 170.0], [10.0, -60.0], [2.9, 3.0], [40.0, 45.0])))
    rays_o, rays_d = camera_rays(cameras, 24, 24)
    generator = seeded(2) if jitter else None
    found = march(rays_o, rays_d, occupancy, 0.07, generator=generator)
    shifts = torch.rand(rays_o.shape[0], generator=seeded(2)) if jitter else torch.full((rays_o.shape[0],), 0.5)
    wanted = _march_twin(rays_o, rays_d, shifts, occupancy, ops_march.lattice_of(0.07, 0.0, 24))
    # A place on a cell's face may round to either side; no more than that may differ.
    assert abs(len(found.t_starts) - len(wanted.t_starts)) <= 3
    keys = [set(zip(s.ray_indices.tolist(), (s.t_starts / 0.07).round(decimals=2).tolist())) for s in (found, wanted)]
    assert len(keys[0] ^ keys[1]) <= 3
    check_packing(found)


def check_packing(samples: PackedSamples) -> None:
    assert torch.equal(samples.packed_info, pack(samples.ray_indices, samples.packed_info.shape[0]))
    assert bool((samples.ray_indices.diff() >= 0).all())
    same = samples.ray_indices.diff() == 0
    assert bool((samples.t_starts.diff()[same] > 0).all())


def test_march_of_rays_along_axes_misses_and_an_empty_grid() -> None:
    occupancy = OccupancyGrid(8)
    rays_o = torch.tensor([[0.1, -3.0, 0.1], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0], [9.0, 9.0, 9.0]])
    rays_d = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    counts = march(rays_o, rays_d, occupancy, 0.1).packed_info[:, 1].tolist()
    assert counts == [20, 10, 0, 0]
    occupancy.bits.zero_()
    assert march(rays_o, rays_d, occupancy, 0.1).t_starts.numel() == 0
    assert march(rays_o[:0], rays_d[:0], occupancy, 0.1).packed_info.shape == (0, 2)


def test_march_in_double_and_of_mixed_types() -> None:
    occupancy, rays_o, rays_d = OccupancyGrid(8), torch.tensor([[0.1, -3.0, 0.1]]), torch.tensor([[0.0, 1.0, 0.0]])
    wanted = march(rays_o, rays_d, occupancy, 0.1)
    found = march(rays_o.double(), rays_d.double(), occupancy, 0.1)
    torch.testing.assert_close(found.t_starts.float(), wanted.t_starts)
    with pytest.raises(ValueError, match="one type"):
        ops_march.march(rays_o.double(), rays_d, torch.tensor([0.5]), occupancy.bounds, occupancy.bits, 8, 0.1)


def noisy_field(activation: str) -> RadianceField:
    field = make_field(FieldConfig(activation=activation, finest_resolution=12, n_levels=2), seeded(5))  # type: ignore[arg-type]
    with torch.no_grad():
        for level in field.encoding.levels:  # type: ignore[union-attr]
            level.add_(torch.randn(level.shape, generator=seeded(6)) * 0.3)
    return field


@pytest.mark.parametrize("activation", ["softplus", "exp"])
@pytest.mark.parametrize("with_normals", [True, False])
def test_dense_field_is_its_twin(activation: str, with_normals: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = torch.rand(500, 3, generator=seeded(7)) * 2.2 - 1.1  # also outside the box, and in its middle
    positions[0] = 0.0
    results = []
    for kernel in (True, False):
        field = noisy_field(activation)
        monkeypatch.setattr(RadianceField, "_has_kernel", lambda _self, _positions, on=kernel: on)
        found = field.evaluate(positions, with_normals=with_normals)
        parts = [part for part in found if part is not None]
        generator = seeded(8)
        sum((part * torch.randn(part.shape, generator=generator)).sum() for part in parts).backward()  # type: ignore[union-attr]
        results.append([part.detach() for part in parts] + [level.grad for level in field.encoding.levels])  # type: ignore[union-attr]
    for found_part, wanted in zip(*results):
        torch.testing.assert_close(found_part, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("width", [4, 7])
def test_dense_field_gradients_in_double(activation: str, width: int) -> None:
    table = (torch.randn(27, width, generator=seeded(9), dtype=torch.float64) * 0.4).requires_grad_()
    positions = torch.rand(12, 3, generator=seeded(10), dtype=torch.float64) * 1.8 - 0.9
    assert torch.autograd.gradcheck(lambda t: ops.dense_field(t, 3, positions, activation, 2.0, 4.0, 0.5, MIST), (table,))


@pytest.mark.parametrize("where", ["everywhere", "one plane"])
def test_threads_do_not_change_the_sum(where: str) -> None:
    """Not in the last digit: each plane of the grid is one thread's, which adds its samples in their order."""
    table = torch.randn(9**3, 7, generator=seeded(11))
    positions = torch.rand(20_000, 3, generator=seeded(12)) * 2 - 1
    if where == "one plane":
        positions[:, 0] = 0.99
    grads, before = [], torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            t = table.clone().requires_grad_()
            densities, albedo, normals = ops.dense_field(t, 9, positions, "softplus", 2.0, 4.0, 0.5, MIST)
            (densities.mean() + albedo[:, 0].mean() + normals[:, 1].mean()).backward()
            grads.append(t.grad)
    finally:
        torch.set_num_threads(before)
    assert grads[0] is not None and grads[0].any() and torch.equal(grads[0], grads[1])  # type: ignore[arg-type]


def test_operators_pass_opcheck() -> None:
    densities, deltas, values, _, packed_info = rays_with_samples()
    torch.library.opcheck(torch.ops.dreamfusion.composite, (densities.requires_grad_(), deltas, values.requires_grad_(), packed_info))
    table = torch.randn(27, 7, generator=seeded(13)).requires_grad_()
    positions = torch.rand(9, 3, generator=seeded(14))
    torch.library.opcheck(torch.ops.dreamfusion.dense_field, (table, 3, positions, 0, 2.0, 4.0, 0.5, MIST))
    occupancy = shell(8)
    rays_o, rays_d = torch.tensor([[0.1, -3.0, 0.1]]), torch.tensor([[0.0, 1.0, 0.0]])
    torch.library.opcheck(
        torch.ops.dreamfusion.march,
        (rays_o, rays_d, torch.tensor([0.5]), occupancy.bounds, occupancy.bits, 8, 0.1, 0.0),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_switch_turns_kernels_off() -> None:
    import subprocess
    import sys

    code = "from cuda_ext.cpu import find_kernels; print(find_kernels())"
    done = subprocess.run([sys.executable, "-c", code], env={"DREAMFUSION_KERNELS": "off"}, capture_output=True, text=True, check=True)
    assert "DREAMFUSION_KERNELS is off" in done.stdout


def test_exponentials_are_good_to_the_last_digits() -> None:
    """One sample a ray: its weight is 1 - exp(-x), over all sizes of x; what is not a number stays so."""
    x = torch.cat([torch.logspace(-30, 2, 4000), torch.tensor([0.0, 87.0, 88.7, 1e4, float("inf"), float("nan")])])
    n = len(x)
    packed_info = pack(torch.arange(n), n)
    weights, _ = ops.composite(x, torch.ones(n), torch.zeros(n, 5), packed_info)
    assert weights[-1].isnan()
    wanted = -torch.expm1(-x[:-1].double())
    assert float(((weights[:-1].double() - wanted).abs() / wanted.clamp(min=1e-37)).max()) < 3e-7


def test_activations_are_good_to_the_last_digits() -> None:
    """softplus and exp of one number, over all sizes, and the logarithm that the mist's blob takes."""
    at = torch.zeros(1, 3)

    def density(raw: float, activation: str, blob: float, mist: float) -> float:
        table = torch.zeros(8, 4)
        table[:, 0] = raw
        return ops.dense_field(table, 2, at, activation, 1.0, blob, 1.0, mist)[0].item()

    numbers = torch.cat([-torch.logspace(-8, 1.9, 60), torch.logspace(-8, 1.9, 60), torch.zeros(1)]).tolist()
    found = [[density(x, "softplus", 0.0, 0.0), density(0.0, "exp", abs(x), MIST)] for x in numbers]
    exact = torch.tensor(numbers, dtype=torch.float64)
    wanted = torch.stack([exact.exp().log1p(), exact.abs() + MIST], dim=1)
    # exp(log(x)) is good to the digits that log has before the point.
    assert float(((torch.tensor(found).double() - wanted) / wanted).abs().max()) < 1e-6
    assert all(math.isnan(density(math.nan, activation, 1.0, MIST)) for activation in ops.ACTIVATIONS)
