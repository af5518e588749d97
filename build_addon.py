"""Builds the extension's zip without Blender.

    python build_addon.py                         dist/blender_dreamfusion-<version>.zip, validated
    python build_addon.py --install FOLDER        the same, and unpacked into a Blender user folder (its "extensions" folder's parent)
    python build_addon.py --repository DIR        the same, and a static extension repository (zip, index.json, index.html) in DIR
    python build_addon.py kernels [PLATFORM ...]  the CPU kernels anew, for every platform (asks for torch and ziglang==0.17.1)

The standard library is enough for all but the last. Where a bpy wheel is installed for this Python, Blender's own tool inside it checks
the zip once more.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.addon_manifest import manifest_faults
from scripts.extension_repository import write_repository

ROOT = Path(__file__).resolve().parent
MANIFEST = "blender_manifest.toml"
# What goes into the zip at its top; whatever else lies in the checkout (a folder of results, a note) does not belong to the extension.
# Blender's own build tool knows no such list, only paths to exclude: the manifest has those, and this list is held against them.
SHIPPED = (MANIFEST, "__init__.py", "LICENSE", "README.md", "CHANGELOG.md", "blender_dreamfusion", "engine", "cuda_ext", "requirements")
# What must be inside, or the extension does not start.
REQUIRED = (MANIFEST, "__init__.py", "LICENSE", "blender_dreamfusion/__init__.py", "engine/__init__.py", "engine/protocol.py")
WEIGHTS = ("engine/toybox/weights", "engine/toybox/sibling")
# Toybox and its sibling are at most 40 MB; more means that somebody's training run or virtual environment slipped in.
MAX_ZIP_BYTES = 100_000_000
# The same files give the same bytes: zip's own earliest date.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
# Compressed already.
STORED_SUFFIXES = {".safetensors", ".png", ".jpg", ".mp4", ".glb", ".npz"}


class BuildError(Exception):
    """A sentence with the fix."""


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest; checked by every rule that Blender has for it. Raises: BuildError."""
    try:
        manifest = tomllib.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BuildError(f"{root / MANIFEST} cannot be read: {error}") from error
    faults = manifest_faults(manifest)
    if faults:
        raise BuildError(f"{MANIFEST}: {' '.join(faults)}")
    return manifest


def is_excluded(path: str, patterns: list[str]) -> bool:
    """Whether a path relative to the root (folders end in "/") matches a pattern of the manifest's list.

    The part of gitignore's rules that the list uses: a leading "/" ties the pattern to the root, a trailing one to folders;
    "*" stays inside one name.
    """
    is_folder = path.endswith("/")
    parts = path.rstrip("/").split("/")
    for pattern in patterns:
        if pattern.endswith("/") and not is_folder:
            continue
        wanted = pattern.strip("/").split("/")
        candidates = parts if pattern.startswith("/") or len(wanted) > 1 else parts[-1:]
        if len(candidates) == len(wanted) and all(fnmatch.fnmatchcase(part, want) for part, want in zip(candidates, wanted)):
            return True
    return False


def included_files(root: Path, patterns: list[str]) -> list[str]:
    """Paths relative to `root` that no pattern excludes, "/" between names, sorted."""
    found = []
    for folder, subfolders, files in os.walk(root):
        prefix = Path(folder).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        subfolders[:] = sorted(name for name in subfolders if not is_excluded(f"{prefix}{name}/", patterns))
        found += [f"{prefix}{name}" for name in files if not is_excluded(f"{prefix}{name}", patterns)]
    return sorted(found)


def shipped_files(root: Path, patterns: list[str]) -> tuple[list[str], list[str]]:
    """Paths for the zip, and the names at the top of `root` that are left out though no pattern excludes them; both sorted."""
    tops = [name for name in os.listdir(root) if not is_excluded(f"{name}/" if (root / name).is_dir() else name, patterns)]
    unknown = sorted(name for name in tops if name not in SHIPPED)
    # A folder of results may hold millions of files: it is not walked.
    aside = [f"/{_literal(name)}" for name in unknown]
    return included_files(root, [*patterns, *aside]), unknown


def _literal(name: str) -> str:
    """A pattern that this name alone matches."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def build_zip(root: Path, out_dir: Path, say: Callable[[str], None] = print) -> Path:
    """The zip in `out_dir`; the same files give the same bytes. `say` is told what is left out. Raises: BuildError."""
    manifest = read_manifest(root)
    files, unknown = shipped_files(root, manifest.get("build", {}).get("paths_exclude_pattern", []))
    if unknown:
        say(f"Left out, for they are no part of the extension: {', '.join(unknown)}")
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise BuildError(f"The checkout lacks {', '.join(missing)}.")
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / f"{manifest['id']}-{manifest['version']}.zip"
    partial = target.with_suffix(".zip.partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for name in files:
            entry = zipfile.ZipInfo(name, ZIP_DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if Path(name).suffix in STORED_SUFFIXES else zipfile.ZIP_DEFLATED
            archive.writestr(entry, (root / name).read_bytes())
    size = partial.stat().st_size
    if size > MAX_ZIP_BYTES:
        largest = sorted(files, key=lambda name: -(root / name).stat().st_size)[:3]
        partial.unlink()
        what = f"The zip has {size:,} bytes, at most {MAX_ZIP_BYTES:,} are allowed. Largest: {', '.join(largest)}."
        raise BuildError(f"{what} Exclude what does not belong in {MANIFEST}.")
    partial.replace(target)
    return target


def find_blender_tool() -> Path | None:
    """The stand-alone blender_ext.py of the bpy wheel of this Python, without importing bpy; None if there is none."""
    spec = importlib.util.find_spec("bpy")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py"), None)


def run_blender_tool(*arguments: str) -> str:
    """What the tool prints. Raises: BuildError if it is missing or finds a fault."""
    tool = find_blender_tool()
    if tool is None:
        raise BuildError("This needs the tool inside the bpy wheel. Install bpy for this Python, or use: blender --command extension.")
    done = subprocess.run([sys.executable, str(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"blender_ext.py {arguments[0]}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def validate(archive: Path) -> bool:
    """Check the zip as Blender would; False if no bpy wheel is there to do so. Raises: BuildError."""
    if find_blender_tool() is None:
        return False
    run_blender_tool("validate", str(archive))
    return True


def install(archive: Path, user_folder: Path) -> Path:
    """Unpack into the user repository of a Blender user folder (.../blender/4.5); an older copy is replaced whole."""
    repository = user_folder / "extensions" / "user_default"
    repository.mkdir(parents=True, exist_ok=True)
    target = repository / read_manifest(ROOT)["id"]
    if target.is_symlink():
        raise BuildError(f"{target} is a link to a checkout and already up to date. Remove the link to install the zip.")
    with tempfile.TemporaryDirectory(dir=repository, prefix=".installing-") as scratch:
        with zipfile.ZipFile(archive) as files:
            files.extractall(Path(scratch) / "new")
        if target.exists():
            target.rename(Path(scratch) / "old")
        (Path(scratch) / "new").rename(target)
    return target


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["kernels"]:  # in a process of its own: it imports torch
        return subprocess.run([sys.executable, "-m", "cuda_ext.build", *arguments[1:]], cwd=ROOT, check=False).returncode
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "dist", help="where the zip goes")
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="Blender user folder to install into, such as ~/.config/blender/4.5")
    parser.add_argument("--repository", type=Path, metavar="DIR", help="write a static extension repository")
    options = parser.parse_args(arguments)
    try:
        archive = build_zip(ROOT, options.output_dir)
        checked = "validated, also by Blender's own tool" if validate(archive) else "validated"
        print(f"{archive} ({archive.stat().st_size / 1e6:.1f} MB, {checked})")
        for weights in WEIGHTS:
            if not (ROOT / weights).is_dir():
                print(f"Warning: {weights} is missing, so the zip brings no model for it.")
        if options.install:
            print(f"Installed in {install(archive, options.install.expanduser())}; enable DreamFusion in Blender's preferences")
        if options.repository:
            index = write_repository(archive, read_manifest(ROOT), options.repository)
            print(f"Repository in {options.repository}; its address for Blender is that of {index.name}")
    except (BuildError, OSError) as error:
        print(f"build_addon: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
