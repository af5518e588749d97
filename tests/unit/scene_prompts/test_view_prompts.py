"""View prompts: the texts, the blending and the two modes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.scene.perp_neg_weights import perp_neg_weights
from engine.scene.view_prompts import PromptEmbeds, ViewMode, ViewPrompts, compose_prompt
from engine.scene.view_weights import VIEWS, view_weights

TOYBOX_VIEWS = {view: f"{view} view" for view in VIEWS}
TOYBOX_SHADINGS = {"albedo": "unlit", "textureless": "clay", "lambertian": ""}


class Embedder:
    """Each new text gets the next corner of a simplex, so that weights can be read off the embedding."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls = 0

    def __call__(self, texts: list[str]) -> Tensor:
        self.calls += 1
        self.texts += texts
        return torch.eye(32)[: len(texts), None, :].repeat(1, 2, 1)  # [P, 2, 32]

    def weights(self, embeds: Tensor) -> list[dict[str, float]]:
        return [{text: round(value.item(), 6) for text, value in zip(self.texts, row[0]) if value} for row in embeds]


def make(mode: ViewMode = "interpolated", negative: str = "") -> tuple[ViewPrompts, Embedder]:
    embedder = Embedder()
    return ViewPrompts("a red mug", negative, embedder, view_words=TOYBOX_VIEWS, shading_words=TOYBOX_SHADINGS, mode=mode), embedder


@pytest.mark.parametrize(
    ("shading", "view", "text"),
    [
        ("unlit", "left side view", "a red mug, unlit, left side view"),
        ("clay", "overhead view", "a red mug, clay, overhead view"),
        ("", "front view", "a red mug, front view"),
        ("", "", "a red mug"),
    ],
)
def test_the_grammar_is_toyboxs(shading: str, view: str, text: str) -> None:
    assert compose_prompt(" a red mug ", shading, view) == text


def test_the_grammar_is_the_one_toybox_is_trained_with() -> None:
    toybox = pytest.importorskip("engine.toybox.prompts")
    for shading in ("", "unlit", "clay"):
        for view in VIEWS:
            assert compose_prompt("a red mug", shading, f"{view} view") == toybox.full_prompt("a red mug", shading, view)


def test_a_camera_between_views_gets_both_embeddings_by_angle() -> None:
    prompts, embedder = make()
    got = prompts.embeds(torch.tensor([45.0, -90.0]), torch.tensor([18.0, 0.0]), "albedo")
    assert embedder.weights(got.text) == [
        {"a red mug, unlit, front view": 0.4, "a red mug, unlit, left side view": 0.4, "a red mug, unlit, overhead view": 0.2},
        {"a red mug, unlit, right side view": 1.0},
    ]


def test_blending_is_the_shared_lerp_of_the_views_embeddings() -> None:
    embeds = torch.randn(32, 3, 5, generator=torch.Generator().manual_seed(0))
    prompts = ViewPrompts("x", "", lambda texts: embeds[: len(texts)], view_words=TOYBOX_VIEWS, shading_words={})
    azimuth, elevation = torch.tensor([12.0, 200.0]), torch.tensor([33.0, -70.0])
    wanted = (view_weights(azimuth, elevation)[:, :, None, None] * embeds[None, 1:7]).sum(dim=1)
    torch.testing.assert_close(prompts.embeds(azimuth, elevation).text, wanted)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [(44, 0, "front"), (46, 59, "left side"), (181, -59, "back"), (-100, 0, "right side"), (90, 61, "overhead"), (90, -61, "bottom")],
)
def test_named_mode_takes_the_nearest_view(azimuth: float, elevation: float, view: str) -> None:
    prompts, embedder = make("named")
    got = prompts.embeds(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]))
    assert embedder.weights(got.text) == [{f"a red mug, {view} view": 1.0}]


@pytest.mark.parametrize(
    ("front_deg", "overhead_deg", "azimuth", "elevation", "view"),
    [
        (60, 60, 29, 0, "front"),
        (60, 60, 31, 0, "left side"),
        (60, 60, -149, 0, "right side"),
        (60, 60, -151, 0, "back"),
        (160, 60, 361 + 78, 0, "front"),
        (90, 30, 0, 31, "overhead"),
        (90, 90, 0, 89, "front"),
        (90, 30, 0, -31, "bottom"),
    ],
)
def test_where_the_front_ends_and_overhead_begins_can_be_set(front_deg, overhead_deg, azimuth, elevation, view) -> None:
    embedder = Embedder()
    words = {"front_deg": front_deg, "overhead_deg": overhead_deg}
    prompts = ViewPrompts("a red mug", "", embedder, view_words=TOYBOX_VIEWS, shading_words={}, mode="named", **words)
    got = prompts.embeds(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]))
    assert embedder.weights(got.text) == [{f"a red mug, {view} view": 1.0}]


def test_without_view_words_nothing_is_said_about_the_view() -> None:
    embedder = Embedder()
    prompts = ViewPrompts("a red mug", "", embedder, view_words=dict.fromkeys(VIEWS, ""), shading_words=TOYBOX_SHADINGS)
    got = prompts.embeds(torch.tensor([45.0]), torch.tensor([30.0]), "textureless")
    assert embedder.weights(got.text) == [{"a red mug, clay": pytest.approx(1.0)}]


def test_shadings_without_words_are_asked_for_as_they_are() -> None:
    prompts, embedder = make()
    for shading in ("lambertian", "normal", ""):
        got = prompts.embeds(torch.tensor([0.0]), torch.tensor([0.0]), shading)
        assert embedder.weights(got.text) == [{"a red mug, front view": 1.0}]


def test_the_negative_prompt_is_the_same_for_all_views() -> None:
    prompts, embedder = make(negative=" foggy ")
    got = prompts.embeds(torch.tensor([0.0, 180.0]), torch.zeros(2))
    assert embedder.weights(got.negative) == [{"foggy": 1.0}] * 2


def test_texts_are_embedded_once_each_in_one_call() -> None:
    embedder = Embedder()
    words = {**TOYBOX_VIEWS, "left side": "side view", "right side": "side view"}
    ViewPrompts("a red mug", "", embedder, view_words=words, shading_words={})
    assert embedder.calls == 1
    assert embedder.texts == ["", *(f"a red mug, {view} view" for view in ("front", "side", "back", "overhead", "bottom"))]


def test_missing_view_words_and_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="view_words lacks back, bottom"):
        ViewPrompts("x", "", Embedder(), view_words={v: v for v in VIEWS if not v.startswith("b")}, shading_words={})
    with pytest.raises(ValueError, match="mode must be"):
        make("nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must both be \[B, T, D\]"):
        PromptEmbeds(torch.zeros(1, 2, 3), torch.zeros(2, 2, 3))


def test_a_views_own_text_stands_in_the_place_of_prompt_and_view_words() -> None:
    embedder = Embedder()
    prompts = ViewPrompts(
        "a cat", "", embedder, view_words=TOYBOX_VIEWS, shading_words=TOYBOX_SHADINGS, own_texts={"back": "a cat's tail ", "front": ""}
    )
    got = prompts.embeds(torch.tensor([180.0, 0.0]), torch.zeros(2), "albedo")
    assert embedder.weights(got.text) == [{"a cat's tail, unlit": 1.0}, {"a cat, unlit, front view": 1.0}]


def test_flaws_follow_the_whole_text_and_are_blended_like_it() -> None:
    embedder = Embedder()
    prompts = ViewPrompts("a mug", "", embedder, view_words=TOYBOX_VIEWS, shading_words={}, flaws="foggy, blurry")
    got = prompts.embeds(torch.tensor([45.0]), torch.zeros(1))
    assert got.flawed is not None
    assert embedder.weights(got.flawed) == [{"a mug, front view, foggy, blurry": 0.5, "a mug, left side view, foggy, blurry": 0.5}]
    assert make()[0].embeds(torch.zeros(1), torch.zeros(1)).flawed is None


def test_without_a_negative_prompt_negative_and_empty_are_one() -> None:
    prompts, embedder = make()
    got = prompts.embeds(torch.zeros(2), torch.zeros(2))
    assert got.empty is got.negative and embedder.weights(got.negative) == [{"": 1.0}] * 2
    prompts, embedder = make(negative="foggy")
    got = prompts.embeds(torch.zeros(2), torch.zeros(2))
    assert embedder.weights(got.of("empty")) == [{"": 1.0}] * 2 and embedder.weights(got.negative) == [{"foggy": 1.0}] * 2


def test_perp_neg_keeps_away_from_the_front_and_the_nearer_side() -> None:
    prompts, embedder = make()
    azimuth, elevation = torch.tensor([170.0, -170.0, 10.0]), torch.zeros(3)
    got = prompts.embeds(azimuth, elevation, "textureless", perp_neg=1.5)
    assert got.against is not None and got.against_weights is not None
    sides = ["left side", "right side", "left side"]
    assert embedder.weights(got.against[:, 0]) == [{"a red mug, clay, front view": 1.0}] * 3
    assert embedder.weights(got.against[:, 1]) == [{f"a red mug, clay, {side} view": 1.0} for side in sides]
    torch.testing.assert_close(got.against_weights, 1.5 * perp_neg_weights(azimuth, elevation))
    assert prompts.embeds(azimuth, elevation).against is None


def test_contrast_pushes_an_embedding_away_from_the_opposite_sides() -> None:
    prompts, embedder = make()
    got = prompts.embeds(torch.tensor([90.0, 0.0, 30.0]), torch.tensor([0.0, 45.0, 90.0]), contrast=2.0).text
    assert embedder.weights(got) == [
        {"a red mug, left side view": 3.0, "a red mug, right side view": -2.0},
        {"a red mug, front view": 1.5, "a red mug, back view": -1.0, "a red mug, overhead view": 0.5},
        {"a red mug, overhead view": 1.0},
    ]


def test_contrast_says_nothing_where_all_views_share_their_words() -> None:
    prompts = ViewPrompts("a red mug", "", Embedder(), view_words=dict.fromkeys(VIEWS, ""), shading_words={})
    angles = torch.tensor([90.0, 200.0]), torch.tensor([10.0, 60.0])
    torch.testing.assert_close(prompts.embeds(*angles, contrast=3.0).text, prompts.embeds(*angles).text)
