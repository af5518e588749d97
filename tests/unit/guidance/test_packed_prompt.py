"""Embeddings changed all at once: what is an embedding changes, what is not stays, what was one object stays one."""

from __future__ import annotations

import torch

from engine.guidance.packed_prompt import map_embeds
from engine.scene.view_prompts import PromptEmbeds


def test_embeddings_change_and_nothing_else() -> None:
    text, negative, against, cameras = torch.ones(2, 3, 5), torch.zeros(2, 3, 5), torch.ones(2, 4, 3, 5), torch.ones(2, 4, 4)
    weights = torch.ones(2, 4)
    rich = PromptEmbeds(text, negative, empty=negative, against=against, against_weights=weights, camera_to_world=cameras)
    prompt = map_embeds(rich, lambda value: value + 1)
    assert prompt.against is not None and prompt.against_weights is weights
    assert (prompt.text == 2).all() and (prompt.negative == 1).all() and (prompt.against == 2).all()
    assert prompt.empty is prompt.negative and prompt.camera_to_world is cameras


def test_another_text_takes_the_place_of_the_changed_one() -> None:
    other = torch.full((2, 6, 5), 7.0)
    prompt = map_embeds(PromptEmbeds(torch.ones(2, 1, 5), torch.ones(2, 1, 5)), lambda value: value.new_zeros(2, 6, 5), text=other)
    assert prompt.text is other and prompt.negative.shape == (2, 6, 5) and (prompt.negative == 0).all()
