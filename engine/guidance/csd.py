"""Classifier Score Distillation (2310.19415)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.guidance.score_distillation import NoiseLevelWeight, ScoreDistillation
from engine.guidance.scores import ScoreWeights


@dataclass(frozen=True, kw_only=True)
class CSD(ScoreDistillation):
    r"""g = w(t) [s (eps_text - eps_empty) + n (eps_empty - eps_neg)]: only what the prompt says beyond no prompt, no drawn noise.

    The implicit classifier p(prompt | picture) is climbed, not the density: nothing holds a render on the set of pictures,
    so it needs noise levels and regularisers that do. `negative_scale` 0 asks no negative prompt; with 1 and s = 1 the
    negative prompt has taken the place of the empty one.
    """

    guidance_scale: float = 1.0
    timestep_weight: NoiseLevelWeight = "uniform"
    negative_scale: float = 0.0
    """Strength n of the negative prompt. 0..1000."""

    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        s, n = self.guidance_scale, self.negative_scale
        return ScoreWeights(text=s, empty=n - s, negative=-n)
