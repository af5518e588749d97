"""`make test`: the plain tests, then the Blender tests in a process of their own (bpy must not share one with torch).

Exit code 0 only if both passed. On a Python without a bpy wheel the Blender tests are left out, and that is said.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> int:
    # Threads that wait without spinning: on two cores, spinning workers of several libraries slow each other down tenfold.
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    codes = [run("tests/unit", *sys.argv[1:])]
    if importlib.util.find_spec("bpy") is None:
        print(
            f"No bpy on Python {sys.version_info.major}.{sys.version_info.minor}: the Blender tests were left out. Use Python 3.11 or 3.13."
        )
    else:
        codes.append(run("tests/blender", *sys.argv[1:]))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
