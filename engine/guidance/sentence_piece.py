"""The words of a SentencePiece file (T5's spiece.model), read by us: transformers wants two more packages for it.

It is a protobuf message (sentencepiece_model.proto): 1 pieces, each 1 its text and 2 its score; 3 the normalizer, 2 of it its table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError

PIECES, NORMALIZER = 1, 3
PIECE_TEXT, PIECE_SCORE = 1, 2
NORMALIZER_TABLE = 2
# Wire types of protobuf.
VARINT, EIGHT_BYTES, WITH_LENGTH, FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class SentencePieces:
    """pieces: text and logarithm of its frequency, by id. normalizer: table of replaced letters, b"" for none."""

    pieces: list[tuple[str, float]]
    normalizer: bytes


def read_sentence_pieces(path: Path) -> SentencePieces:
    """Raises UserError, code "model", if the file is none, or is cut off."""
    pieces: list[tuple[str, float]] = []
    normalizer = b""
    try:
        for number, value in _fields(path.read_bytes()):
            if number == PIECES:
                parts = dict(_fields(value))
                pieces.append((parts[PIECE_TEXT].decode(), struct.unpack("<f", parts.get(PIECE_SCORE, bytes(4)))[0]))
            elif number == NORMALIZER:
                normalizer = dict(_fields(value)).get(NORMALIZER_TABLE, b"")
        if not pieces:
            raise ValueError("no pieces")
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise UserError(f"{path} is no SentencePiece file, or is cut off.", "Fetch the model folder again.", "model") from error
    return SentencePieces(pieces, normalizer)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a message; of numbers in bits the bytes are left out. Raises ValueError, IndexError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, length = key & 7, 0
        if kind == VARINT:
            _, at = _varint(message, at)
        elif kind == WITH_LENGTH:
            length, at = _varint(message, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError("cut off")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
