"""Texts in lines that a label shows whole: by how wide Blender's letters are, not by how many there are."""

from __future__ import annotations

import functools
import textwrap

# Widths as shares of a middling letter's, of the font that Blender ships.
_WIDTHS = {**dict.fromkeys(" .,:;'|!iIjl()[]/", 0.6), **dict.fromkeys("frt", 0.7), **dict.fromkeys("mwMW@%", 1.6)}
# A line of so many ordinary letters, of which some are narrow, is about so wide.
_SHARE = 0.87


def text_width(text: str) -> float:
    """In middling letters."""
    return sum(_WIDTHS.get(letter, 1.0) for letter in text)


@functools.lru_cache(maxsize=512)
def wrapped(text: str, n_chars: int) -> tuple[str, ...]:
    """Lines of at most `n_chars` letters, fewer where they are wide; at least one line."""
    for width in range(n_chars, n_chars // 2, -1):
        lines = textwrap.wrap(text, width) or [""]
        if all(text_width(line) <= _SHARE * n_chars for line in lines):
            break
    return tuple(lines)
