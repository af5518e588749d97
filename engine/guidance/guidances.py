"""The table of guidances: adding one is one file and one line here (and its word in `GuidanceConfig.method`)."""

from __future__ import annotations

from engine.guidance.clip import ClipSimilarity
from engine.guidance.csd import CSD
from engine.guidance.distillation import Guidance
from engine.guidance.image_target import ImageTarget
from engine.guidance.ism import ISM
from engine.guidance.nfsd import NFSD
from engine.guidance.sdi import SDI
from engine.guidance.sds import SDS
from engine.guidance.sds_bridge import SDSBridge
from engine.guidance.vsd import VSD

GUIDANCES: dict[str, type[Guidance]] = {
    "image-target": ImageTarget,
    "sds": SDS,
    "csd": CSD,
    "nfsd": NFSD,
    "sds-bridge": SDSBridge,
    "ism": ISM,
    "sdi": SDI,
    "vsd": VSD,
    "clip": ClipSimilarity,
}
