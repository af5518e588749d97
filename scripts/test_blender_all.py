"""`make test-blender-all`: the Blender tests on every Blender that is supported, each as the bpy module in its own environment.

    python scripts/test_blender_all.py                  all of them
    python scripts/test_blender_all.py 4.2 5.2          these
    python scripts/test_blender_all.py 4.2 -- -k quads  the rest goes to pytest

Environments are .venv-bpy42 and so on in the checkout, made when missing (about 1 GB each); none has torch: the engine's Python is
DREAMFUSION_TEST_ENGINE_PYTHON, else .venv/bin/python. A Blender whose Python is not installed is left out with a word, and exit code 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Blender to its newest wheel and the Python that the wheel is for.
BLENDERS = {"4.2": ("4.2.23", "3.11"), "4.5": ("4.5.15", "3.11"), "5.0": ("5.0.1", "3.11"), "5.2": ("5.2.3", "3.13")}
# What the tests themselves import, at the versions of requirements/dev.txt.
TEST_PACKAGES = ("pytest", "hypothesis", "psutil")


@dataclass(frozen=True)
class Outcome:
    blender: str
    passed: bool
    words: str
    seconds: float


def program_in(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_python(version: str) -> str | None:
    """An installed Python of this version: on the PATH, by Windows' launcher, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [
        [f"python{version}"],
        ["python3"],
        ["py", f"-{version}"],
        *([str(path)] for path in pyenv.glob(f"{version}.*/bin/python")),
    ]
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        code = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2], sep='|')"
        done = subprocess.run([*command, "-c", code], capture_output=True, text=True, check=False)
        program, _, found = done.stdout.strip().partition("|")
        if done.returncode == 0 and found == version:
            return program
    return None


def ensure_environment(blender: str) -> Path:
    """The Python of this Blender's environment, made if it is missing or of another version. Raises: RuntimeError, CalledProcessError."""
    wheel, version = BLENDERS[blender]
    environment = ROOT / f".venv-bpy{blender.replace('.', '')}"
    program = program_in(environment)
    if program.exists() and _has_wheel(program, wheel):
        return program
    python = find_python(version)
    if python is None:
        raise RuntimeError(f"Python {version} is not installed")
    subprocess.run([python, "-m", "venv", str(environment)], check=True)
    pins = [line.split(";")[0].strip() for line in (ROOT / "requirements" / "dev.txt").read_text().splitlines()]
    packages = [pin for pin in pins if re.split(r"[=<>]", pin)[0] in TEST_PACKAGES]
    install = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"bpy=={wheel}", "numpy", *packages], check=True)
    return program


def _has_wheel(program: Path, wheel: str) -> bool:
    code = "from importlib.metadata import version; print(version('bpy'), version('pytest'))"
    return subprocess.run([str(program), "-c", code], capture_output=True, text=True, check=False).stdout.startswith(f"{wheel} ")


def run_tests(blender: str, arguments: list[str]) -> Outcome:
    begun = time.monotonic()
    try:
        program = ensure_environment(blender)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        return Outcome(blender, False, f"left out: {error}", time.monotonic() - begun)
    engine = os.environ.get("DREAMFUSION_TEST_ENGINE_PYTHON") or str(program_in(ROOT / ".venv"))
    environment = {**os.environ, "DREAMFUSION_TEST_ENGINE_PYTHON": engine, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    command = [str(program), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/blender", *arguments]
    begun = time.monotonic()
    last = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return Outcome(blender, process.returncode == 0, last, time.monotonic() - begun)


def main() -> int:
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    blenders, arguments = sys.argv[1:end] or list(BLENDERS), sys.argv[end + 1 :]
    strange = [name for name in blenders if name not in BLENDERS]
    if strange:
        print(f"There is no Blender {', '.join(strange)} here; supported: {', '.join(BLENDERS)}.", file=sys.stderr)
        return 2
    outcomes = []
    for blender in blenders:
        print(f"\nBlender {blender} (bpy {BLENDERS[blender][0]} on Python {BLENDERS[blender][1]})", flush=True)
        outcomes.append(run_tests(blender, arguments))
    print("\nBlender  result")
    for outcome in outcomes:
        print(f"{outcome.blender:8} {'passed' if outcome.passed else 'FAILED'} in {outcome.seconds:.0f} s: {outcome.words}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
