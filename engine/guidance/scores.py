"""What a denoiser says to several prompts about one noisy picture, and one weighted sum of it.

A score is named by the role of its prompt: "text" is what the render shall be, "empty" no prompt at all, "negative" what it
shall not be, "flawed" the text with the faults that distilled renders have. SDS, CSD, NFSD, SDS-Bridge, ISM and VSD differ in
the weights of these and of the noise, and in nothing else; `combine` is that sum.

Shapes: B images, C h w latents, K prompts to keep away from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.scene.view_prompts import PromptEmbeds, Role

ROLES: tuple[Role, ...] = ("text", "empty", "negative", "flawed")
# Below this squared length a direction is rounding noise and has no perpendicular.
MIN_SQUARED_LENGTH = 1e-12


class Score(NamedTuple):
    """Epsilon and x0 for one prompt, [B, C, h, w] float32 each."""

    noise: Tensor
    clean: Tensor


@dataclass(frozen=True)
class ScoreWeights:
    """How much of each prediction goes into a direction: a number, or [B] float32 where it depends on the noise level.

    They sum to 0 where a denoiser that says the same to every prompt shall not move the render.
    """

    text: float
    empty: float | Tensor = 0.0
    negative: float | Tensor = 0.0
    flawed: float = 0.0
    noise: float = 0.0

    def roles(self) -> tuple[Role, ...]:
        """The roles that the denoiser must be asked for; never reads a tensor's values."""
        return tuple(role for role in ROLES if isinstance(getattr(self, role), Tensor) or getattr(self, role) != 0)


@torch.no_grad()
def predict_scores(denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, prompt: PromptEmbeds, roles: Sequence[Role]) -> dict[Role, Score]:
    """The scores of `roles` in one call of the U-Net, "text" with Perp-Neg where `prompt` says what to keep away from.

    Two roles that share one embedding cost one evaluation: without a negative prompt "negative" is "empty".

    Args:
        noisy: [B, C, h, w] float32.
        timesteps: [B] int64.
        roles: "text" first. With another role after it Perp-Neg takes that as its base; alone it cannot be used.
    Raises:
        ValueError: if the prompt was not embedded for one of the roles.
    """
    embeds = {role: prompt.of(role) for role in roles}
    distinct: list[Tensor] = []
    for embed in embeds.values():
        if not any(embed is other for other in distinct):
            distinct.append(embed)
    n_distinct = len(distinct)
    if prompt.against is not None and len(roles) > 1:
        distinct += prompt.against.unbind(dim=1)
    n = len(distinct)
    noise, clean = denoiser.predict(noisy.repeat(n, 1, 1, 1), timesteps.repeat(n), torch.cat(distinct))
    found = [Score(*pair) for pair in zip(noise.chunk(n), clean.chunk(n))]
    place = {role: next(i for i, other in enumerate(distinct) if embed is other) for role, embed in embeds.items()}
    scores = {role: found[i] for role, i in place.items()}
    if prompt.against_weights is not None and len(roles) > 1:
        text, base, others = scores["text"], scores[roles[1]], found[n_distinct:]
        scores["text"] = Score(
            perp_neg(text.noise, base.noise, [other.noise for other in others], prompt.against_weights),
            perp_neg(text.clean, base.clean, [other.clean for other in others], prompt.against_weights),
        )
    return scores


def perp_neg(text: Tensor, base: Tensor, others: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The text's prediction, kept away from other prompts by what in them is perpendicular to it. Perp-Neg (2304.04968).

    text + sum_k w_k (d_k - (<d_k, d> / <d, d>) d), d = text - base, d_k = others_k - base, w_k <= 0. Guided with any scale s
    from `base`, it is the paper's base + s [d + sum_k w_k d_k_perpendicular]. What others share with the text is left alone.

    Args:
        text, base, others: [B, C, h, w], of one kind: all epsilon or all x0.
        weights: [B, K].
    """
    direction = text - base
    squared_length = direction.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=MIN_SQUARED_LENGTH)
    result = text
    for other, weight in zip(others, weights.unbind(dim=1)):
        along = ((other - base) * direction).sum(dim=(1, 2, 3), keepdim=True) / squared_length
        result = result + weight.view(-1, 1, 1, 1) * (other - base - along * direction)
    return result


def combine(scores: Mapping[Role, Score], weights: ScoreWeights, noise: Tensor) -> Tensor:
    """sum over roles of weight * epsilon + weights.noise * noise, [B, C, h, w].

    Written as a chain of differences, last + s_1 (first - second) + ..., s_k the sum of the first k weights: the form of
    classifier-free guidance. Weights near a hundred times nearly equal predictions would otherwise cancel each other's digits.

    Args:
        scores: of `weights.roles()`.
        noise: [B, C, h, w], what is subtracted: the drawn noise, or what stands for it.
    """
    epsilons = [(scores[role].noise, _column(getattr(weights, role))) for role in ROLES if role in scores]
    total = sum((weight for _, weight in epsilons), start=0.0)
    direction = total * epsilons[-1][0]
    so_far: float | Tensor = 0.0
    for (epsilon, weight), (following, _) in zip(epsilons, epsilons[1:]):
        so_far = so_far + weight
        direction = direction + so_far * (epsilon - following)
    return direction + weights.noise * noise


def _column(weight: float | Tensor) -> float | Tensor:
    return weight.view(-1, 1, 1, 1) if isinstance(weight, Tensor) else weight
