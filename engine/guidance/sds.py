"""Score Distillation Sampling. DreamFusion (2209.14988), eq. 3."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.guidance.score_distillation import ScoreDistillation
from engine.guidance.scores import ScoreWeights


@dataclass(frozen=True, kw_only=True)
class SDS(ScoreDistillation):
    r"""g = w(t) (eps_hat - eps), eps_hat = eps_neg + s (eps_text - eps_neg).

    The gradient is what the denoiser finds in the noisy render beyond the noise that was put in: the way to a likelier
    picture. With w = "x0" it is the gradient of |z - x0_hat|^2 / 2.
    """

    guidance_scale: float = 100.0

    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        s = self.guidance_scale
        return ScoreWeights(text=s, negative=1 - s, noise=-1)
