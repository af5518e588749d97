"""What this machine has: graphics cards and Pythons, asked without torch. No bpy. Takes up to seconds: call it in a thread.

Nothing here raises because a tool is missing or answers oddly: then the card or the Python is not listed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engine_process import scrubbed_environment
from .install_engine import BEYOND_PYTHON, MIN_PYTHON

# A driver that wakes a sleeping card takes seconds; a broken one takes for ever.
TOOL_TIMEOUT_S = 15.0
AMD_VENDOR = "0x1002"
# Less is a picture output inside a processor, which ROCm does not run on.
MIN_AMD_VRAM_MB = 4000
PYTHON_NAMES = ("python3.13", "python3.12", "python3.11", "python3", "python")
_ABOUT_PYTHON = (
    "import sys, importlib.util as u; "
    "print(*sys.version_info[:3], sys.executable, *(n for n in ('venv', 'ensurepip') if u.find_spec(n) is None), sep='|')"
)

Run = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Gpu:
    """A graphics card. `kind`: "cuda", "rocm" or "mps"; `vram_mb` 0 and `driver` "" while not known; `capability` as 8.9, NVIDIA's."""

    kind: str
    name: str
    vram_mb: int = 0
    driver: str = ""
    capability: float = 0.0

    @property
    def sentence(self) -> str:
        """ "NVIDIA GeForce RTX 4070, 12 GB, driver 580.65"."""
        memory = f"{self.vram_mb / 1024:.0f} GB" if self.vram_mb else ""
        return ", ".join(part for part in (self.name, memory, f"driver {self.driver}" if self.driver else "") if part)


@dataclass(frozen=True)
class BasePython:
    """A Python that could make the engine's environment; `reason` says why it cannot, empty if it can."""

    path: str
    version: str
    reason: str = ""


def run_tool(command: Sequence[str]) -> str:
    """A tool's output, empty if it is missing, fails or takes too long."""
    flags: dict[str, Any] = {}
    if sys.platform == "win32":
        flags = {"creationflags": subprocess.CREATE_NO_WINDOW}
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TOOL_TIMEOUT_S,
            env=scrubbed_environment(os.environ),
            check=False,
            **flags,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else ""


def platform_tag(system: str = sys.platform, machine: str = "") -> str:
    """ "linux-x64", "windows-x64", "macos-arm64", …: the words of Blender's manifests."""
    names = {"win32": "windows", "darwin": "macos"}
    machines = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}
    word = (machine or platform.machine()).lower()
    return f"{names.get(system, system)}-{machines.get(word, word)}"


def find_gpus(run: Run = run_tool, tag: str = "", system_root: Path = Path("/")) -> list[Gpu]:
    """The cards that torch might use, NVIDIA's first."""
    tag = tag or platform_tag()
    found = nvidia_gpus(run)
    if tag.startswith("linux"):
        found += amd_gpus(run, system_root)
    if tag == "macos-arm64":
        found += apple_gpus(run)
    return found


def nvidia_gpus(run: Run) -> list[Gpu]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
    found = []
    for line in run(query).splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            vram = int(fields[1]) if fields[1].isdigit() else 0
            found.append(Gpu("cuda", fields[0], vram, fields[2], _number(fields[3])))
    return found


def amd_gpus(run: Run, system_root: Path) -> list[Gpu]:
    """From the kernel's own files; the name from rocminfo, where that is installed. None without the compute driver."""
    if not (system_root / "dev/kfd").exists():
        return []
    lines = [line.partition(":")[2].strip() for line in run(["rocminfo"]).splitlines() if "Marketing Name" in line]
    names = [name for name in lines if "Radeon" in name or "Instinct" in name]
    found: list[Gpu] = []
    for device in sorted((system_root / "sys/class/drm").glob("card[0-9]/device")):
        vram = int(_text(device / "mem_info_vram_total") or 0) >> 20
        if _text(device / "vendor") == AMD_VENDOR and vram >= MIN_AMD_VRAM_MB:
            found.append(Gpu("rocm", names[len(found)] if len(found) < len(names) else "AMD graphics card", vram))
    return found


def apple_gpus(run: Run) -> list[Gpu]:
    """Apple silicon: one memory for both, so all of it counts."""
    memory = run(["sysctl", "-n", "hw.memsize"]).strip()
    vram = int(memory) >> 20 if memory.isdigit() else 0
    return [Gpu("mps", run(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "Apple silicon", vram)]


def find_pythons(first: Sequence[str], environ: Mapping[str, str] = os.environ, run: Run = run_tool) -> list[BasePython]:
    """The Pythons at the paths `first`, then those on PATH. What does not answer as a Python does is listed only if it was named."""
    named = [path for path in first if path]
    on_path = [path for name in PYTHON_NAMES if (path := shutil.which(name, path=environ.get("PATH", "")))]
    found: dict[str, BasePython] = {}
    for path in [*named, *on_path]:
        python = about_python(path, run)
        if python.version or path in named:
            found.setdefault(python.path, python)
    return list(found.values())


def about_python(path: str, run: Run = run_tool) -> BasePython:
    fields = run([path, "-I", "-c", _ABOUT_PYTHON]).strip().split("|")
    if len(fields) < 4 or not all(field.isdigit() for field in fields[:3]):
        return BasePython(path, "", f"{path} is no Python that runs here")
    major, minor, micro = (int(field) for field in fields[:3])
    version, missing = f"{major}.{minor}.{micro}", fields[4:]
    if not MIN_PYTHON <= (major, minor) < BEYOND_PYTHON:
        return BasePython(fields[3], version, f"Python {version} does not fit: the engine needs 3.11, 3.12 or 3.13")
    if missing:
        return BasePython(fields[3], version, f"Python {version} lacks {' and '.join(missing)}, so it cannot make an environment")
    return BasePython(fields[3], version)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
