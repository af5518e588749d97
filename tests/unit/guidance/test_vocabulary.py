"""What a model with a vocabulary makes of a prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.guidance.vocabulary import KnownPrompt, Vocabulary, check_prompt, load_vocabulary

DATA = {
    "nouns": {
        "mug": ["coffee mug"],
        "ice cream cone": ["ice cream"],
        "torch": [],
        "knife": [],
        "berry": [],
        "glass": [],
        "cream": [],
        "hat": [],
        "flower pot": [],
    },
    "colors": ["red", "light blue", "blue"],
    "materials": ["wooden", "stone"],
    "patterns": ["striped"],
}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    (tmp_path / "vocabulary.json").write_text(json.dumps(DATA))
    return load_vocabulary(tmp_path / "vocabulary.json")


@pytest.mark.parametrize(
    ("prompt", "nouns", "colors", "rest"),
    [
        ("a red mug", ["mug"], ["red"], []),
        ("A Red MUG!", ["mug"], ["red"], []),
        ("coffee mug, red", ["mug"], ["red"], []),
        ("ice cream cones", ["ice cream cone"], [], []),
        ("an ice cream in light blue", ["ice cream cone"], ["light blue"], []),
        ("wooden torches", ["torch"], [], ["wooden"]),
        ("striped knives and berries", ["knife", "berry"], [], ["striped"]),
        ("a glass", ["glass"], [], []),
        ("a red mug with a dragon", ["mug"], ["red"], ["dragon"]),
        ("mug mug mug", ["mug"], [], []),
    ],
)
def test_prompts_are_understood(vocabulary: Vocabulary, prompt: str, nouns: list[str], colors: list[str], rest: list[str]) -> None:
    known = check_prompt(prompt, vocabulary, [])
    assert list(known.nouns) == nouns and list(known.colors) == colors
    assert [*known.materials, *known.patterns, *known.unknown] == rest


def test_every_word_lands_in_its_own_list(vocabulary: Vocabulary) -> None:
    assert check_prompt("a striped red stone hat for grandma", vocabulary, []) == KnownPrompt(
        ("hat",), ("red",), ("stone",), ("striped",), ("for", "grandma")
    )


def test_an_unknown_thing_lists_the_props_and_the_models_that_take_it(vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError) as caught:
        check_prompt("a red dragon", vocabulary, ["sd21-base", "sd15"])
    assert caught.value.code == "prompt"
    assert str(caught.value) == (
        "The model knows nothing in 'a red dragon'. It knows berry, cream, flower pot, glass, hat, ice cream cone, knife, mug, torch. "
        "Name one of these. For free prompts use --model sd21-base or --model sd15."
    )


def test_a_misspelt_prop_is_guessed(vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError, match="Did you mean torch?"):
        check_prompt("a toorch", vocabulary, [])


@pytest.mark.parametrize("prompt", ["", "   ", "🍔🍔", "\n\n", "the of", "!" * 50, "red striped"])
def test_prompts_without_a_thing_are_refused(vocabulary: Vocabulary, prompt: str) -> None:
    with pytest.raises(UserError, match="It knows berry"):
        check_prompt(prompt, vocabulary, [])


def test_a_very_long_prompt_is_shown_in_part(vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError) as caught:
        check_prompt("dragon " * 1500, vocabulary, [])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["{", "[]", '{"nouns": ["mug"]}', "{}"])
def test_a_broken_vocabulary_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "vocabulary.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        load_vocabulary(tmp_path / "vocabulary.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_vocabulary(tmp_path / "missing.json")
