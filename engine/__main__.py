"""`python -m engine`."""

import os
import sys

# Idle OpenMP threads sleep instead of spinning: beside Blender (or any other busy process) spinning ones slow every step severalfold.
# Read when torch loads its runtime, so it is set before anything of ours is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from engine.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
