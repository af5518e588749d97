"""Compiled kernels on the disk, by content: what went into one is its name, so nothing in here can be out of date.

Several engines may read and write at once: a file appears whole, under a name that only this content has. A file that was damaged is
compiled again. A folder that cannot be written costs a second at each start, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from cuda_ext.cuda_compiler import Compiler
from cuda_ext.cuda_source import FLAGS, Source

logger = logging.getLogger(__name__)

# A new version of the program or of CUDA brings new files; so many stay, which is a few MB.
KEPT = 24
_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """Where this user's caches are, by the custom of the system."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dreamfusion" / "kernels"


def key_of(source: Source, target: str, version: tuple[int, int]) -> str:
    """One name for all that decides what the compiler makes."""
    return hashlib.sha256(json.dumps([source.text, source.headers, FLAGS, target, version]).encode()).hexdigest()


def compiled(compiler: Compiler, source: Source, target: str, folder: Path) -> tuple[bytes, bool]:
    """The program for this target, and whether it was in the cache. Raises: RuntimeError if it does not compile."""
    path = folder / f"{key_of(source, target, compiler.version)}.bin"
    if (image := _read(path)) is not None:
        return image, True
    image = compiler.compile(source, target)
    try:
        _write(path, image)
    except OSError as error:
        logger.warning("GPU kernels must be compiled at each start, since they cannot be kept in %s: %s", folder, error)
    return image, False


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return image if digest == hashlib.sha256(image).digest() else None


def _write(path: Path, image: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(image).digest() + image)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _forget_old(path.parent)


def _forget_old(folder: Path) -> None:
    """Also clears what an engine left that was killed while it wrote: unfinished files count like others."""
    with contextlib.suppress(OSError):  # another engine may be at the same work
        newest_first = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest_first[KEPT:]:
            path.unlink(missing_ok=True)
