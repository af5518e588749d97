"""Small models that work beside a diffusion model: tiny encoders, ControlNets, Shap-E. Found by name or as a folder of the user's.

They stand in `models.toml` and lie in the models folder like the diffusion models. No torch here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.guidance.families import DIFFUSERS_STEM, TRANSFORMERS_STEM
from engine.guidance.model_table import Stored, find_model, is_installed, model_folder, parse_sources, table


@dataclass(frozen=True)
class HelperKind:
    """title: in an error's sentence, "a tiny encoder". parts, published_code: as in `Family`; "" is the folder itself."""

    title: str
    parts: Mapping[str, str]
    published_code: tuple[str, ...] = ()


HELPER_KINDS: dict[str, HelperKind] = {
    "tiny-vae": HelperKind("a tiny encoder", {"": DIFFUSERS_STEM}),
    "control-net": HelperKind("a ControlNet", {"": DIFFUSERS_STEM}, ("control_net_depth.py", "control_net_normalbae.py")),
    "shap-e": HelperKind(
        "a Shap-E model",
        {"tokenizer": "", "text_encoder": TRANSFORMERS_STEM, "prior": DIFFUSERS_STEM, "scheduler": "", "renderer": DIFFUSERS_STEM},
    ),
}

# diffusers' pipeline saves the renderer as the first, the copy on the hub has its safetensors in the second.
RENDERER_FOLDERS = ("shap_e_renderer", "renderer")


@dataclass(frozen=True, kw_only=True)
class Helper(Stored):
    """One row of [helpers]. `made_for`: ids of the models that it fits."""

    made_for: tuple[str, ...]

    @property
    def parts(self) -> Mapping[str, str]:
        return HELPER_KINDS[self.kind].parts


@functools.cache
def helpers() -> dict[str, Helper]:
    """Id to helper, in the order of the file."""
    rows: dict[str, dict[str, Any]] = table()["helpers"]  # type: ignore[assignment]
    found = {}
    for name, row in rows.items():
        rest = {key: value for key, value in row.items() if key not in ("sources", "for")}
        found[name] = Helper(id=name, sources=parse_sources(row["sources"]), made_for=tuple(row["for"]), **rest)
    return found


def find_stored(name: str) -> Stored:
    """The helper or else the model called `name`. Raises UserError as `find_model`."""
    return _helper(name) or find_model(name)


def _helper(name: str) -> Helper | None:
    """By its id, or by the id of one of its copies on the hub."""
    known = helpers()
    return known.get(name) or next((row for row in known.values() if any(source.repo == name for source in row.sources)), None)


def is_helper(name: str, kind: str) -> bool:
    """Whether `name` is what the table calls a helper of this kind."""
    helper = _helper(name)
    return helper is not None and helper.kind == kind


def helper_folder(given: str, kind: str) -> Path:
    """The folder of a helper, by its name in the table or by its own path.

    Raises: UserError, code "model": not fetched yet (with how to), of another kind, or neither a name nor a folder.
    """
    title = HELPER_KINDS[kind].title
    helper = _helper(given)
    if helper is not None and helper.kind == kind:
        return model_folder(helper)
    folder = Path(given).expanduser()
    if helper is None and folder.is_dir():
        return folder
    names = [row.id for row in helpers().values() if row.kind == kind]
    what = f"is {HELPER_KINDS[helper.kind].title}" if helper is not None else "is neither its name nor a folder"
    raise UserError(f"{given[:120]!r} {what}, and {title} is wanted.", f"Use {' or '.join(names)}, or a folder of yours.", "model")


def fetched_helper(kind: str, model_id: str) -> Path | None:
    """The folder of the helper of this kind that was made for a model, None if there is none or it was not fetched."""
    for helper in helpers().values():
        if helper.kind == kind and model_id in helper.made_for and is_installed(helper):
            return model_folder(helper)
    return None


def renderer_folder(root: Path) -> Path:
    """The folder of the renderer that has safetensors, else the one that is there, else the one that should be."""
    folders = [root / name for name in RENDERER_FOLDERS]
    with_weights = [folder for folder in folders if any(folder.glob("*.safetensors"))]
    return next(iter(with_weights or [folder for folder in folders if folder.is_dir()]), folders[0])
