"""The model table `models.toml`, typed, and where a model's folder lies on this machine.

Nothing here goes online. No torch here, so that listing models is quick.
"""

from __future__ import annotations

import functools
import importlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from engine.errors import UserError
from engine.guidance.families import FAMILIES, check_parts, has_parts, kind_of
from engine.guidance.model_records import MODELS_VARIABLE as MODELS_VARIABLE
from engine.guidance.model_records import Record, models_root, read_added
from engine.guidance.vocabulary import Vocabulary, load_vocabulary

ENGINE_FOLDER = Path(__file__).resolve().parent.parent
TABLE_FILE = Path(__file__).resolve().parent / "models.toml"


@dataclass(frozen=True)
class Source:
    """A copy on the hub. `revision` is a commit, or "main"."""

    repo: str
    revision: str

    @property
    def is_pinned(self) -> bool:
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What lies in the models folder under an id. The fields are explained at the top of `models.toml`."""

    id: str
    title: str
    kind: str
    path: str = ""
    sources: tuple[Source, ...]
    gated: bool = False
    licence: str
    download_mb: int
    note: str
    withheld: str = ""
    instead: str = ""

    @property
    def parts(self) -> Mapping[str, str]:
        """As in `Family`."""
        return FAMILIES[self.kind].parts


@dataclass(frozen=True, kw_only=True)
class Model(Stored):
    """One row of the table of diffusion models, or a local folder dressed as one."""

    vram_gb: float
    resolution_px: int
    prediction_type: str
    words: str
    vocabulary: str

    @property
    def takes_free_prompts(self) -> bool:
        return not self.vocabulary and not FAMILIES[self.kind].needs_picture

    @property
    def view_words(self) -> Mapping[str, str]:
        """View of `engine.scene.view_weights.VIEWS` to the words in a prompt."""
        return _words()[self.words]["views"]

    @property
    def shading_words(self) -> Mapping[str, str]:
        """Shading name to the words in a prompt."""
        return _words()[self.words]["shadings"]

    def load_vocabulary(self) -> Vocabulary | None:
        """The words it knows, None if it takes free prompts. Raises UserError, code "model", if the file is missing or broken."""
        return load_vocabulary(ENGINE_FOLDER / self.vocabulary) if self.vocabulary else None


@functools.cache
def table() -> dict[str, object]:
    """All of `models.toml`."""
    return tomllib.loads(TABLE_FILE.read_text(encoding="utf-8"))


def _words() -> dict[str, dict[str, dict[str, str]]]:
    return table()["words"]  # type: ignore[return-value]


@functools.cache
def models() -> dict[str, Model]:
    """Id to model, in the order of the file; the first is the default."""
    rows: dict[str, dict[str, object]] = table()["models"]  # type: ignore[assignment]
    return {name: _row(name, row) for name, row in rows.items()}


def _row(name: str, row: dict[str, object]) -> Model:
    wanted = {item.name for item in fields(Model)} - {"id", "withheld", "instead"}
    if row.keys() != wanted:
        raise ValueError(f"models.{name} in models.toml must have the fields {sorted(wanted)}, got {sorted(row)}")
    if row["words"] not in _words():
        raise ValueError(f"models.{name}.words in models.toml is {row['words']!r}, but must be one of {sorted(_words())}")
    return Model(id=name, **{**row, "sources": parse_sources(row["sources"])})  # type: ignore[arg-type]


def parse_sources(rows: Sequence[str]) -> tuple[Source, ...]:
    """Copies on the hub, each written "id@revision"."""
    return tuple(Source(*row.split("@")) for row in rows)


def find_model(name: str) -> Model:
    """The model called `name`: an id of the table or of an added model, a living hub id, or a folder in Stable Diffusion's layout.

    Raises:
        UserError: code "model", if it is none of these: with the replacement if it is a withdrawn hub id, else listing the ids.
    """
    known = models()
    if name in known:
        return known[name]
    for model in known.values():
        if any(source.repo == name for source in model.sources):
            return model
    added = read_added(models_root())
    if name in added:
        return added_model(added[name])
    folder = Path(name).expanduser()
    if folder.is_dir():
        for model in known.values():  # the shipped folder by its path is still the shipped model, with its words
            if model.path and folder.resolve() == (ENGINE_FOLDER / model.path).resolve():
                return model
        check_parts(folder)
        return _local_model(str(folder), folder.name, folder.resolve())
    refuse_withdrawn(name)
    if name.endswith(".safetensors") and folder.is_file():
        fix = f'Bring it into the models folder first: python -m engine models add "{folder}"'
        raise UserError(f"{folder.name} is a single file, and a job needs the folder of a model.", fix, "model")
    raise UserError(
        f"model is {name[:120]!r}, but must be one of {', '.join([*known, *added])} or a folder with a Stable Diffusion model.",
        f"Use --model {next(iter(known))}, which ships with the program.",
        "model",
    )


def refuse_withdrawn(name: str) -> None:
    """Raise UserError, code "withdrawn", with the replacement, if `name` is a hub id that its owner removed."""
    withdrawn: dict[str, dict[str, str]] = table()["withdrawn"]  # type: ignore[assignment]
    if name in withdrawn:
        use = models()[withdrawn[name]["use"]]
        text = f"{name} was withdrawn from the hub by its owner in {withdrawn[name]['when']}."
        raise UserError(text, f"Use {use.id} instead: {use.title}, from a living copy.", "withdrawn")


def added_model(record: Record) -> Model:
    """A folder that was added to the models folder's list, as a row of the table."""
    return _local_model(record.id, record.title, Path(record.folder))


def _local_model(name: str, title: str, folder: Path) -> Model:
    # A folder that brings a vocabulary was trained as Toybox is, by its script: it speaks Toybox's words and no others.
    vocabulary = folder / "vocabulary.json"
    is_toy = vocabulary.is_file()
    return Model(
        id=name, title=title, kind=kind_of(folder), path=str(folder), sources=(), gated=False, licence="unknown",
        download_mb=0, vram_gb=0.0 if is_toy else 8.0, resolution_px=64 if is_toy else 512, prediction_type="epsilon",
        words="toybox" if is_toy else "photo", vocabulary=str(vocabulary) if is_toy else "", note="A local folder.",
    )  # fmt: skip


def model_folder(model: Stored) -> Path:
    """Where the model's (or helper's) parts lie on this machine: shipped, added, in the models folder, or in the hub's cache.

    Raises:
        UserError: code "model", with how to get it, if it is nowhere.
    """
    if model.path:
        folder = ENGINE_FOLDER / model.path  # an absolute path stays as it is
        if not folder.is_dir():
            is_shipped = not Path(model.path).is_absolute()
            fix = "Install the program again." if is_shipped else f"Put it back, or run: python -m engine models remove {model.id}"
            raise UserError(f"The folder {folder} of model {model.id} is missing.", fix, "model")
        check_parts(folder)
        return folder
    cached = [snapshot for source in model.sources if (snapshot := _cached(source.repo))]
    for folder in [models_root() / model.id, *cached]:
        if has_parts(folder, model.parts):
            return folder
    refuse_withheld(model)
    how = "with --model PATH" if isinstance(model, Model) else "in the place of its name"
    raise UserError(
        f"Model {model.id} ({model.title}, {model.download_mb / 1000:.1f} GB, license {model.licence}) is not on this machine.",
        f"Run: python -m engine models download {model.id}, or give a folder {how}.",
        "model",
    )


def refuse_withheld(model: Stored) -> None:
    """Raise UserError, code "withheld", if no copy of the model may be fetched: why, and what to use instead."""
    if model.withheld:
        raise UserError(f"{model.title} ({model.id}) cannot be fetched. {model.withheld}", model.instead, "withheld")


def is_installed(model: Stored) -> bool:
    """Whether `model_folder` finds it."""
    try:
        model_folder(model)
    except UserError:
        return False
    return True


def free_prompt_models() -> list[str]:
    """Ids of the models that make a picture of any prompt."""
    return [model.id for model in models().values() if model.takes_free_prompts and not FAMILIES[model.kind].method]


def _cached(repo: str) -> Path | None:
    """Newest snapshot of a hub id in the hub's cache, None if it was never fetched. Never goes online."""
    try:
        constants = importlib.import_module("huggingface_hub.constants")
    except ImportError:
        return None
    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "snapshots"
    folders = sorted((path for path in snapshots.glob("*") if path.is_dir()), key=lambda path: path.stat().st_mtime)
    return folders[-1] if folders else None
