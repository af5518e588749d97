"""The language of Toybox: which words it knows, and how a prompt about a prop is worded.

Grammar: "<prompt>[, unlit | , clay][, <view> view]", with the views of `engine.scene.view_weights`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.toybox.appearance import COLORS, MATERIALS, PATTERNS
from engine.toybox.prop import Kind

COLORED = ("a {c} {n}", "a {c} {n}", "a {c} {n}", "{c} {n}", "a {n}, {c}", "the {c} {n}", "{n} in {c}")
PLAIN = ("a {n}", "a {n}", "{n}", "the {n}")
STRIPED = ("a {c} striped {n}", "a striped {c} {n}", "a {n} with {c} stripes")


@dataclass(frozen=True)
class Subject:
    """What a picture shows: the words of its prompt and what they mean."""

    prompt: str
    color: str | None
    pattern: str  # one of PATTERNS

    @property
    def pattern_index(self) -> int:
        return PATTERNS.index(self.pattern)

    @property
    def look(self) -> str:
        """The colour word, else the material that brings its own colour, else "natural"."""
        return self.color or (self.pattern if self.pattern in MATERIALS else "natural")

    @property
    def tint(self) -> tuple[float, float, float] | None:
        """sRGB colour of the tinted parts, None for natural colours."""
        if self.color is not None:
            return COLORS[self.color]
        return MATERIALS.get(self.pattern)


def article(phrase: str) -> str:
    """'a apple' -> 'an apple'."""
    words = phrase.split(" ")
    for i in range(len(words) - 1):
        if words[i] == "a" and words[i + 1][0] in "aeiou":
            words[i] = "an"
    return " ".join(words)


def draw_subject(kind: Kind, rng: random.Random) -> Subject:
    """A random wording of this kind with a colour (most often), a material, or neither."""
    noun = kind.noun if not kind.synonyms or rng.random() < 0.7 else rng.choice(kind.synonyms)
    roll = rng.random()
    if roll < 0.22:
        return Subject(article(rng.choice(PLAIN).format(n=noun)), None, "plain")
    color = rng.choice(list(COLORS))
    if roll < 0.40 and kind.materials:
        material = rng.choice(kind.materials)
        if material == "striped":
            return Subject(article(rng.choice(STRIPED).format(c=color, n=noun)), color, "striped")
        word = "stone" if material == "stone" else material
        return Subject(article(rng.choice(("a {c} {n}", "{c} {n}")).format(c=word, n=noun)), None, material)
    return Subject(article(rng.choice(COLORED).format(c=color, n=noun)), color, "plain")


def full_prompt(prompt: str, shading_words: str, view: str | None) -> str:
    """Prompt, then how it is shaded, then from where it is seen."""
    parts = [prompt, *([shading_words] if shading_words else []), *([f"{view} view"] if view else [])]
    return ", ".join(parts)


def vocabulary(kinds: dict[str, Kind]) -> dict[str, object]:
    """What Toybox knows, as the product's vocabulary file stores it."""
    return {
        "nouns": {kind.noun: list(kind.synonyms) for kind in kinds.values()},
        "colors": list(COLORS),
        "materials": list(MATERIALS),
        "patterns": ["striped"],
    }
