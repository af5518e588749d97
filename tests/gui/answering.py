"""Runs inside Blender (`blender --python answering.py`): does what the test asks, on the main thread, from a timer.

A question is a file `N.ask` with Python in it; what it leaves in `answer` goes into `N.answer` as JSON, an exception as its text.
"""

import json
import os
import traceback
from pathlib import Path

import bpy

FOLDER = Path(os.environ["DREAMFUSION_GUI_FOLDER"])


def tick() -> float:
    for question in sorted(FOLDER.glob("*.ask")):
        names = {"bpy": bpy, "answer": None}
        try:
            exec(question.read_text(encoding="utf-8"), names)
            said = {"answer": names["answer"]}
        except BaseException:  # noqa: BLE001 - whatever it was, the test must hear of it
            said = {"error": traceback.format_exc()}
        question.unlink()
        partial = question.with_suffix(".partial")
        partial.write_text(json.dumps(said, default=str), encoding="utf-8")
        partial.rename(question.with_suffix(".answer"))
    return 0.05


bpy.context.preferences.view.show_splash = False
bpy.app.timers.register(tick, persistent=True)
