"""What the CUDA compiler is given: the bodies for one type of numbers, as text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BODIES = Path(__file__).parent / "bodies"
# The suffix of a kernel's name, and the type of its numbers.
REALS = {"f32": "float", "f64": "double"}
# --fmad=false: march_count and march_write walk one lattice and must round alike, wherever the compiler would fuse. A body that
# wants a fused multiply-add says so itself.
FLAGS = ("--std=c++17", "--fmad=false")


@dataclass(frozen=True)
class Source:
    """A program: its main text, the headers that it includes by name, and the names of its kernels."""

    text: str
    headers: tuple[tuple[str, str], ...]
    kernels: tuple[str, ...]


def kernel_names() -> tuple[str, ...]:
    """All kernels of the bodies, without the suffix of their number type."""
    return tuple(name for _, text in _headers() for name in re.findall(r"^KERNEL NAME\((\w+)\)", text, re.MULTILINE))


def source_of(suffix: str) -> Source:
    """The program of all kernels for "f32" or "f64"; training needs only the first, so they are compiled apart."""
    text = f'#define REAL {REALS[suffix]}\n#define NAME(x) x##_{suffix}\n#include "all.h"\n'
    return Source(text, _headers(), tuple(f"{name}_{suffix}" for name in kernel_names()))


def _headers() -> tuple[tuple[str, str], ...]:
    return tuple((path.name, path.read_text(encoding="utf-8")) for path in sorted(BODIES.glob("*.h")))
