"""NVIDIA's driver through ctypes: the few calls that load a program onto a GPU and start its kernels."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Sequence

Number = ctypes.c_void_p | ctypes.c_longlong | ctypes.c_float | ctypes.c_double


class Driver:
    """An open driver. All programs live in the primary context of their GPU, the one that torch works in."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises: RuntimeError if the driver does not start."""
        self.library = library
        # Handles are pointers; without this ctypes would pass plain Python numbers as 32 bits.
        library.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
        library.cuModuleGetFunction.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
        library.cuLaunchKernel.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self.check(library.cuInit(0))

    def load(self, device: int, image: bytes, names: Iterable[str]) -> Program:
        """Machine code or PTX onto GPU number `device`, as torch counts them. All kernels are looked up now, so that no launch loads
        anything: a graph that is being recorded would not allow it.

        Raises: RuntimeError if the driver does not take the image, or a name is not in it.
        """
        call, number, context = self.library, ctypes.c_int(), ctypes.c_void_p()
        self.check(call.cuDeviceGet(ctypes.byref(number), device))
        self.check(call.cuDevicePrimaryCtxRetain(ctypes.byref(context), number))
        return Program(self, context, image, names)

    def check(self, code: int) -> None:
        """Raises: RuntimeError with the driver's words unless the code is 0."""
        if code:
            words = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(words))
            raise RuntimeError(f"the NVIDIA driver says: {(words.value or b'error').decode()} ({code})")


class Program:
    """A loaded image. Made by Driver.load; stays on the GPU until the process ends."""

    def __init__(self, driver: Driver, context: ctypes.c_void_p, image: bytes, names: Iterable[str]) -> None:
        self._driver, self._context = driver, context
        self._functions: dict[str, ctypes.c_void_p] = {}
        module, call = ctypes.c_void_p(), driver.library
        driver.check(call.cuCtxPushCurrent_v2(context))
        try:
            driver.check(call.cuModuleLoadData(ctypes.byref(module), image))
            for name in names:
                function = ctypes.c_void_p()
                driver.check(call.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
                self._functions[name] = function
        finally:
            call.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def launch(self, name: str, blocks: int, threads: int, stream: int, values: Sequence[Number]) -> None:
        """Queue a kernel on a stream of this program's GPU; returns at once, and copies the values' bits first.

        Raises: RuntimeError with the driver's words; an error of an earlier kernel may show up here.
        """
        call, function = self._driver.library, self._functions[name]
        parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        # The calling thread may have another GPU current, or none: autograd's threads.
        self._driver.check(call.cuCtxPushCurrent_v2(self._context))
        try:
            self._driver.check(call.cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, parameters, None))
        finally:
            call.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def open_driver() -> Driver:
    """Raises: OSError where there is no driver, RuntimeError where it does not start."""
    return Driver(ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"))
