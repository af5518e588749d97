"""`make test-gui`: the tests that need a real Blender window, in every one that can be had (see real_window.py).

    python scripts/run_gui_tests.py                 fetch what is missing and can be fetched, then test
    python scripts/run_gui_tests.py --minutes 12    the same in at most so much time
    python scripts/run_gui_tests.py -- -k generate  the rest goes to pytest

Exit code 0 if all passed, and also where no window can be had: the reason is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.real_window import places

ROOT = Path(__file__).resolve().parent.parent
# A run takes a little over two minutes where nothing else works; with less than this it might be cut off and pass for a failure.
SHORTEST_RUN_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="at most so much time, fetching included")
    parser.add_argument("arguments", nargs="*", help="for pytest, after --")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    found, reasons = places(fetch_until=end)
    print("\n".join([*(f"Window: {place.name}" for place in found), *(f"No window: {reason}" for reason in reasons)]), flush=True)
    if not found:
        print("The window tests were left out.")
        return 0
    codes = []
    for place in found:
        left_s = end - time.monotonic()
        if left_s < SHORTEST_RUN_S:
            print(f"The window tests in {place.name} were left out: the time is up.")
            continue
        codes.append(run_tests(place.name, options.arguments, left_s))
    return max(codes, default=0)


def run_tests(place: str, arguments: list[str], limit_s: float) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "tests/gui", *arguments]
    try:
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "DREAMFUSION_WINDOW": place}, check=False, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        print(f"The window tests in {place} did not end within {limit_s / 60:.0f} minutes.")
        return 1


if __name__ == "__main__":
    sys.exit(main())
