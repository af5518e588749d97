"""Whether a job gives its model what it asks for: a picture, or views in groups. No torch here."""

from __future__ import annotations

from engine.config import JobConfig
from engine.errors import UserError
from engine.guidance.families import FAMILIES
from engine.guidance.model_table import Model
from engine.protocol import JobRequest
from engine.schedule import scheduled


def check_fit(model: Model, request: JobRequest, config: JobConfig) -> None:
    """Raise UserError, code "option" or "image", with the setting that mends it."""
    family = FAMILIES[model.kind]
    if family.needs_picture and not request.reference_image:
        text = f"{model.title} makes an object from a picture, and none was given."
        raise UserError(text, "Give one with --image, or use a model that follows words.", "image")
    wanted = family.views_per_sample
    if wanted == 1:
        return
    if config.camera.views_per_group != wanted:
        text = f"{model.title} looks at {wanted} views of one object at once, but camera.placement is {config.camera.placement}."
        raise UserError(text, f"Use --preset {family.title.lower()}, or --camera.placement four-view.", "option")
    n_steps = config.training.n_steps
    for step in range(0, n_steps, max(1, n_steps // 1000)):
        n_views = round(scheduled(config.training.batch_size, step, n_steps))
        if n_views % wanted or n_views == 0:
            text = f"At step {step} training.batch-size is {n_views}, but {model.title} takes views in groups of {wanted}."
            raise UserError(text, f"Use --training.batch-size {wanted}.", "option")
