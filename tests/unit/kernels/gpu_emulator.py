"""Builds gpu_emulator.cpp: NVIDIA's driver for machines without one, on which the CUDA text of the kernels runs."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda_ext.cuda import CudaKernels
from cuda_ext.cuda_driver import Driver, Program
from cuda_ext.cuda_source import BODIES, REALS, source_of

# What stands for machine code: the emulator's kernels are its own.
IMAGE = b"\177ELF"
STREAM = 0x51


def find_host_compiler() -> list[str] | None:
    """A C++ compiler of this machine, or the one from pip that builds our CPU libraries."""
    if sys.platform == "win32":
        return None
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    return [sys.executable, "-m", "ziglang", "c++"] if importlib.util.find_spec("ziglang") else None


@functools.cache
def emulated_driver() -> Driver:
    """Built once for all tests of a run."""
    compiler = find_host_compiler()
    assert compiler is not None
    names = [name for suffix in REALS for name in source_of(suffix).kernels]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "entries.inc").write_text("".join(f'{{"{name}", entry({name})}},\n' for name in names))
        flags = ("-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", f"-I{BODIES}", f"-I{folder}")
        out, source = f"{folder}/emulator.so", str(Path(__file__).with_suffix(".cpp"))
        done = subprocess.run([*compiler, *flags, source, "-o", out], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return Driver(ctypes.CDLL(out))


def emulated_kernels(driver: Driver) -> CudaKernels:
    """The real launch code on an emulated driver; takes CPU tensors."""

    @functools.cache
    def load(suffix: str) -> Program:
        return driver.load(0, IMAGE, source_of(suffix).kernels)

    return CudaKernels(load, lambda: STREAM)
