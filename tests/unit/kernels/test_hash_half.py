"""The hash grid read in half precision: the same function as the float32 kernels on the rounded table, and never on an old one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuda_ext import cpu, ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_hash import Levels, _as_read, hash_encode, hash_pull_back
from engine.fields.field import RadianceField, make_field
from engine.fields.field_config import FieldConfig
from engine.fields.hash_grid import HashGrid
from engine.training.adan import Adan
from engine.training.ema import Ema
from tests.unit.kernels.test_hash_grid import SMALL, seeded
from tests.unit.kernels.test_operators import ALL_CHECKS

needs_kernels = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")
FIELD = FieldConfig(
    encoding="hash", n_levels=3, finest_resolution=24, features=2, hidden_width=8, log2_table_size=10, table_precision="float16"
)


def random_table(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sum(SMALL.sizes), width, generator=seeded(1), dtype=torch.float64).to(dtype)


def places(dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(50, 3, generator=seeded(2), dtype=torch.float64) * 1.2 - 0.1).to(dtype).requires_grad_()


def all_orders(table: Tensor, positions: Tensor, levels: Levels, mirror: Tensor | None) -> list[Tensor]:
    """Features, what normals are made of, and the gradients of both in table and positions."""
    features = hash_encode(table, positions, levels, mirror)
    g = torch.randn(features.shape, generator=seeded(3), dtype=torch.float64).to(features)
    gradient = hash_pull_back(table, positions, g * features, levels, mirror)
    return [features, gradient, *torch.autograd.grad(features.sin().sum() + gradient.sin().sum(), (table, positions))]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_mirror_is_read_as_the_numbers_that_it_holds(width: int, smooth: bool, dtype: torch.dtype) -> None:
    """To rounding, in every derivative; and of the table beside it nothing is read."""
    levels, mirror = SMALL._replace(smooth=smooth), random_table(width).half()
    rounded = mirror.to(dtype).requires_grad_()
    wanted = all_orders(rounded, places(dtype), levels, None)
    for table in (rounded, torch.full_like(rounded, torch.nan).requires_grad_()):
        for found_part, wanted_part in zip(all_orders(table, places(dtype), levels, mirror), wanted):
            exact = 1e-6 if dtype == torch.float32 else 1e-14
            torch.testing.assert_close(found_part, wanted_part, rtol=exact, atol=exact * float(wanted_part.detach().abs().max()))


@needs_kernels
def test_both_orders_of_gradients_in_double() -> None:
    """In the positions; the table's gradient is that in the rounded table, which the test above compares."""
    levels, mirror = SMALL._replace(smooth=True), random_table(2).half()
    table = torch.zeros(mirror.shape, dtype=torch.float64)
    positions = (torch.rand(4, 3, generator=seeded(9), dtype=torch.float64) * 0.98 + 0.01).requires_grad_()
    encode = lambda x: hash_encode(table, x, levels, mirror)  # noqa: E731
    assert torch.autograd.gradcheck(encode, (positions,))
    assert torch.autograd.gradgradcheck(encode, (positions,))


@needs_kernels
def test_every_half_becomes_its_own_number() -> None:
    """Subnormal ones, zeros of both signs and the largest; infinity is left to the collapse check."""
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    n = 41  # 40 cells, so that all fit in
    mirror = torch.zeros(n**3, 1, dtype=torch.float16)
    mirror[: len(halves), 0] = halves.where(halves.isfinite(), 0)
    axis = torch.arange(n, dtype=torch.float64) / (n - 1)
    positions = torch.cartesian_prod(axis, axis, axis)
    read = hash_encode(mirror.double(), positions, Levels((n - 1,), (n**3,), (1.0,), False), mirror)
    # A point lies within rounding of its cell's corner: 2^-40 of a neighbour's size.
    torch.testing.assert_close(read, mirror.double(), rtol=0, atol=65504 * 2.0**-40)
    direct = [halves.float(), mirror[: len(halves), 0].float()]
    assert direct[1].abs().max() == 65504 and direct[0].isinf().sum() == 2


@needs_kernels
@pytest.mark.parametrize("width", [2, 4])
def test_a_mirror_at_an_odd_address_is_read_too(width: int) -> None:
    mirror = random_table(width).half()
    odd = torch.cat([mirror.new_zeros(1), mirror.flatten()])[1:].view(mirror.shape)
    assert odd.is_contiguous() and odd.data_ptr() % 4
    table, x = mirror.float(), places().detach()
    assert torch.equal(hash_encode(table, x, SMALL, odd), hash_encode(table, x, SMALL))
    read = _as_read(odd)  # a GPU reads a row at once where its size divides the address, and nowhere else
    assert isinstance(read, Tensor) and read.data_ptr() % 8 == 0 and torch.equal(read, mirror)
    turned = _as_read(mirror.t().contiguous().t())
    assert isinstance(turned, Tensor) and turned.is_contiguous() and torch.equal(turned, mirror)


@pytest.mark.parametrize(
    "mirror", [torch.zeros(123, 2), torch.zeros(122, 2).half(), torch.zeros(123, 2, device="meta").half(), torch.zeros(123, 2).bfloat16()]
)
def test_another_mirror_is_refused(mirror: Tensor) -> None:
    with pytest.raises(ValueError, match=r"mirror must be \[123, 2\] torch.float16 on cpu, got "):
        hash_encode(torch.zeros(123, 2), torch.zeros(1, 3), SMALL, mirror)
    with pytest.raises(ValueError, match=r"mirror must be \[123, 2\] torch.float16 on cpu, got "):
        hash_pull_back(torch.zeros(123, 2), torch.zeros(1, 3), torch.zeros(1, 8), SMALL, mirror)


def operator_arguments() -> dict[str, tuple[object, ...]]:
    table, x = random_table(2).requires_grad_(), places()
    g = torch.randn(50, 8, generator=seeded(4)).requires_grad_()
    mirror = table.detach().half()
    return {
        "hash_encode": (table, x, None, *map(list, SMALL[:3]), False, mirror),
        "hash_position_grad": (table, x, None, g, *map(list, SMALL[:3]), False, mirror),
    }


@needs_kernels
@pytest.mark.parametrize("name", ["hash_encode", "hash_position_grad"])
def test_operators_pass_opcheck_and_compile_with_a_mirror(name: str) -> None:
    operator, results = getattr(torch.ops.dreamfusion, name).default, []
    torch.library.opcheck(operator, operator_arguments()[name], test_utils=ALL_CHECKS)
    for compiled in (False, True):
        torch._dynamo.reset()
        arguments = operator_arguments()[name]
        call = torch.compile(lambda *a: operator(*a), fullgraph=True, backend="aot_eager") if compiled else operator
        found = call(*arguments)
        leaves = [tensor for tensor in arguments if isinstance(tensor, Tensor) and tensor.requires_grad]
        results.append([found, *torch.autograd.grad(found.square().sum(), leaves)])
    for found_part, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found_part, wanted)


@needs_kernels
def test_a_grid_compiles_as_a_whole_and_follows_its_table() -> None:
    torch._dynamo.reset()
    grid, x = HashGrid((4, 9), 2, 10, seeded(5), is_half=True), places().detach()
    call = torch.compile(lambda x: grid(x), fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(call(x), grid(x))
        with torch.no_grad():
            grid.table.add_(1.0)
    assert float(call(x).mean().detach()) > 1.9


# --- a field ---------------------------------------------------------------------------------------------------------------------


def strong_field(config: FieldConfig = FIELD) -> RadianceField:
    field = make_field(config, seeded(6))
    assert isinstance(field.encoding, HashGrid)
    with torch.no_grad():
        field.encoding.table.mul_(3000)
    return field


@needs_kernels
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_a_field_and_its_normals_are_the_twins(interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FieldConfig(
        encoding="hash",
        n_levels=3,
        finest_resolution=24,
        features=2,
        hidden_width=8,
        log2_table_size=10,
        interpolation=interpolation,  # type: ignore[arg-type]
        table_precision="float16",
    )
    positions = torch.rand(300, 3, generator=seeded(5)) * 1.8 - 0.9
    results = []
    for kernel in (True, False):
        field = strong_field(config)
        if not kernel:
            monkeypatch.setattr(ops, "serves", lambda _tensor: False)
        found = field.evaluate(positions, with_normals=True)
        assert found.normals is not None
        loss = (found.normals * torch.randn(found.normals.shape, generator=seeded(7))).sum() + found.albedo.sum()
        loss.backward()
        results.append((found.densities.detach(), found.normals.detach(), field.encoding.table.grad))  # type: ignore[union-attr]
    for found_part, wanted in zip(*results):
        torch.testing.assert_close(found_part, wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernels), False])
def test_what_is_read_is_rounded_and_what_is_trained_is_not(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps far below half precision's spacing add up in the table and show in the end."""
    if not kernel:
        monkeypatch.setattr(ops, "serves", lambda _tensor: False)
    grid, x = HashGrid((4,), 2, 10, seeded(5), is_half=True), places().detach()
    with torch.no_grad():
        grid.table.fill_(1.0)
    optimizer = torch.optim.SGD(grid.parameters(), lr=1.0)
    first, seen = grid(x).detach(), []
    for _ in range(40):
        optimizer.zero_grad()
        grid(x).sum().backward()
        assert grid.table.grad is not None and grid.table.grad.dtype == torch.float32
        grid.table.grad.sign_().mul_(1e-4)  # half precision's next number below 1 is 5e-4 away
        optimizer.step()
        seen.append(grid(x).detach())
    assert torch.equal(seen[0], first) and torch.equal(seen[1], first)
    torch.testing.assert_close(seen[-1].max(), torch.tensor(1 - 40e-4), rtol=0, atol=5e-4)


CHANGES: dict[str, Callable[[RadianceField], object]] = {
    "a step of SGD": lambda field: torch.optim.SGD(field.parameters(), lr=0.5).step(),
    "a step of fused Adam": lambda field: torch.optim.Adam(field.parameters(), lr=0.5, fused=True).step(),
    "a step of Adan": lambda field: Adan(field.parameter_groups(0.5), 0.5).step(),
    "another state": lambda field: field.load_state_dict(strong_field(FIELD).state_dict() | {"encoding.table": field.encoding.table * 2}),  # type: ignore[operator, union-attr]
    "an average": lambda field: torch._foreach_lerp_([field.encoding.table], [torch.ones_like(field.encoding.table)], 0.5),  # type: ignore[union-attr, list-item, arg-type]
    "data that are written past autograd": lambda field: field.encoding.table.data.add_(1.0),  # type: ignore[union-attr, operator]
    "data that are replaced": lambda field: setattr(field.encoding.table, "data", field.encoding.table.data * 2),  # type: ignore[union-attr, operator]
    "another type and back": lambda field: field.double().float(),
}


@needs_kernels
@pytest.mark.parametrize("name", CHANGES)
def test_no_change_of_the_table_leaves_an_old_mirror(name: str) -> None:
    field, x = strong_field(), torch.rand(200, 3, generator=seeded(5)) * 1.8 - 0.9
    field(x)[0].sum().backward()
    before = field.encoding.table.detach().clone()  # type: ignore[union-attr, operator]
    with torch.no_grad():
        CHANGES[name](field)
    fresh = make_field(FIELD, seeded(1))
    fresh.load_state_dict(field.state_dict())
    assert name == "another type and back" or not torch.equal(field.encoding.table, before)  # type: ignore[union-attr, arg-type]
    for found, wanted in zip(field.evaluate(x, with_normals=True), fresh.evaluate(x, with_normals=True)):
        assert found is not None and wanted is not None and torch.equal(found, wanted)


@needs_kernels
def test_an_averaged_field_reads_its_own_table() -> None:
    field, x = strong_field(), torch.rand(200, 3, generator=seeded(5)) * 1.8 - 0.9
    ema = Ema(field, 0.9)
    with torch.no_grad():
        field.encoding.table.mul_(-1)  # type: ignore[union-attr, operator]
    field(x)
    ema.update(field, 100)
    fresh = make_field(FIELD, seeded(1))
    fresh.load_state_dict(ema.module.state_dict())
    assert torch.equal(ema.module(x)[0], fresh(x)[0]) and not torch.equal(ema.module(x)[0], field(x)[0])
    assert set(field.state_dict()) == set(make_field(FieldConfig(encoding="hash", hidden_width=8), seeded(1)).state_dict())


@needs_kernels
def test_a_frozen_field_makes_one_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all looks of a step, with gradients and without; another after it."""
    made: list[Tensor | None] = []
    once = HashGrid.mirror

    def mirror(grid: HashGrid) -> Tensor | None:
        made.append(once(grid))
        return made[-1]

    monkeypatch.setattr(HashGrid, "mirror", mirror)
    field, x = strong_field(), torch.rand(20, 3, generator=seeded(5))
    for n in (1, 2):
        with field.frozen():
            field.evaluate(x, with_normals=True)
            with torch.no_grad():
                field.density(x)
                field.normals(x, create_graph=False)
        assert len(made) == n
    field(x)
    copied = copy.deepcopy(field)
    copied(x)
    assert len(made) == 4 and all(part is not None and part.dtype == torch.float16 for part in made)
    assert HashGrid((4,), 2, 10, seeded(5)).mirror() is None


def fit_ball(config: FieldConfig) -> float:
    """Mean square error of opacity and color after 150 steps towards a colored ball, from the first random table on."""
    generator = seeded(8)
    field = make_field(config, generator)
    optimizer = torch.optim.Adam(field.parameter_groups(0.01), betas=(0.9, 0.99), eps=1e-15)
    loss = torch.zeros(())
    for _ in range(150):
        x = torch.rand(4096, 3, generator=generator) * 2 - 1
        wanted = torch.sigmoid((0.5 - x.norm(dim=-1)) * 20)
        densities, albedo = field(x)
        opacity = 1 - torch.exp(-0.1 * densities)
        loss = (opacity - wanted).square().mean() + ((albedo - (x * 0.5 + 0.5)).square() * wanted[:, None]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_a_ball_is_fitted_as_well_as_in_float32() -> None:
    """With three seeds half precision's errors were 0.997 to 0.998 times float32's, which were 3.2e-4 to 3.8e-4."""
    half, whole = fit_ball(FIELD), fit_ball(dataclasses.replace(FIELD, table_precision="float32"))
    assert 0 < half < 1.1 * whole < 1e-3 and half != whole


def test_a_processor_without_the_instruction_runs_the_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "platform_name", lambda: "linux-x64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for capabilities in ({"f16c": False}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert cpu.find_kernels.__wrapped__() == (None, "the libraries need a processor with AVX2 and F16C")
