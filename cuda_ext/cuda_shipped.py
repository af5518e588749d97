"""The last resort for an NVIDIA GPU, where torch has lost its compiler: PTX that travels with the program and that the driver finishes.

Made by `python -m cuda_ext.cuda_shipped` (needs `pip install nvidia-cuda-nvrtc-cu12==12.6.85`) and committed. Files are named by what
they were made of: when a body changes, the old ones are not found any more rather than run, and a test says so.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from cuda_ext.cuda_cache import key_of
from cuda_ext.cuda_compiler import find_compiler
from cuda_ext.cuda_source import REALS, source_of

FOLDER = Path(__file__).parent / "lib" / "nvidia"
# The oldest CUDA that torch is built for, since a driver takes no PTX newer than itself; and its PTX runs on every GPU from Turing on.
VERSION = (12, 6)
TARGET = "compute_75"


def is_shipped() -> bool:
    """Whether there is PTX that was made of these bodies."""
    return all(_path(suffix).is_file() for suffix in REALS)


def shipped(suffix: str) -> bytes:
    """PTX of all kernels for "f32" or "f64", ending in a zero byte. Raises: OSError if there is none, see is_shipped."""
    return zlib.decompress(_path(suffix).read_bytes())


def _path(suffix: str) -> Path:
    return FOLDER / f"{suffix}-{key_of(source_of(suffix), TARGET, VERSION)[:16]}.ptx.z"


def main() -> None:
    compiler, place = find_compiler(VERSION[0])
    if compiler is None or compiler.version != VERSION:
        raise SystemExit(f"This needs CUDA 12.6's compiler: pip install nvidia-cuda-nvrtc-cu12==12.6.85 (found: {place})")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.ptx.z"):
        old.unlink()
    for suffix in REALS:
        packed = zlib.compress(compiler.compile(source_of(suffix), TARGET), 9)
        _path(suffix).write_bytes(packed)
        print(f"{_path(suffix).name} {len(packed) / 1024:4.0f} kB")


if __name__ == "__main__":
    main()
