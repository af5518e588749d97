"""NVRTC, the CUDA compiler that torch brings, through ctypes: from the bodies to machine code, without nvcc, headers or a GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cuda_ext.cuda_source import FLAGS, Source


class Compiler:
    """An open NVRTC. `version` as (13, 0); `architectures` as compute capabilities times ten, ascending: 75, 80, …"""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Raises: RuntimeError if the library does not answer; AttributeError if it is older than CUDA 11.2."""
        self._library = library
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._check(library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        self._check(library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        architectures = (ctypes.c_int * count.value)()
        self._check(library.nvrtcGetSupportedArchs(architectures))
        self.version = (major.value, minor.value)
        self.architectures = tuple(sorted(architectures))

    def target(self, capability: int) -> str:
        """What to compile for a GPU of this compute capability times ten: "sm_89", or "compute_90" (PTX, which the driver finishes)
        if the GPU is newer than this compiler.

        Raises: RuntimeError if the GPU is older than all that this compiler knows.
        """
        if capability in self.architectures:
            return f"sm_{capability}"
        older = [known for known in self.architectures if known < capability]
        if not older:
            least = self.architectures[0]
            raise RuntimeError(
                f"the GPU has compute capability {capability / 10:.1f}, and CUDA {self.version[0]}.{self.version[1]} compiles for "
                f"{least / 10:.1f} and newer; a build of torch for an older CUDA may know it"
            )
        return f"compute_{older[-1]}"

    def compile(self, source: Source, target: str) -> bytes:
        """Machine code (a cubin) for a target "sm_…", PTX that ends in a zero byte for "compute_…".

        Raises: RuntimeError with the compiler's words.
        """
        names, texts = zip(*((name.encode(), text.encode()) for name, text in source.headers))
        program, n = ctypes.c_void_p(), len(names)
        strings, options = ctypes.c_char_p * n, (f"--gpu-architecture={target}", *FLAGS)
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program), source.text.encode(), b"kernels.cu", n, strings(*texts), strings(*names)
            )
        )
        try:
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._library.nvrtcCompileProgram(program, len(options), flags)
            if failed:
                words = self._result(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise RuntimeError(f"the kernels do not compile for {target}: {words[-3000:]}")
            return self._result(program, "CUBIN" if target.startswith("sm_") else "PTX")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _result(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
        found = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{kind}")(program, found))
        return found.raw

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(f"NVRTC says: {self._library.nvrtcGetErrorString(code).decode()}")


def library_name(major: int) -> str:
    """What NVRTC's file is called on this system. The name has not changed within a major version since CUDA 12."""
    return f"nvrtc64_{major}0_0.dll" if sys.platform == "win32" else f"libnvrtc.so.{major}"


def places(major: int) -> Iterator[str]:
    """Where NVRTC may be, best first: in torch's own folder (Windows), in NVIDIA's wheel (Linux), where the system finds it (conda).

    The system comes last: an old CUDA toolkit may lie there, which does not know the GPU that torch was installed for.
    """
    name = library_name(major)
    if (torch := importlib.util.find_spec("torch")) and torch.origin:
        yield str(Path(torch.origin).parent / "lib" / name)
    nvidia = importlib.util.find_spec("nvidia")
    for root in nvidia.submodule_search_locations or () if nvidia else ():
        for folder in (f"cu{major}/lib", f"cu{major}/bin/x86_64", f"cu{major}/bin", "cuda_nvrtc/lib", "cuda_nvrtc/bin"):
            yield str(Path(root) / folder / name)
    yield name


@functools.cache
def find_compiler(major: int) -> tuple[Compiler | None, str]:
    """NVRTC of this major version of CUDA and where it was found; or None and one line that says why."""
    reason = f"{library_name(major)} is neither in torch nor in NVIDIA's wheel; install nvidia-cuda-nvrtc"
    for place in places(major):
        if os.sep in place and not Path(place).is_file():
            continue
        try:
            if sys.platform == "win32" and os.sep in place:
                os.add_dll_directory(str(Path(place).parent))  # its second half, nvrtc-builtins, is looked for when it compiles
            return Compiler(ctypes.CDLL(place)), place
        except (OSError, AttributeError, RuntimeError) as error:
            if os.sep in place:  # a bare name that is not there is no news
                reason = f"{place} does not work ({error})"
    return None, reason
