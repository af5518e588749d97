"""SDS-Bridge (2406.09417): SDS first, then from what the render looks like to what the prompt says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from engine.guidance.score_distillation import ScoreDistillation
from engine.guidance.scores import ScoreWeights


@dataclass(frozen=True, kw_only=True)
class SDSBridge(ScoreDistillation):
    r"""g = w(t) {(1 - b) (eps_hat - eps) + b s (eps_text - eps_flawed)}, eps_hat as in SDS.

    SDS takes the render for a sample of the empty prompt's distribution and so moves it too far. The flawed prompt, the text
    with the faults that distilled renders have, describes the render better. b is `bridge`: 0 is SDS, 1 the bridge alone.
    """

    guidance_scale: float = 100.0
    bridge: float = 1.0
    """How much of the direction is the bridge's, 0 is SDS. 0..1."""

    def weights(self, noise_levels: Tensor) -> ScoreWeights:
        s, b = self.guidance_scale, self.bridge
        return ScoreWeights(text=s, negative=(1 - b) * (1 - s), flawed=-b * s, noise=b - 1)
