"""DreamFusion: a prompt becomes a textured mesh. This folder is the extension as it stands; Blender calls the two names below."""

from .blender_dreamfusion import register, unregister

__all__ = ("register", "unregister")
