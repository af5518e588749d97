"""Names that depend on where the extension is installed. Never written as literals: the package is bl_ext.<repository>.<id>."""

from pathlib import Path

# The package that Blender enabled: two levels above this one. In a plain checkout there is none.
ADDON_PACKAGE = (__package__ or "").rpartition(".")[0].rpartition(".")[0]
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
TAB = "DreamFusion"
