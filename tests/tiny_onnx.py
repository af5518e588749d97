"""Networks as .onnx files, written byte by byte: the package onnx is no requirement.

A file is a protobuf message; each field is its number and kind, then a whole number or a length and bytes. Field numbers are those of
onnx.proto (ModelProto and what it holds).
"""

from __future__ import annotations

import struct
from pathlib import Path

FLOAT = 1


def whole(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def part(field: int, *bodies: bytes | str) -> bytes:
    body = b"".join(each.encode() if isinstance(each, str) else each for each in bodies)
    return _number(field << 3 | 2) + _number(len(body)) + body


def _number(value: int) -> bytes:
    """A whole number, seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def node(kind: str, takes: list[str], gives: str) -> bytes:
    return part(1, *(part(1, name) for name in takes), part(2, gives), part(4, kind))


def values(name: str, shape: list[int], numbers: list[float]) -> bytes:
    dims = b"".join(whole(1, side) for side in shape)
    return part(5, dims, whole(2, FLOAT), part(8, name), part(9, struct.pack(f"<{len(numbers)}f", *numbers)))


def port(field: int, name: str, shape: list[int | str]) -> bytes:
    """An input (field 11) or output (12) of floats; a name in the place of a side leaves it open."""
    sides = [part(1, part(2, side)) if isinstance(side, str) else part(1, whole(1, side)) for side in shape]
    return part(field, part(1, name), part(2, part(1, whole(1, FLOAT), part(2, *sides))))


def color_finder(
    path: Path,
    weights: tuple[float, float, float],
    bias: float,
    *,
    side: int | str = 320,
    n_masks: int = 1,
    logits: bool = False,
    n_inputs: int = 1,
) -> Path:
    """A network whose mask is sigmoid(weights . color + bias) of each pixel of [1, 3, side, side]; `logits`: without the sigmoid."""
    names = ["picture", *(f"input {k}" for k in range(2, n_inputs + 1))]
    nodes = [node("Conv", ["picture", "weights", "bias"], "logits" if not logits else "mask")]
    nodes += [] if logits else [node("Sigmoid", ["logits"], "mask")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        whole(1, 8)
        + part(8, whole(2, 13))
        + part(
            7,
            *nodes,
            part(2, "color finder"),
            values("weights", [n_masks, 3, 1, 1], [*weights] * n_masks),
            values("bias", [n_masks], [bias] * n_masks),
            *(port(11, name, [1, 3, side, side]) for name in names),
            port(12, "mask", [1, n_masks, side, side]),
        )
    )
    return path
