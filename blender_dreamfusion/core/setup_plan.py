"""What the set-up would do on this machine, before it does anything: which build, from where, how large, into which folder. No bpy."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .hardware import BasePython, Gpu

AUTOMATIC = "auto"
# Below these a build of CUDA 13 finds no card.
CUDA_13_DRIVER, CUDA_13_CAPABILITY = 580.0, 7.5
# torch's longest path inside an environment has about 190 characters, and Windows ends at 260 unless it was told otherwise.
MAX_WINDOWS_FOLDER_CHARS = 60
# pip needs a download and its unpacked files at the same time.
DISK_RESERVE_MB = 500.0


@dataclass(frozen=True)
class Build:
    """A build of torch for this system. Sizes of torch and all that it brings; `index` a URL, or a file: URL of a folder of wheels."""

    id: str
    title: str
    description: str
    index: str
    download_mb: float
    disk_mb: float


@dataclass(frozen=True)
class BuildTable:
    """requirements/builds.toml for one system, with the versions of engine.txt."""

    builds: tuple[Build, ...]
    package_index: str
    packages_download_mb: float
    packages_disk_mb: float
    pip: str
    torch: str
    requirements: str


@dataclass(frozen=True)
class Findings:
    """What was found on this machine and in the folder. `folder_kind`: "new", "empty", "ours", "foreign", "file" or "locked"."""

    platform: str
    gpus: tuple[Gpu, ...]
    pythons: tuple[BasePython, ...]
    folder: str
    folder_kind: str
    free_mb: float
    installed_mb: float = 0.0
    phases: tuple[str, ...] = ()
    is_complete: bool = False

    @property
    def python(self) -> BasePython | None:
        """The first that can make an environment."""
        return next((python for python in self.pythons if not python.reason), None)


@dataclass(frozen=True)
class SetupPlan:
    """All that install_engine.py needs to know; sizes are those of the whole engine."""

    folder: str
    build: str
    title: str
    base_python: str
    torch: str
    torch_index: str
    package_index: str
    pip: str
    requirements: str
    launcher: str
    torch_mb: float
    packages_mb: float
    disk_mb: float
    repair: bool = False

    @property
    def is_online(self) -> bool:
        """Whether it needs the network (a folder of wheels does not)."""
        return not (self.torch_index.startswith("file:") and self.package_index.startswith("file:"))

    @property
    def download_mb(self) -> float:
        return self.torch_mb + self.packages_mb

    @property
    def sources(self) -> str:
        """Where it is fetched from, for a reader: "download.pytorch.org and pip's own index"."""
        return " and ".join(dict.fromkeys(_source(index) for index in (self.torch_index, self.package_index)))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def _source(index: str) -> str:
    if not index:
        return "pip's own index"
    return index if index.startswith("file:") else index.split("/")[2]


def read_builds(package_root: Path, platform: str) -> BuildTable:
    """The table for a system (see hardware.platform_tag); no builds where torch has none. Raises: OSError, ValueError."""
    folder = package_root / "requirements"
    table = tomllib.loads((folder / "builds.toml").read_text(encoding="utf-8"))
    torch = re.search(r"^torch==\S+", (folder / "engine.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if torch is None:
        raise ValueError(f"{folder / 'engine.txt'} pins no torch. Install the add-on again.")
    rows = {name: row for name, row in table.items() if isinstance(row, dict) and platform in row}
    return BuildTable(
        builds=tuple(Build(name, row["title"], row["description"], **row[platform]) for name, row in rows.items()),
        package_index=table["package_index"],
        packages_download_mb=table["packages_download_mb"],
        packages_disk_mb=table["packages_disk_mb"],
        pip=table["pip"],
        torch=torch[0],
        requirements=str(folder / "engine.txt"),
    )


def recommended_build(builds: Sequence[Build], gpus: Sequence[Gpu]) -> str:
    """The id of the build that uses the best card; the first build if there is none; empty if there are no builds."""
    offered = [build.id for build in builds]
    for gpu in gpus:
        wanted = gpu.kind
        if wanted == "cuda" and (_major(gpu.driver) < CUDA_13_DRIVER or gpu.capability < CUDA_13_CAPABILITY):
            wanted = "cuda_legacy"
        if wanted in offered:
            return wanted
    return offered[0] if offered else ""


def make_plan(
    table: BuildTable, findings: Findings, choice: str, package_root: Path, *, torch_index: str = "", package_index: str = ""
) -> SetupPlan | None:
    """The plan for a choice of build (AUTOMATIC: the recommended one). An index that is given replaces the table's.

    None if torch has no build for this system.
    """
    wanted = recommended_build(table.builds, findings.gpus) if choice == AUTOMATIC else choice
    build = next((build for build in table.builds if build.id == wanted), None)
    if build is None:
        return None
    python = findings.python
    return SetupPlan(
        folder=findings.folder,
        build=build.id,
        title=build.title,
        base_python=python.path if python else "",
        torch=table.torch,
        torch_index=torch_index or build.index,
        package_index=package_index or table.package_index,
        pip=table.pip,
        requirements=table.requirements,
        launcher=str(package_root / "blender_dreamfusion" / "core" / "launch_engine.py"),
        torch_mb=build.download_mb,
        packages_mb=table.packages_download_mb,
        disk_mb=build.disk_mb + build.download_mb + table.packages_disk_mb + table.packages_download_mb + DISK_RESERVE_MB,
    )


def repairing(plan: SetupPlan) -> SetupPlan:
    """The same from the start; what was downloaded is used again."""
    return replace(plan, repair=True)


def obstacles(plan: SetupPlan | None, findings: Findings) -> list[str]:
    """Why the set-up cannot run as planned, each a sentence with the fix."""
    if plan is None:
        what = f"torch has no such build for this system ({findings.platform})."
        return [f"{what} Choose Automatic. The engine runs on Windows and Linux (x64), and on Macs with Apple silicon."]
    found = []
    if not plan.base_python:
        why = f"{findings.pythons[0].reason}." if findings.pythons else "No Python was found."
        found.append(f"{why} {_python_fix(findings)}")
    folder = findings.folder
    if findings.folder_kind == "foreign":
        found.append(f"The folder {folder} is not empty, and it is no engine's. Choose an empty one.")
    elif findings.folder_kind == "file":
        found.append(f"{folder} is a file. Choose a folder.")
    elif findings.folder_kind == "locked":
        found.append(f"The folder {folder} cannot be written. Choose another one.")
    elif "torch" not in findings.phases and findings.free_mb < plan.disk_mb:
        needed, free = gigabytes(plan.disk_mb), gigabytes(findings.free_mb)
        found.append(f"The set-up needs {needed}, but the disk has {free} free. Make room, or choose a folder on another disk.")
    return found


def _python_fix(findings: Findings) -> str:
    """Linux distributions take venv and ensurepip out of Python and put them into a package of their own."""
    lacking = next((python.version for python in findings.pythons if "lacks" in python.reason), "")
    if lacking and findings.platform.startswith("linux"):
        return f"Install the system's package python{lacking.rpartition('.')[0]}-venv, or choose another Python 3.11 to 3.13."
    return "Install Python 3.12 from python.org, or choose a Python 3.11 to 3.13."


def folder_warning(folder: str, system: str = sys.platform) -> str:
    """A sentence if the path will make trouble; empty otherwise."""
    if system == "win32" and len(folder) > MAX_WINDOWS_FOLDER_CHARS:
        return "This path is long, and Windows may refuse files in it. Choose a short one, for example C:\\dreamfusion."
    return ""


def gigabytes(megabytes: float) -> str:
    """ "2.9 GB", "160 MB"."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def findings_lines(findings: Findings) -> list[tuple[str, str]]:
    """What the user reads, each with its icon: graphics cards, Python, disk."""
    cards = [gpu.sentence for gpu in findings.gpus] or ["No graphics card that torch can use"]
    python = findings.python
    return [
        *((card, "DESKTOP") for card in cards),
        (f"Python {python.version} at {python.path}" if python else "No Python that can be used", "CONSOLE"),
        (f"{gigabytes(findings.free_mb)} free on the disk", "DISK_DRIVE"),
    ]


def _major(version: str) -> float:
    match = re.match(r"\d+(\.\d+)?", version)
    return float(match[0]) if match else 0.0
