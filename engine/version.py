"""The engine's version. The same number stands in pyproject.toml and blender_manifest.toml; a test holds them together."""

ENGINE_VERSION = "0.1.0"
