"""Whether a job gives its model what it asks for, a picture or views in groups, and nothing it cannot use. No torch here."""

from __future__ import annotations

from pathlib import Path

from engine.config import JobConfig
from engine.errors import UserError
from engine.guidance.control_folder import check_control_folder
from engine.guidance.families import FAMILIES, Family
from engine.guidance.helpers import helper_folder
from engine.guidance.model_table import Model, find_model, model_folder, models
from engine.protocol import JobRequest


def check_fit(model: Model, request: JobRequest, config: JobConfig) -> None:
    """Raise UserError, code "option" or "image", with the setting that mends it."""
    family = FAMILIES[model.kind]
    _check_method(model, family, config)
    if config.guidance.clip_model:
        _check_clip_beside(config.guidance.clip_model)
    if family.needs_picture and not request.reference_image:
        text = f"{model.title} makes an object from a picture, and none was given."
        raise UserError(text, "Give one with --image, or use a model that follows words.", "image")
    wanted = family.views_per_sample
    if wanted not in (1, config.camera.views_per_group):
        text = f"{model.title} looks at {wanted} views of one object at once, but camera.placement is {config.camera.placement}."
        raise UserError(text, f"Use --preset {model.kind}, or --camera.placement four-view.", "option")
    if config.model.control_net:
        _check_control_net(model, request.stage, config.model.control_net)


def _check_method(model: Model, family: Family, config: JobConfig) -> None:
    method = config.guidance.method
    special = {other.method: kind for kind, other in FAMILIES.items() if other.method}
    if family.method and method != family.method:
        text = f"{family.title} denoises nothing, so guidance.method {method} cannot use it."
        raise UserError(text, f"Use --guidance.method {family.method}, or another --model.", "option")
    if method in special and special[method] != model.kind:
        text = f"guidance.method {method} needs {FAMILIES[special[method]].title}, and {model.title} is a diffusion model."
        wanted = next((other.id for other in models().values() if other.kind == special[method]), "FOLDER")
        raise UserError(text, f"Use --model {wanted}, or another --guidance.method.", "option")
    if family.method and config.output.inspect_every:
        text = f"{family.title} denoises nothing, so output.inspect-every has nothing to show."
        raise UserError(text, "Leave --output.inspect-every out.", "option")


def _check_clip_beside(name: str) -> None:
    model = find_model(name)
    if FAMILIES[model.kind].method != "clip":
        raise UserError(f"guidance.clip-model is {name}, which is no CLIP.", "Use --guidance.clip-model clip-vit-l14.", "model")
    folder = model_folder(model)
    if Path(model.path).is_absolute():  # a folder of the user's, which nobody has looked at yet
        from engine.model_store.layout import check_folder  # it knows the hub, whose package is slow to import

        check_folder(folder)


def _check_control_net(model: Model, stage: str, given: str) -> None:
    if stage == "generate":
        text = "A ControlNet holds the model to a surface that is known, and a new field has none."
        raise UserError(text, "Use it with the stages texture and refine, or leave --control-net out.", "option")
    family = FAMILIES[model.kind]
    if not family.takes_control_net:
        titles = " and ".join(other.title for other in FAMILIES.values() if other.takes_control_net)
        raise UserError(
            f"{family.title} takes no ControlNet, only {titles} do.", "Leave --control-net out, or use another --model.", "option"
        )
    check_control_folder(helper_folder(given, "control-net"))
