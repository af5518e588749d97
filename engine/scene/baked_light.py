"""Whether light and shade are in the colours of a result: who puts the object under lamps wants to know."""

from __future__ import annotations

from typing import Literal

from engine.scene.scene_config import LightConfig
from engine.schedule import scheduled

BakedLight = Literal["no", "some", "yes"]


def baked_light(light: LightConfig, n_steps: int, *, knows_unlit: bool, has_reference: bool) -> BakedLight:
    """What the settings of a run make of light in its texture.

    A step that shows bare colour asks the model for an ordinary picture, and those have shade: the field can only paint it into
    its colours, unless the model was told in words that the picture is unlit. Steps under light pull the other way, since there
    the renderer brings the shade (Poole et al. 2022, section 3.2).

    Args:
        knows_unlit: the model has words for unlit pictures (`Model.shading_words`).
        has_reference: the colours of a picture are copied, with whatever light fell on what it shows.
    Returns "no"; "some": part of the steps were lit; "yes": none was.
    """
    ratios = light.textureless_ratio, light.lambertian_ratio
    shares = [tuple(scheduled(ratio, step, n_steps) for ratio in ratios) for step in range(n_steps)]
    has_bare = any(textureless + lit < 1 - 1e-6 for textureless, lit in shares)
    if has_bare and not knows_unlit:
        return "some" if any(lit > 0 for _, lit in shares) else "yes"
    return "some" if has_reference else "no"
