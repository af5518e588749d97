"""Compile bodies/ into lib/, for every platform, on any of them: `python -m cuda_ext.build` (needs `pip install ziglang==0.17.1`).

The result is committed, so that nobody who installs the program needs a compiler. lib/sources.json says which sources it was made
of; a test compares, so that a changed body cannot be forgotten.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cuda_ext.cpu import LIBRARIES

BODIES = Path(__file__).parent / "bodies"
RECORD = LIBRARIES / "sources.json"


@dataclass(frozen=True)
class Target:
    """A platform: how the cross-compiler names it and its processors, and what its library is called."""

    triple: str
    cpu: str
    file: str


# glibc 2.17 is what manylinux2014 asks for; x86_64_v3 is AVX2 and FMA, every PC since about 2015.
TARGETS = {
    "linux-x64": Target("x86_64-linux-gnu.2.17", "x86_64_v3", "libkernels.so"),
    "linux-arm64": Target("aarch64-linux-gnu.2.17", "generic", "libkernels.so"),
    "windows-x64": Target("x86_64-windows-gnu", "x86_64_v3", "kernels.dll"),
    "macos-x64": Target("x86_64-macos.11.0", "x86_64_v3", "libkernels.dylib"),
    "macos-arm64": Target("aarch64-macos.11.0", "apple_m1", "libkernels.dylib"),
}
FLAGS = (
    "-O3",
    "-shared",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",  # else a square root is a branch, and no loop with one becomes vector instructions
    "-nostdlib++",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-s",
)


def source_hash() -> str:
    """One hash over all bodies and flags."""
    digest = hashlib.sha256("\n".join((*FLAGS, *map(str, TARGETS.values()))).encode())
    for path in sorted(BODIES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def compile_library(target: Target, out: Path) -> None:
    """Raises: RuntimeError with the compiler's words."""
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ziglang", "c++", "-target", target.triple, f"-mcpu={target.cpu}", *FLAGS]
    # By its bare name: macOS libraries carry the name they were written under, which would be a path of this machine.
    command += [str((BODIES / "cpu.cpp").resolve()), "-o", out.name]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{target.triple} does not compile. If ziglang is missing: pip install ziglang.\n{done.stderr[-3000:]}")
    for leftover in (*out.parent.glob("*.pdb"), *out.parent.glob("*.lib")):  # Windows' linker adds them
        leftover.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the CPU kernels.")
    parser.add_argument("targets", nargs="*", metavar="PLATFORM", help=f"of {', '.join(TARGETS)}; none: all")
    names = parser.parse_args().targets or list(TARGETS)
    for name in names:
        if name not in TARGETS:
            parser.error(f"{name} is no platform; known are {', '.join(TARGETS)}")
        out = LIBRARIES / name / TARGETS[name].file
        try:
            compile_library(TARGETS[name], out)
        except RuntimeError as error:
            parser.error(str(error))
        print(f"{name:12} {out.stat().st_size / 1024:6.0f} kB")
    if len(names) == len(TARGETS):
        RECORD.write_text(json.dumps({"sources": source_hash()}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
