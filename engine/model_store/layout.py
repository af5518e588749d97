"""Whether a model's folder is whole and safe to load, without loading anything."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from engine.errors import UserError
from engine.guidance.families import FAMILIES, check_family, check_parts, kind_of
from engine.guidance.model_records import RECORD_NAME
from engine.model_store.hub import PICKLE_SUFFIXES, SETTINGS_SUFFIXES

# The header of Stable Diffusion's U-Net has about 100 kB; the format itself allows 100 MB.
MAX_HEADER_BYTES = 100_000_000


def part_files(folder: Path, parts: Mapping[str, str] | None = None) -> list[Path]:
    """What we load of a model: settings, words and safetensors directly inside its parts, sorted. None: the parts of its family."""
    parts = FAMILIES[kind_of(folder)].parts if parts is None else parts
    inside = [path for part in parts for path in (folder / part).glob("*") if path.is_file()]
    ours = (*SETTINGS_SUFFIXES, ".safetensors")
    return sorted(path for path in inside if path.suffix in ours and path.name != RECORD_NAME)


def check_folder(folder: Path) -> None:
    """Raise UserError, code "model", unless `folder` is a model of a family in the table, whole and safe."""
    check_parts(folder)
    family = FAMILIES[kind_of(folder)]
    check_weights(folder, family.parts, family.published_code)
    check_family(folder)
    check_files(folder, family.parts)


def check_weights(folder: Path, parts: Mapping[str, str], published_code: Collection[str] = ()) -> None:
    """Raise UserError, code "model", if a part with weights holds code other than the published, or no safetensors."""
    for part in (part for part, stem in parts.items() if stem):
        names = [path.name for path in (folder / part).glob("*")]
        code = [name for name in names if name.endswith(".py") and f"{part}/{name}".lstrip("/") not in published_code]
        if code:
            raise UserError(
                f"{folder / part} holds Python code ({code[0]}), so its weights need code that this program never runs.",
                "Choose a model whose folder holds weights and settings only.",
                "model",
            )
        if not any(name.endswith(".safetensors") for name in names):
            has_pickle = any(name.endswith(PICKLE_SUFFIXES) for name in names)
            text = f"{folder / part} holds its weights as a pickle only, which can run code." if has_pickle else ""
            fix = "Get the model with .safetensors files, or convert it where that is safe."
            raise UserError(text or f"{folder / part} holds no .safetensors file.", fix, "model")


def check_files(folder: Path, parts: Mapping[str, str]) -> None:
    """Raise UserError, code "model", if a file of a part is cut off or cannot be read; reads settings and headers alone."""
    for path in part_files(folder, parts):
        if path.suffix == ".safetensors":
            read_header(path)
        elif path.suffix == ".json":
            _check_json(path)


def read_header(path: Path) -> dict[str, dict[str, object]]:
    """Tensor name to its dtype, shape and place, of a safetensors file; nothing else is read.

    Raises: UserError, code "model", if it is no such file, or is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(n_header)) if 0 < n_header <= MAX_HEADER_BYTES else None
            tensors = {name: dict(entry) for name, entry in header.items() if name != "__metadata__"}  # type: ignore[union-attr]
            end = 8 + n_header + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise UserError(f"{path} is no safetensors file, or its beginning is damaged.", "Fetch it again.", "model") from error
    if size < end:
        raise UserError(f"{path} is cut off: it has {size:,} of {end:,} bytes.", "Fetch it again.", "model")
    return tensors


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON.", "Fetch the model folder again.", "model") from error
