"""No bpy in here: the engine process, the state of a job, the result folder. Tested with plain pytest."""
