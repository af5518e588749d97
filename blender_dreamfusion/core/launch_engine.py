"""Starts the engine that lies beside this package, in the engine's own Python: `python -I -u launch_engine.py serve`.

-I (isolated) keeps the user's site-packages, PYTHONPATH and the current folder out, so nothing that other programs installed
can break the engine; therefore the extension's folder is put on the path here.
"""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
runpy.run_module("engine", run_name="__main__", alter_sys=True)
