"""A tiny torch and a tiny diffusers as wheels, and a package that would install them: what the set-up's tests install for real."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

# What doctor would say: enough for the set-up to believe in it, made from what is really installed.
LAUNCHER = """
import importlib.metadata as m, json, platform
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
findings = [{"name": "Python", "state": "ok", "text": platform.python_version() + " here", "fix": ""}]
for name in ("torch", "diffusers"):
    v = version(name)
    findings.append({"name": name, "state": "ok" if v else "missing", "text": v or "is not installed", "fix": ""})
print(json.dumps(findings, indent=2))
"""


def write_wheel(folder: Path, name: str, version: str, payload_bytes: int = 100) -> Path:
    """A wheel with one module, written by hand: no build tools needed."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{name}/payload.bin": os.urandom(payload_bytes),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return target


def write_wheels(root: Path) -> Path:
    """A folder with the wheels that `write_package_root` asks for."""
    wheels = root / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "torch", "2.13.0")
    write_wheel(wheels, "diffusers", "0.42.1")
    return wheels


def write_package_root(root: Path) -> Path:
    """What the set-up reads of the extension: requirements, builds, the launcher."""
    package = root / "package"
    (package / "requirements").mkdir(parents=True)
    (package / "requirements" / "engine.txt").write_text("torch==2.13.0\ndiffusers==0.42.1\n")
    row = '{ index = "https://torch.example/whl", download_mb = 3, disk_mb = 40 }'
    (package / "requirements" / "builds.toml").write_text(
        'package_index = "https://packages.example/simple"\npackages_download_mb = 1\npackages_disk_mb = 1\npip = ""\n'
        f'[cpu]\ntitle = "CPU"\ndescription = "d"\nlinux-x64 = {row}\nwindows-x64 = {row}\nmacos-arm64 = {row}\n'
    )
    launcher = package / "blender_dreamfusion" / "core" / "launch_engine.py"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER)
    return package
