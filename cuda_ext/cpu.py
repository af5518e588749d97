"""The compiled kernels on a CPU: which library fits this machine, and how a launch is spread over torch's threads.

ctypes lets go of Python's lock during a call, so plain Python threads run the parts side by side. No OpenMP: its threads would
spin beside torch's own, which on a small machine makes both several times slower.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

LIBRARIES = Path(__file__).parent / "lib"
SWITCH = "DREAMFUSION_KERNELS"
"""Set this environment variable to "off" to run the plain torch twins."""

# From here on the C library asks the system for fresh memory each time; smaller pieces it keeps.
LARGE_BYTES = 32 << 20

Argument = Tensor | int | float


class CpuKernels:
    """An open library. Kernels are named without the suffix of their number type."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError if this machine cannot load the file."""
        self.path = path
        self._library = ctypes.CDLL(str(path))

    def parts(self, n: int, grain: int, most: int = 64) -> list[tuple[int, int]]:
        """[0, n) in as many parts as torch has threads, at most `most`, none below `grain` unless it is the only one."""
        count = max(1, min(torch.get_num_threads(), most, n // grain))
        edges = [n * k // count for k in range(count + 1)]
        return list(zip(edges, edges[1:]))

    def run(
        self, name: str, dtype: torch.dtype, parts: Sequence[tuple[int, int]], arguments: Callable[[int], tuple[Argument, ...]]
    ) -> None:
        """One call of the kernel for each part, side by side.

        Args:
            arguments: what part k is called with; contiguous tensors that live until this returns.
        """
        real = ctypes.c_float if dtype == torch.float32 else ctypes.c_double
        function = getattr(self._library, f"{name}_{'f32' if dtype == torch.float32 else 'f64'}")

        def call(k: int) -> None:
            values = (_as_c(value, real) for value in arguments(k))
            function(*values, ctypes.c_longlong(parts[k][0]), ctypes.c_longlong(parts[k][1]))

        # The first part runs here: one thread less to wake, and this one's core is warm.
        others = [_pool(len(parts) - 1).submit(call, k) for k in range(1, len(parts))]
        call(0)
        for other in others:
            other.result()


def _as_c(value: Argument, real: type[ctypes.c_float] | type[ctypes.c_double]) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return real(value) if isinstance(value, float) else ctypes.c_longlong(value)


@functools.cache
def _pool(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="kernel")


def new_zeros(like: Tensor, *shape: int) -> Tensor:
    """`like.new_zeros(*shape)`, on Linux in pages of 2 MB where it is large: a page fault for each 4 kB would take longer than zeroing."""
    out = like.new_empty(shape)
    size, page, huge_pages = out.numel() * out.element_size(), 1 << 21, 14  # MADV_HUGEPAGE
    if out.device.type == "cpu" and sys.platform == "linux" and size >= LARGE_BYTES:
        first = -(-out.data_ptr() // page) * page
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(out.data_ptr() + size - first), huge_pages)
    return out.zero_()


def platform_name() -> str:
    """This machine as build.py names it: "linux-x64", "macos-arm64", …"""
    systems = {"win32": "windows", "darwin": "macos"}
    machines = {"amd64": "x64", "x86_64": "x64", "arm64": "arm64", "aarch64": "arm64"}
    machine = platform.machine().lower()
    return f"{systems.get(sys.platform, sys.platform)}-{machines.get(machine, machine)}"


@functools.cache
def find_kernels() -> tuple[CpuKernels | None, str]:
    """The library for this machine, or None, and one line that says why."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return None, f"{SWITCH} is off"
    if not torch.backends.cpu.get_cpu_capability().startswith(("AVX", "DEFAULT", "SVE")):
        return None, f"no library for processors of kind {torch.backends.cpu.get_cpu_capability()}"
    name = platform_name()
    if name.endswith("x64") and not (
        torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.cpu.get_capabilities().get("f16c")
    ):
        return None, "the libraries need a processor with AVX2 and F16C"
    found = sorted((LIBRARIES / name).glob("*kernels.*")) if (LIBRARIES / name).is_dir() else []
    if not found:
        return None, f"no library for {name}"
    try:
        return CpuKernels(found[0]), f"library for {name}"
    except OSError as error:
        return None, f"the library for {name} does not load ({error})"
