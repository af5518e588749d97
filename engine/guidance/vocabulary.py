"""What a small model knows, and what it says to a prompt that it does not know. Standard library only."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError

# Words that carry no meaning a model could miss.
FILLER = frozenset(
    "a an the of in on with and by its it's it that is small little big large tiny huge nice simple toy one single made "
    "front side back overhead bottom left right view unlit clay photo picture render 3d model object color colour colored coloured".split()
)


@dataclass(frozen=True)
class Vocabulary:
    """The only words a model was trained on, all lower case.

    Attributes:
        nouns: noun to its synonyms.
        colors, materials, patterns: adjectives.
    """

    nouns: dict[str, tuple[str, ...]]
    colors: tuple[str, ...]
    materials: tuple[str, ...]
    patterns: tuple[str, ...]

    def canonical(self) -> dict[str, str]:
        """Noun or synonym to its noun."""
        names = {synonym: noun for noun, synonyms in self.nouns.items() for synonym in synonyms}
        return {**names, **{noun: noun for noun in self.nouns}}


@dataclass(frozen=True)
class KnownPrompt:
    """A prompt as a model with a vocabulary understands it; words in the order they stand.

    Attributes:
        nouns: canonical nouns, at least one.
        colors, materials, patterns: adjectives that were named.
        unknown: words that mean something but nothing to this model; worth a warning.
    """

    nouns: tuple[str, ...]
    colors: tuple[str, ...]
    materials: tuple[str, ...]
    patterns: tuple[str, ...]
    unknown: tuple[str, ...]


def load_vocabulary(path: Path) -> Vocabulary:
    """Read {"nouns": {noun: [synonym, ...]}, "colors": [...], "materials": [...], "patterns": [...]}.

    Raises:
        UserError: code "model", if the file is missing or has another shape.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        nouns = {str(noun).lower(): tuple(str(word).lower() for word in words) for noun, words in data["nouns"].items()}
        lists = [tuple(str(word).lower() for word in data.get(name, ())) for name in ("colors", "materials", "patterns")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "Install the program again, or choose another --model."
        raise UserError(f"The vocabulary {path} cannot be read.", fix, "model") from error
    return Vocabulary(nouns, lists[0], lists[1], lists[2])


def check_prompt(prompt: str, vocabulary: Vocabulary, free_models: list[str]) -> KnownPrompt:
    """What the prompt names, if it names a thing that the model knows.

    Longer names win ("ice cream cone" before "ice cream"), plurals count as singular.

    Args:
        prompt: the user's text.
        vocabulary: what the model knows.
        free_models: ids of models that take any prompt, for the error's advice.
    Raises:
        UserError: code "prompt", if no known noun is in it: lists the props, the nearest spelling, and the free models.
    """
    canonical = vocabulary.canonical()
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", prompt.lower())
    found: dict[str, list[str]] = {"nouns": [], "colors": [], "materials": [], "patterns": [], "unknown": []}
    tables = {"nouns": canonical}
    for kind in ("colors", "materials", "patterns"):
        tables[kind] = {word: word for word in getattr(vocabulary, kind)}
    longest = max((len(_split(phrase)) for table in tables.values() for phrase in table), default=1)
    i = 0
    while i < len(words):
        kind, meaning, length = _match(words, i, longest, tables)
        if kind == "unknown" and meaning in FILLER:
            kind = ""
        if kind and meaning not in found[kind]:
            found[kind].append(meaning)
        i += length
    if not found["nouns"]:
        raise _unknown_noun(prompt, words, vocabulary, free_models)
    return KnownPrompt(**{name: tuple(part) for name, part in found.items()})


def _match(words: list[str], start: int, longest: int, tables: dict[str, dict[str, str]]) -> tuple[str, str, int]:
    """(kind, canonical word, words used) of the longest known phrase at `start`; kind "unknown" if there is none."""
    for length in range(min(longest, len(words) - start), 0, -1):
        *head, last = words[start : start + length]
        for ending in _singulars(last):
            phrase = " ".join([*head, ending])
            for kind, table in tables.items():
                if phrase in table:
                    return kind, table[phrase], length
    return "unknown", words[start], 1


def _split(phrase: str) -> list[str]:
    return phrase.split(" ")


def _singulars(word: str) -> list[str]:
    """The word, then what it may be the plural of: mugs, torches, berries, knives."""
    forms = [word]
    for plural, singular in (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")):
        if word.endswith(plural) and len(word) > len(plural) + 1:
            forms.append(word.removesuffix(plural) + singular)
    return forms


def _unknown_noun(prompt: str, words: list[str], vocabulary: Vocabulary, free_models: list[str]) -> UserError:
    names = vocabulary.canonical()
    close = [match for word in words if word not in FILLER for match in difflib.get_close_matches(word, names, n=1, cutoff=0.75)]
    hint = f" Did you mean {close[0]}?" if close else ""
    shown = prompt if len(prompt) <= 80 else prompt[:77] + "..."
    free = f" For free prompts use --model {' or --model '.join(free_models)}." if free_models else ""
    return UserError(
        f"The model knows nothing in {shown!r}.{hint} It knows {', '.join(sorted(vocabulary.nouns))}.",
        f"Name one of these.{free}",
        "prompt",
    )
