"""Whether Generate can run, what to do where it cannot, and what a job will cost. Reads cached state only."""

from typing import Any, NamedTuple

import bpy

from ..core.engine_options import engine_options, fault
from ..core.estimates import cost_texts
from ..core.model_list import ModelRow
from . import history, models, preferences, setup
from .ids import ADDON_PACKAGE
from .option_panels import changed_options

EXAMPLE = "a red mug"


class Reason(NamedTuple):
    """Why Generate cannot run, and the button that mends it."""

    text: str
    """A few words: "Cannot generate: " and this fit on a button."""
    operator: str = ""
    button: str = ""
    icon: str = "NONE"
    arguments: tuple[tuple[str, Any], ...] = ()
    detail: str = ""
    """A sentence beneath the button where the few words do not say enough."""


def reason_against(context: bpy.types.Context) -> Reason | None:
    """The first thing that stands in the way; None if a job can start."""
    settings = context.scene.dreamfusion
    if preferences.engine_python(context) is None:
        return Reason(
            "the engine is not set up", "preferences.addon_show", "Set Up in Preferences", "PREFERENCES", (("module", ADDON_PACKAGE),)
        )
    if models.needs_picture(settings.model):
        if settings.reference_image is None and not settings.reference_path:
            return Reason(
                "no picture", detail="This model makes an object from a picture. Choose one in Reference Image, or another model."
            )
    elif not settings.prompt.strip():
        path = "scene.dreamfusion.prompt"
        return Reason("no prompt", "wm.context_set_string", f'Try "{EXAMPLE}"', "LIGHT", (("data_path", path), ("value", EXAMPLE)))
    if missing := models.missing_model(settings.model):
        return _not_here("the model is not here", missing)
    if settings.drawn_start and (missing := models.missing_helper(models.DRAWING)):
        return _not_here("Shap-E is not here", missing)
    for key, text in changed_options(settings).items():
        option = engine_options()[key]
        if wrong := fault(option, text):
            return Reason("a wrong option", "dreamfusion.reset_options", f"Reset {option.label}", "LOOP_BACK", (("key", key),), wrong)
    return None


def _not_here(text: str, row: ModelRow) -> Reason:
    if row.is_downloadable and bpy.app.online_access:
        return Reason(text, "dreamfusion.model_download", f"Download {row.title}", "IMPORT", (("model", row.id),))
    return Reason(text, "dreamfusion.models_page", "Models", "PREFERENCES")


def button_text(settings: bpy.types.PropertyGroup) -> str:
    return "Generate" if settings.n_variations == 1 else f"Generate {settings.n_variations} Variations"


def cost_lines(settings: bpy.types.PropertyGroup) -> tuple[str, ...]:
    """What the quality stands for and what it takes, a line each."""
    records = history.records()
    return cost_texts(
        records,
        settings.preset,
        changed_options(settings),
        model=settings.model,
        vram_gb=models.vram_gb(settings.model),
        device="" if records else setup.device(),  # what ran tells more than what was planned
    )
