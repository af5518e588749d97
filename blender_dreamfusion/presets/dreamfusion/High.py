import bpy

settings = bpy.context.scene.dreamfusion

settings.preset = "HIGH"
settings.options.clear()
