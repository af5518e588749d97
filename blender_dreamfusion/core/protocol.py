"""The one door to the engine's messages: `engine.protocol`, found beside this package and imported with the first message.

Inside Blender both lie in the extension's package and the import must be relative (an extension must not look at the global
name `engine`); in a checkout with plain pytest both are top-level packages. Its eighteen frozen dataclasses take a quarter of the
time that enabling may take, and a Blender that is only opened sends none.
"""

from typing import TYPE_CHECKING

from .deferred import Deferred

if TYPE_CHECKING:
    from engine import protocol as messages
else:
    messages = Deferred("engine.protocol" if __package__.count(".") < 2 else "...engine.protocol")

__all__ = ("messages",)
