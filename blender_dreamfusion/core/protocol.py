"""The one door to the engine's messages: `engine.protocol`, found beside this package.

Inside Blender both lie in the extension's package and the import must be relative (an extension must not look at the global
name `engine`); in a checkout with plain pytest both are top-level packages.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING or (__package__ or "").count(".") < 2:
    from engine import protocol as messages
else:
    from ...engine import protocol as messages

__all__ = ("messages",)
