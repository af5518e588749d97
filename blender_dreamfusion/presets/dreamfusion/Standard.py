import bpy

settings = bpy.context.scene.dreamfusion

settings.preset = "STANDARD"
settings.options.clear()
