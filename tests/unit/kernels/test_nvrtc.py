"""The compiler that torch brings, without a GPU: every kernel for every architecture, and how a program is found, kept and loaded."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cuda_ext import cuda, cuda_cache, cuda_compiler
from cuda_ext.cuda_cache import KEPT, cache_folder, compiled, key_of
from cuda_ext.cuda_compiler import Compiler, find_compiler, library_name
from cuda_ext.cuda_driver import Driver
from cuda_ext.cuda_shipped import VERSION, is_shipped, shipped
from cuda_ext.cuda_source import REALS, Source, source_of
from engine.rendering.march import intersect_box
from engine.scene.cameras import camera_rays, orbit_cameras
from tests.unit.kernels.gpu_emulator import emulated_driver, find_host_compiler

# CUDA's versions that torch is built for today.
MAJORS = (13, 12)
FOUND = [compiler for major in MAJORS if (compiler := find_compiler(major)[0])]
ARCHITECTURES = (75, 80, 86, 89, 90, 120)
needs_nvrtc = pytest.mark.skipif(not FOUND, reason=f"no NVRTC: {find_compiler(MAJORS[0])[1]}")


@pytest.fixture
def compiler() -> Compiler:
    return FOUND[0]


class Typist:
    """Stands for a compiler where only the keeping is looked at: its machine code is its input. Counts its calls."""

    version = (13, 0)

    def __init__(self) -> None:
        self.calls = 0

    def compile(self, source: Source, target: str) -> bytes:
        self.calls += 1
        return f"{target} {source.text}".encode()


def make(typist: Typist, folder: Path, text: str = "text", target: str = "sm_89") -> tuple[bytes, bool]:
    return compiled(typist, Source(text, (("a.h", "a"),), ("k",)), target, folder)  # type: ignore[arg-type]


# --- compiling -----------------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles(architecture: int, compiler: Compiler) -> None:
    source = source_of("f32")
    image = compiler.compile(source, compiler.target(architecture))
    assert image.startswith(b"\x7fELF")
    for name in source.kernels:
        assert b".text." + name.encode() + b"\0" in image


@needs_nvrtc
def test_double_precision_and_ptx_compile(compiler: Compiler) -> None:
    assert compiler.compile(source_of("f64"), "sm_80").startswith(b"\x7fELF")
    ptx = compiler.compile(source_of("f32"), "compute_75")
    assert b".target sm_75" in ptx and ptx.endswith(b"\0")


@needs_nvrtc
def test_no_fused_multiply_adds(compiler: Compiler) -> None:
    """march_count and march_write must see the same lattice: what one rounds twice the other may not round once. Without CUDA's own
    exponential and logarithm, which are made of such additions."""
    source, nothing = source_of("f32"), {"expm1f(x)": "x", "logf(x)": "x"}
    assert all(f"return {call};" in dict(source.headers)["macros.h"] for call in nothing)
    headers = tuple(
        (name, functools.reduce(lambda t, call: t.replace(call, nothing[call]), nothing, text)) for name, text in source.headers
    )
    ptx = compiler.compile(dataclasses.replace(source, headers=headers), "compute_80").decode()
    for name in ("march_count_f32", "march_write_f32"):
        (march,) = (entry for entry in ptx.split(".entry ")[1:] if entry.startswith(f"{name}("))
        assert "mul.f32" in march or "mul.rn.f32" in march
        assert "fma.rn.f32" not in march


@needs_nvrtc
def test_compile_error_has_the_compilers_words(compiler: Compiler) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)do not compile for sm_80: .*identifier \"wrong\" is undefined"):
        compiler.compile(Source("__global__ void k() { wrong(); }", (("a.h", ""),), ()), "sm_80")


@needs_nvrtc
def test_all_kernels_compile_in_three_seconds_and_load_from_disk_in_fifty_ms(compiler: Compiler, tmp_path: Path) -> None:
    source = source_of("f32")
    start = time.process_time()  # this process's own time: other programs may have the machine
    image, was_kept = compiled(compiler, source, "sm_89", tmp_path)
    assert not was_kept and time.process_time() - start < 3
    start = time.process_time()
    assert compiled(compiler, source_of("f32"), "sm_89", tmp_path) == (image, True)
    assert time.process_time() - start < 0.05


def test_torchs_own_compiler_is_tried_first_and_the_systems_last() -> None:
    found = list(cuda_compiler.places(13))
    assert Path(found[0]) == Path(torch.__file__).parent / "lib" / library_name(13)
    assert found[-1] == library_name(13)


def test_target_is_the_gpus_own_or_what_its_driver_can_finish() -> None:
    compiler = object.__new__(Compiler)
    compiler.version, compiler.architectures = (12, 6), (75, 80, 86, 89, 90)
    assert compiler.target(86) == "sm_86"
    assert compiler.target(120) == "compute_90"
    assert compiler.target(87) == "compute_86"
    with pytest.raises(RuntimeError, match=r"compute capability 6\.1, and CUDA 12\.6 compiles for 7\.5 and newer; a build of torch"):
        compiler.target(61)


def test_missing_compiler_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compiler, "places", lambda _major: iter(["libno-such-compiler.so", "/nowhere/libnvrtc.so.13"]))
    find_compiler.cache_clear()
    try:
        found = find_compiler(13)
    finally:
        find_compiler.cache_clear()
    assert found == (None, f"{library_name(13)} is neither in torch nor in NVIDIA's wheel; install nvidia-cuda-nvrtc")


def test_a_file_that_is_no_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setattr(cuda_compiler, "places", lambda _major: iter([str(tmp_path / "broken.so")]))
    find_compiler.cache_clear()
    try:
        compiler, reason = find_compiler(13)
    finally:
        find_compiler.cache_clear()
    assert compiler is None and "broken.so does not work" in reason


# --- keeping -------------------------------------------------------------------------------------------------------------------


def test_second_time_nothing_is_compiled(tmp_path: Path) -> None:
    typist = Typist()
    assert make(typist, tmp_path) == (b"sm_89 text", False)
    assert make(typist, tmp_path) == (b"sm_89 text", True)
    assert typist.calls == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".bin"]  # nothing unfinished lies about


def test_everything_that_decides_is_in_the_name() -> None:
    source = Source("text", (("a.h", "a"),), ("k",))
    others = [
        key_of(Source("text2", source.headers, source.kernels), "sm_89", (13, 0)),
        key_of(Source("text", (("a.h", "b"),), source.kernels), "sm_89", (13, 0)),
        key_of(source, "sm_90", (13, 0)),
        key_of(source, "sm_89", (12, 9)),
    ]
    assert len({key_of(source, "sm_89", (13, 0)), *others}) == 5


def test_flags_are_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of("f32")
    before = key_of(source, "sm_89", (13, 0))
    monkeypatch.setattr(cuda_cache, "FLAGS", ("--std=c++17",))
    assert key_of(source, "sm_89", (13, 0)) != before


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 100])
def test_damaged_file_is_compiled_again(damage: bytes, tmp_path: Path) -> None:
    typist = Typist()
    make(typist, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert make(typist, tmp_path) == (b"sm_89 text", False)
    assert make(typist, tmp_path) == (b"sm_89 text", True)


def test_folder_that_cannot_be_made_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    assert make(Typist(), tmp_path / "file" / "kernels") == (b"sm_89 text", False)
    assert "GPU kernels must be compiled at each start" in caplog.text and "file" in caplog.text


def test_full_disk_leaves_no_torn_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(_self: object, _path: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cuda_cache.os, "replace", full)
        assert make(Typist(), tmp_path) == (b"sm_89 text", False)
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_old_programs_go(tmp_path: Path) -> None:
    typist = Typist()
    for i in range(KEPT + 3):
        make(typist, tmp_path, text=str(i))
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))  # what comes next is newer, however coarse the clock
    assert len(list(tmp_path.iterdir())) == KEPT
    assert make(typist, tmp_path, text=str(KEPT + 2))[1]


def test_two_engines_at_once(tmp_path: Path) -> None:
    """Both write the same name many times over; what is read is always whole."""
    code = (
        "import sys; from pathlib import Path; from cuda_ext import cuda_cache as c\n"
        "path, image = Path(sys.argv[1]), bytes(range(256)) * 2000\n"
        "for _ in range(60):\n"
        "    c._write(path, image)\n"
        "    assert c._read(path) == image\n"
    )
    path = tmp_path / "kernels" / "a.bin"
    engines = [subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for engine in engines:
        assert engine.wait(timeout=120) == 0, engine.stderr.read() if engine.stderr else ""
    assert list(path.parent.iterdir()) == [path]


def test_cache_lies_with_the_users_other_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dreamfusion" / "kernels"


# --- the whole way, but for the GPU itself -------------------------------------------------------------------------------------


@pytest.fixture
def emulated_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """torch's view of an RTX 40 for CUDA 13, and a driver for it."""
    if find_host_compiler() is None:
        pytest.skip("no C++ compiler for the emulated GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", f"{FOUND[0].version[0] if FOUND else 13}.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: type("Stream", (), {"cuda_stream": 9}))
    monkeypatch.setattr(cuda, "open_driver", emulated_driver)
    return emulated_driver()


@needs_nvrtc
def test_from_bodies_to_a_launch(compiler: Compiler, emulated_gpu: Driver) -> None:
    """The real compiler and the real launch code; only the driver and torch's view of a GPU are emulated."""
    rays_o, rays_d = camera_rays(orbit_cameras(*(torch.tensor([value]) for value in (0.0, 0.0, 3.0, 40.0))), 16, 16)
    for how in ("compiled now", "from the cache"):
        kernels, reason = cuda._make(0)
        assert reason == f"NVRTC {compiler.version[0]}.{compiler.version[1]} for sm_89, {how}"
        counts, bounds = torch.full((256,), -1), torch.tensor([[-1.0] * 3, [1.0] * 3])
        bits, firsts, hits = torch.full((1, 64), 255, dtype=torch.uint8), torch.zeros(256), torch.zeros(256, 4, dtype=torch.int16)
        grid, lattice = (bits, 1, 8), (0.1, 0.0, 0.1, 0.0)
        arguments = (rays_o, rays_d, torch.full((256,), 0.5), bounds, *grid, *lattice, counts, firsts, hits, 4)
        kernels.run("march_count", torch.float32, kernels.parts(256, 1), lambda _part, arguments=arguments: arguments)
        t_near, t_far = intersect_box(rays_o, rays_d, bounds)
        assert ((t_far - t_near) / 0.1 - counts).abs().max() <= 1
        assert emulated_gpu.library.stream_of_last_launch() == 9
    assert len(list(cache_folder().iterdir())) == 1  # double precision was not asked for


# --- without the compiler ------------------------------------------------------------------------------------------------------


def test_ptx_that_travels_is_made_of_these_bodies() -> None:
    assert is_shipped(), "run python -m cuda_ext.cuda_shipped and commit cuda_ext/lib/nvidia"
    for suffix in REALS:
        ptx = shipped(suffix)
        assert b".target sm_75" in ptx and f"release {VERSION[0]}.{VERSION[1]}".encode() in ptx and ptx.endswith(b"\0")
        for name in source_of(suffix).kernels:
            assert f".entry {name}(".encode() in ptx


def test_without_a_compiler_the_ptx_is_loaded_and_said(emulated_gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_compiler", lambda _major: (None, "there is no compiler"))
    kernels, reason = cuda._make(0)
    assert reason == "PTX that came with the program, since there is no compiler"
    ones, sums, kept = torch.ones(3), torch.zeros(1, 1), torch.zeros(1, dtype=torch.int32)
    arguments = (ones, ones, ones, 1, torch.tensor([[0, 3]]), 1, 3, 0.0, torch.zeros(3), sums, kept)
    kernels.run("composite_forward", torch.float32, kernels.parts(1, 1), lambda _part: arguments)
    assert sums.item() == pytest.approx(1 - 2.718281828**-3)


def test_without_compiler_and_ptx_the_reason_is_the_compilers(emulated_gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "find_compiler", lambda _major: (None, "there is no compiler"))
    monkeypatch.setattr(cuda, "is_shipped", lambda: False)
    with pytest.raises(RuntimeError, match="there is no compiler"):
        cuda._make(0)
