"""What runs inside Blender: bpy, numpy and the standard library. Torch lives in the engine's own process, never here.

Rooms: `core` knows no bpy (engine process, job state, result folder); `bl` builds data-blocks; `ui` is operators, panels and the pump.
"""


def register() -> None:
    # Imported here, not above: so the package can be imported without Blender (core, tests, pytest's collection).
    from .ui import addon

    addon.register()


def unregister() -> None:
    from .ui import addon

    addon.unregister()
