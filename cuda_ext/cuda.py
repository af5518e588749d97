"""The kernels on an NVIDIA GPU: compiled when first needed, kept on the disk, launched on torch's current stream."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cuda_ext.cpu import SWITCH, Argument
from cuda_ext.cuda_cache import cache_folder, compiled
from cuda_ext.cuda_compiler import find_compiler
from cuda_ext.cuda_driver import Number, Program, open_driver
from cuda_ext.cuda_shipped import is_shipped, shipped
from cuda_ext.cuda_source import source_of

logger = logging.getLogger(__name__)

# Four warps: a picture of 64 x 64 rays still makes 32 blocks. Not tuned on hardware.
BLOCK_THREADS = 128


class CudaKernels:
    """The kernels of one GPU, with the two methods of CpuKernels, so that an operator is written once for both.

    Args:
        load: the program for numbers of "f32" or "f64", asked at each launch. stream: handle of the stream to launch on, likewise.
    """

    def __init__(self, load: Callable[[str], Program], stream: Callable[[], int]) -> None:
        self._load, self._stream = load, stream

    def parts(self, n: int, grain: int, most: int = 64) -> list[tuple[int, int]]:
        """[0, n) in one part: the GPU divides it itself. So a gradient that gives each part its own table gets one, added to atomically."""
        return [(0, n)]

    def run(
        self, name: str, dtype: torch.dtype, parts: Sequence[tuple[int, int]], arguments: Callable[[int], tuple[Argument, ...]]
    ) -> None:
        """Queue the kernel for each part; never waits and never allocates, so it may be recorded into a CUDA graph.

        Args:
            arguments: what part k is called with; contiguous tensors of this GPU that live until this returns. Torch gives their
                memory to nobody else before the kernel is done, since that would be queued on the same stream behind it.
        """
        real, suffix = (ctypes.c_float, "f32") if dtype == torch.float32 else (ctypes.c_double, "f64")
        program = self._load(suffix)
        for k, (begin, end) in enumerate(parts):
            if begin == end:
                continue  # the driver takes no launch of nothing
            values = (*(_as_c(value, real) for value in arguments(k)), ctypes.c_longlong(begin), ctypes.c_longlong(end))
            blocks = -(-(end - begin) // BLOCK_THREADS)
            program.launch(f"{name}_{suffix}", blocks, BLOCK_THREADS, self._stream(), values)


def _as_c(value: Argument, real: type[ctypes.c_float] | type[ctypes.c_double]) -> Number:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return real(value) if isinstance(value, float) else ctypes.c_longlong(value)


@functools.cache
def find_cuda_kernels(device: int) -> tuple[CudaKernels | None, str]:
    """The kernels for GPU number `device`, and how they came about; or None, and one line that says why.

    The first call on a machine compiles (about half a second of one core), the first of a process loads.
    """
    try:
        return _make(device)
    except (OSError, RuntimeError) as error:
        logger.warning("GPU %d renders with plain torch, somewhat slower: %s", device, error)
        return None, str(error)


def _make(device: int) -> tuple[CudaKernels, str]:
    """Raises: OSError or RuntimeError, in one line, where there are none."""
    if os.environ.get(SWITCH, "").lower() == "off":
        raise RuntimeError(f"{SWITCH} is off")
    if torch.version.cuda is None:
        raise RuntimeError("this build of torch is not for NVIDIA GPUs")
    torch.cuda.init()  # torch makes the context first; programs join it
    major, minor = torch.cuda.get_device_capability(device)
    images, driver, origins = _images(10 * major + minor), open_driver(), []

    @functools.cache
    def load(suffix: str) -> Program:
        image, origin = images(suffix)
        origins.append(origin)
        return driver.load(device, image, source_of(suffix).kernels)

    load("f32")  # double precision only when it is asked for: no training does
    return CudaKernels(load, lambda: torch.cuda.current_stream(device).cuda_stream), origins[0]


def _images(capability: int) -> Callable[[str], tuple[bytes, str]]:
    """What makes the program for "f32" or "f64" and a GPU of this compute capability times ten, and says where it is from.

    Raises: RuntimeError where there is neither a compiler that knows the GPU nor PTX in its place.
    """
    compiler, place = find_compiler(int((torch.version.cuda or "").partition(".")[0]))
    if compiler is None:
        if not is_shipped():
            raise RuntimeError(place)
        return lambda suffix: (shipped(suffix), f"PTX that came with the program, since {place}")
    target = compiler.target(capability)

    def image(suffix: str) -> tuple[bytes, str]:
        found, was_kept = compiled(compiler, source_of(suffix), target, cache_folder())
        how = "from the cache" if was_kept else "compiled now"
        return found, f"NVRTC {compiler.version[0]}.{compiler.version[1]} for {target}, {how}"

    return image
