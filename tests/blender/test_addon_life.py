"""Install, enable, disable: what the extension brings into Blender and that it takes all of it away again."""

import dataclasses
import sys
import time
import tomllib
from pathlib import Path

import addon_utils
import bpy

from tests.blender_results import PACKAGE, ROOT

HANDLER_LISTS = [name for name in dir(bpy.app.handlers) if isinstance(getattr(bpy.app.handlers, name), list)]


def footprint() -> dict:
    """Everything of ours that Blender knows."""
    classes = {
        cls.__name__ for kind in bpy.types.bpy_struct.__subclasses__() for cls in descendants(kind) if "dreamfusion" in cls.__module__
    }
    handlers = [f.__module__ for name in HANDLER_LISTS for f in getattr(bpy.app.handlers, name) if "dreamfusion" in str(f.__module__)]
    operators = [name for name in dir(bpy.ops.dreamfusion)]
    return {
        "registered": sorted(name for name in classes if hasattr(bpy.types, name)),
        "handlers": sorted(handlers),
        "operators": operators,
        "scene": hasattr(bpy.types.Scene, "dreamfusion"),
        "window": hasattr(bpy.types.WindowManager, "dreamfusion"),
    }


def descendants(cls: type) -> set[type]:
    return {cls, *(deeper for child in cls.__subclasses__() for deeper in descendants(child))}


def test_enable_disable_enable_leaves_nothing_and_brings_all_back():
    before = footprint()
    assert before["scene"] and before["window"] and len(before["operators"]) > 5 and len(before["handlers"]) >= 7
    addon_utils.disable(PACKAGE)
    assert footprint() == {"registered": [], "handlers": [], "operators": [], "scene": False, "window": False}
    addon_utils.enable(PACKAGE)
    assert footprint() == before


def modules_of_ours() -> list[str]:
    return [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]


def test_enabling_costs_less_than_fifty_milliseconds_and_starts_nothing(addon, monkeypatch):
    """As Blender does at each start: all modules imported, all classes registered."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # Blender keeps compiled modules, whatever this shell says
    ours_only = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_pytest")]
    monkeypatch.setattr(sys, "meta_path", ours_only)  # no Blender has pytest look at each module first
    times = []
    for _ in range(10):
        addon_utils.disable(PACKAGE)
        for name in [PACKAGE, *modules_of_ours()]:
            del sys.modules[name]
        begun = time.thread_time()  # of this thread: a busy machine does not count
        addon_utils.enable(PACKAGE)
        times.append(time.thread_time() - begun)
    assert min(times) < 0.05
    assert addon("ui.runtime").session() is None
    assert not bpy.app.timers.is_registered(addon("ui.runtime")._tick)
    assert f"{PACKAGE}.engine.protocol" not in sys.modules, "the messages are imported with the first of them"
    classes = [cls for name in modules_of_ours() for cls in vars(sys.modules[name]).values() if isinstance(cls, type)]
    frozen = [cls.__name__ for cls in classes if dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen]
    assert frozen == [], "each costs a millisecond at every start of Blender; a NamedTuple is a tenth of it"


def test_neither_torch_nor_the_engine_is_imported_in_blender(addon, result_folder):
    bpy.ops.dreamfusion.import_result(folder=str(result_folder))
    loaded = [name for name in sys.modules if name.startswith(f"{PACKAGE}.engine.")]
    assert set(loaded) <= {f"{PACKAGE}.engine.protocol"}
    assert not {"torch", "diffusers", "transformers"} & set(sys.modules)


def test_it_runs_under_its_extension_name_and_its_preferences_are_reachable(addon):
    assert addon("ui.ids").ADDON_PACKAGE == PACKAGE
    assert bpy.context.preferences.addons[PACKAGE].preferences.engine_python == ""


def test_jobs_are_kept_outside_the_extensions_own_folder(addon):
    jobs = addon("ui.preferences").jobs_folder(bpy.context)
    assert "extensions" not in jobs.parts
    assert not jobs.exists(), "asking must not create it"


def test_installed_version_is_the_manifests_version():
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text())
    installed = Path(sys.modules[PACKAGE].__file__).parent
    assert tomllib.loads((installed / "blender_manifest.toml").read_text())["version"] == manifest["version"]


def test_every_operator_is_documented_and_its_properties_too():
    for name in dir(bpy.ops.dreamfusion):
        kind = getattr(bpy.ops.dreamfusion, name).get_rna_type()
        assert kind.description and not kind.description.endswith("."), name
        for prop in kind.properties:
            if prop.identifier != "rna_type" and not prop.is_hidden:
                assert prop.description and not prop.description.endswith("."), f"{name}: {prop.identifier}"
