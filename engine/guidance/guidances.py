"""The table of guidances: adding one is one file and one line here."""

from __future__ import annotations

from engine.guidance.distillation import Guidance
from engine.guidance.image_target import ImageTarget
from engine.guidance.sds import SDS

GUIDANCES: dict[str, type[Guidance]] = {"sds": SDS, "image-target": ImageTarget}
