"""Noise-Free Score Distillation (2310.17590)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.guidance.score_distillation import ScoreDistillation
from engine.guidance.scores import ScoreWeights

# Below this noise level the denoiser's residual is taken as the way back to the set of pictures: t < 200 of 1000 in the paper.
LITTLE_NOISE = 0.2


@dataclass(frozen=True, kw_only=True)
class NFSD(ScoreDistillation):
    r"""g = w(t) [s (eps_text - eps_empty) + d], d = eps_empty at little noise, eps_empty - eps_neg above.

    Instead of the drawn noise it takes away what the denoiser itself predicts as noise for bad pictures, so that s may be as
    low as in sampling. Without a negative prompt d is 0 above LITTLE_NOISE.
    """

    guidance_scale: float = 7.5

    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        much = (noise_levels >= LITTLE_NOISE).to(dtype=torch.float32)  # [B]
        return ScoreWeights(text=self.guidance_scale, empty=1 - self.guidance_scale, negative=-much)
