"""Names of data-blocks, files and folders, made from a prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

# ID names of Blender 4.2 to 4.5 hold 63 bytes of UTF-8.
ID_NAME_BYTES = 63
# The same stem serves object, mesh, material and images; the longest suffix is "_roughness".
STEM_BYTES = ID_NAME_BYTES - len("_roughness")
FALLBACK_STEM = "asset"


def slug(prompt: str, max_bytes: int = STEM_BYTES) -> str:
    """Letters and digits of the prompt, lower case, joined by "-": "A red Mug!" becomes "a-red-mug".

    The same form as the engine's file names, but letters of every script stay. At most `max_bytes` bytes of UTF-8, never cut
    inside a character; never empty.
    """
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", prompt).lower())
    return clip_utf8("-".join(words), max_bytes).strip("-") or FALLBACK_STEM


def clip_utf8(text: str, max_bytes: int) -> str:
    """The longest beginning of `text` that fits into `max_bytes` bytes of UTF-8."""
    return text.encode("utf-8", errors="ignore")[:max_bytes].decode("utf-8", errors="ignore")


def with_suffix(name: str, suffix: str) -> str:
    """`name` with `suffix` at its end, the name cut so that both fit into the name of a data-block."""
    return clip_utf8(name, ID_NAME_BYTES - len(suffix.encode("utf-8"))) + suffix


def new_job_folder(jobs_folder: Path, prompt: str, now: datetime, taken: Collection[str] = ()) -> Path:
    """A path in `jobs_folder` that does not exist yet: date, time and slug. Not created here: the engine does that.

    `taken` are paths of jobs that wait, whose folders do not exist yet either.
    """
    stem = f"{now:%Y%m%d-%H%M%S}_{slug(prompt, 40)}"
    folder, number = jobs_folder / stem, 1
    while folder.exists() or str(folder) in taken:
        number += 1
        folder = jobs_folder / f"{stem}_{number}"
    return folder
