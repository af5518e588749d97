"""The CUDA text of every kernel, launched by the code that launches it on a GPU, on a GPU made of CPU threads: is each body right when
thousands of threads run it in any order and add to the same places? And does each operator reach CUDA at all?
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuda_ext import cuda, ops, ops_march
from cuda_ext.cuda import BLOCK_THREADS, CudaKernels
from cuda_ext.cuda_driver import Driver
from cuda_ext.cuda_source import source_of
from engine.rendering.march import _march_twin, march, pack
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import camera_rays, orbit_cameras
from tests.unit.kernels.cases import CASES, generator_of
from tests.unit.kernels.gpu_emulator import IMAGE, STREAM, emulated_driver, emulated_kernels, find_host_compiler

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    find_host_compiler() is None, reason="no C++ compiler for the emulated GPU: install g++, or pip install ziglang"
)


@pytest.fixture
def driver() -> Driver:
    return emulated_driver()


@pytest.fixture
def emulated(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> CudaKernels:
    """From here on the operators launch on the emulated GPU."""
    kernels = emulated_kernels(driver)
    monkeypatch.setattr(ops, "find_backend", lambda _device: (kernels, "emulated"))
    return kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_operator_is_its_twin(name: str, dtype: torch.dtype, emulated: CudaKernels, driver: Driver) -> None:
    found, wanted = (CASES[name](CPU, dtype, kernel=kernel) for kernel in (True, False))
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
    for found_part, wanted_part in zip(found, wanted, strict=True):
        torch.testing.assert_close(found_part, wanted_part, **tolerance)
    assert driver.library.stream_of_last_launch() == STREAM
    assert driver.library.contexts_pushed() == 0


# An optimizer's step is meant to do more when it runs twice; each of its indices has numbers of its own.
@pytest.mark.parametrize("name", [name for name in CASES if name != "adan_step"])
def test_threads_share_memory_only_through_atomic_adds(name: str, emulated: CudaKernels, driver: Driver) -> None:
    """Without atomic adds a launch that runs twice must leave what one run leaves: a plain += to shared memory would leave twice as much.
    (Two threads that lose each other's sum meet too seldom on a CPU to wait for it.)"""
    results = []
    try:
        for times in (1, 2):
            driver.library.set_mode(0, times)
            results.append(CASES[name](CPU, torch.float32, kernel=True))
    finally:
        driver.library.set_mode(1, 1)
    for once, twice in zip(*results, strict=True):
        torch.testing.assert_close(twice, once, rtol=0, atol=0)


def picture_rays() -> tuple[Tensor, Tensor]:
    cameras = orbit_cameras(*(torch.tensor(value) for value in ([20.0, 170.0], [10.0, -60.0], [2.9, 3.0], [40.0, 45.0])))
    return camera_rays(cameras, 24, 24)


def test_march_is_its_twin_and_in_ray_order(emulated: CudaKernels) -> None:
    occupancy = OccupancyGrid(24)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, generator_of(1))
    rays_o, rays_d = picture_rays()
    found = march(rays_o, rays_d, occupancy, 0.07)
    wanted = _march_twin(rays_o, rays_d, torch.full((rays_o.shape[0],), 0.5), occupancy, ops_march.lattice_of(0.07, 0.0, 24))
    # A place on a cell's face may round to either side; no more than that may differ.
    keys = [set(zip(s.ray_indices.tolist(), (s.t_starts / 0.07).round(decimals=2).tolist())) for s in (found, wanted)]
    assert len(keys[1]) > 1000 and len(keys[0] ^ keys[1]) <= 3
    assert torch.equal(found.packed_info, pack(found.ray_indices, rays_o.shape[0]))


@pytest.mark.parametrize("cascades", [1, 3])
@pytest.mark.parametrize("angle", [0.0, 0.05])
def test_march_in_cascades_with_growing_steps_is_its_twin(cascades: int, angle: float, emulated: CudaKernels) -> None:
    """In double precision, where no place lies on a cell's face by rounding: no sample may differ."""
    occupancy = OccupancyGrid(24, cascades)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, generator_of(1))
    rays_o, rays_d = (rays.double() for rays in picture_rays())
    shifts = torch.rand(len(rays_o), generator=generator_of(2))
    found = march(rays_o, rays_d, occupancy, 0.04, cone_angle=angle, generator=generator_of(2))
    wanted = _march_twin(rays_o, rays_d, shifts.double(), occupancy, ops_march.lattice_of(0.04, angle, 24))
    assert len(found.t_starts) > 1000 and torch.equal(found.ray_indices, wanted.ray_indices)
    assert torch.equal(found.packed_info, wanted.packed_info)
    torch.testing.assert_close(found.t_starts, wanted.t_starts, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.t_ends, wanted.t_ends, rtol=0, atol=1e-12)


def test_march_of_fixed_size_is_the_other_ones(emulated: CudaKernels) -> None:
    occupancy = OccupancyGrid(24)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, generator_of(1))
    rays = picture_rays()
    exact = march(*rays, occupancy, 0.07)
    n = len(exact.t_starts)
    roomy, tight = (march(*rays, occupancy, 0.07, max_samples=number) for number in (n + 500, n // 3))
    assert torch.equal(roomy.packed_info, exact.packed_info) and torch.equal(roomy.ray_indices[:n], exact.ray_indices)
    torch.testing.assert_close(roomy.t_starts[:n], exact.t_starts)
    assert torch.equal(tight.packed_info[:, 1], exact.packed_info[:, 1] * (n // 3) // n) and len(tight.t_starts) == n // 3


def test_nothing_to_do_launches_nothing(emulated: CudaKernels) -> None:
    occupancy, rays = OccupancyGrid(8), torch.zeros(0, 3)
    assert march(rays, rays, occupancy, 0.1).packed_info.shape == (0, 2)
    weights, sums = ops.composite(torch.zeros(0), torch.zeros(0), torch.zeros(0, 3), torch.zeros(0, 2, dtype=torch.int64))
    assert weights.shape == (0,) and sums.shape == (0, 3)


@pytest.mark.parametrize("n", [1, BLOCK_THREADS, BLOCK_THREADS + 1])
def test_every_ray_is_taken_once_at_the_edges_of_blocks(n: int, emulated: CudaKernels) -> None:
    packed_info = torch.stack([torch.arange(n), torch.ones(n, dtype=torch.int64)], dim=-1)
    weights, sums = ops.composite(torch.full((n,), 2.0), torch.full((n,), 0.5), torch.arange(float(n))[:, None], packed_info)
    torch.testing.assert_close(weights, torch.full((n,), 0.6321206))
    torch.testing.assert_close(sums[:, 0], 0.6321206 * torch.arange(float(n)))


def test_launch_from_a_thread_that_never_saw_the_gpu(emulated: CudaKernels, driver: Driver) -> None:
    """Autograd's threads: each launch brings its context along and takes it away again."""
    found: list[object] = []

    def launch() -> None:
        found.append(CASES["composite"](CPU, torch.float32, kernel=True)[0].sum().item())
        found.append(driver.library.contexts_pushed())

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert found == [CASES["composite"](CPU, torch.float32, kernel=True)[0].sum().item(), 0]


def test_driver_errors_are_its_own_words(driver: Driver) -> None:
    with pytest.raises(RuntimeError, match=r"the NVIDIA driver says: device kernel image is invalid \(200\)"):
        driver.load(0, b"not an image", ())
    with pytest.raises(RuntimeError, match="named symbol not found"):
        driver.load(0, IMAGE, ["no_such_kernel"])
    with pytest.raises(RuntimeError, match="invalid argument"):
        driver.load(1, IMAGE, ())
    with pytest.raises(RuntimeError, match="invalid argument"):
        driver.load(0, IMAGE, ["march_count_f32"]).launch("march_count_f32", 0, 1, 0, ())
    assert driver.library.contexts_pushed() == 0


def test_every_operator_is_there_for_cuda() -> None:
    """An operator that only CPUs have would stop a run on a GPU, since `serves` promises all of them."""
    names = {str(schema.name) for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("dreamfusion::")}
    assert {"dreamfusion::composite", "dreamfusion::march"} <= names
    missing = [name for name in sorted(names) if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")]
    assert not missing, "register them by _implement(name, function), see docs/kernels.md"


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_operators_compile_without_a_graph_break(backend: str, emulated: CudaKernels) -> None:
    packed_info = torch.tensor([[0, 3], [3, 0], [3, 5]])
    deltas = torch.full((8,), 0.1)
    occupancy, (rays_o, rays_d) = OccupancyGrid(8), picture_rays()

    def render(densities: Tensor, values: Tensor) -> Tensor:
        if not ops.serves(densities):
            return densities
        weights, sums = ops.composite(densities * 2, deltas, values, packed_info)
        shifts = torch.full((rays_o.shape[0],), 0.5)
        _, t_starts, _, _ = ops_march.march(rays_o, rays_d, shifts, occupancy.bounds, occupancy.bits, 8, 0.1)
        return weights.sum() + sums.sin().sum() + t_starts.mean()

    torch._dynamo.reset()
    render_compiled: Callable[..., Tensor] = torch.compile(render, fullgraph=True, backend=backend)
    results = []
    for function in (render, render_compiled):
        densities, values = torch.arange(8.0).requires_grad_(), torch.randn(8, 3, generator=generator_of(6)).requires_grad_()
        out = function(densities, values)
        results.append((out.detach(), *torch.autograd.grad(out, (densities, values))))
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted)


def test_operators_pass_opcheck(emulated: CudaKernels) -> None:
    generator = generator_of(7)
    densities, values = torch.rand(8, generator=generator).requires_grad_(), torch.rand(8, 3, generator=generator).requires_grad_()
    arguments = (densities, torch.full((8,), 0.1), values, torch.tensor([[0, 3], [3, 5]]))
    torch.library.opcheck(torch.ops.dreamfusion.composite.default, arguments)
    table, positions = torch.randn(27, 7, generator=generator).requires_grad_(), torch.rand(9, 3, generator=generator)
    torch.library.opcheck(torch.ops.dreamfusion.dense_field.default, (table, 3, positions, 0, 2.0, 4.0, 0.5, 1e-5))


def test_doctor_names_every_kernel_on_every_device(emulated: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import doctor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    answers = {"cpu": (emulated, "library for here"), "cuda:0": (emulated, "NVRTC 13.0"), "cuda:1": (None, "the GPU is too old")}
    monkeypatch.setattr(ops, "find_backend", lambda device: answers[str(device)])
    cpu, first, second = doctor._kernels()
    assert [finding.name for finding in (cpu, first, second)] == ["kernels on CPU", "kernels on GPU 0", "kernels on GPU 1"]
    assert cpu.text.endswith(": compiled, library for here") and first.text.endswith(": compiled, NVRTC 13.0")
    assert second.state == "warning" and second.text.endswith(": plain torch, the GPU is too old") and second.fix
    assert all(name in cpu.text for name in ("composite_backward", "march_write", "dense_field_forward"))


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"on one device, got \['cpu', 'meta'\]"):
        ops._flat(torch.zeros(1), torch.zeros(1, device="meta"))


def test_a_torch_without_nvidia_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    cuda.find_cuda_kernels.cache_clear()
    kernels, reason = cuda.find_cuda_kernels(0)
    assert kernels is None and reason == "this build of torch is not for NVIDIA GPUs"
    assert "GPU 0 renders with plain torch, somewhat slower" in caplog.text
    cuda.find_cuda_kernels(0)
    assert len(caplog.records) == 1  # said once
    cuda.find_cuda_kernels.cache_clear()


def test_source_names_every_kernel_of_the_bodies() -> None:
    names = source_of("f64").kernels
    assert {"composite_forward_f64", "march_write_f64", "dense_field_backward_f64"} <= set(names) and len(set(names)) == len(names)
