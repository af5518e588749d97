"""The training engine. This package file imports nothing, so that Blender can import `engine.protocol` without torch."""
