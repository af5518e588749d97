"""All kinds of props, by noun. A new kind is one function and one line in its file's KINDS."""

from __future__ import annotations

from engine.toybox.prop import Kind
from engine.toybox.props import food, garden, home, kitchen, tools, vehicles

KINDS: dict[str, Kind] = {
    kind.noun: kind for kind in (*kitchen.KINDS, *home.KINDS, *vehicles.KINDS, *food.KINDS, *garden.KINDS, *tools.KINDS)
}
