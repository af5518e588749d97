import bpy

settings = bpy.context.scene.dreamfusion

settings.preset = "DRAFT"
settings.options.clear()
