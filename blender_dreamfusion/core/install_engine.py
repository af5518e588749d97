"""Makes the engine's environment. Runs as a program of its own in the base Python, and uses the standard library only:

    python -I install_engine.py install '{"folder": ..., "build": "cpu", ...}'     the plan as core/setup_plan.py writes it
    python -I install_engine.py check   '{"launcher": ".../launch_engine.py", "is_ours": false}'     does this Python run the engine?

Prints JSON lines (see core/task_process.py); everything else, pip's words above all, goes to stderr, which is the log file.
The folder holds a marker with the finished phases, so that a set-up that was broken off goes on where it stopped, and only a folder
with that marker is ever changed or deleted. pip's cache lies in it: what was downloaded once is not downloaded again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

MARKER = "dreamfusion_engine.json"
WHAT = "environment of the DreamFusion engine"
VENV, CACHE, TEMPORARY = "venv", "cache", "tmp"
MIN_PYTHON, BEYOND_PYTHON = (3, 11), (3, 14)
# Loading torch for the first time, on a cold disk and under a virus scanner.
DOCTOR_TIMEOUT_S = 600.0
# How the network or a store of wheels is reached is the machine's affair; all else of pip's settings would make every install another one.
KEPT_PIP_VARIABLES = ("PIP_CERT", "PIP_PROXY", "PIP_RETRIES", "PIP_DEFAULT_TIMEOUT", "PIP_FIND_LINKS")
WATCH = "--end-with-stdin"
# Rows of {signs, text, fix}: what a program's output contains in lower case, and what that means to the user. The first that fits counts.
FAILURES = Path(__file__).with_name("install_failures.json")


class SetupError(Exception):
    """A sentence and the fix."""

    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.text, self.fix = text, fix


def say(kind: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"type": kind, **fields}) + "\n")
    sys.stdout.flush()


def log(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    command, plan = arguments[0], json.loads(arguments[1])
    if WATCH in arguments:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        check_python(sys.version_info[:2])
        verdict = install(plan) if command == "install" else examine(Path(sys.executable), plan)
    except SetupError as error:
        say("failed", text=error.text, fix=error.fix)
        return 1
    except OSError as error:
        text, fix = os_error_words(error)
        say("failed", text=text, fix=fix)
        return 1
    say("done", **verdict)
    return 0


def check_python(version: tuple[int, ...]) -> None:
    if not MIN_PYTHON <= version < BEYOND_PYTHON:
        text = f"{sys.executable} is Python {'.'.join(map(str, version))}, but the engine needs 3.11, 3.12 or 3.13."
        raise SetupError(text, "Choose another Python.")


def install(plan: dict) -> dict:
    """Do every phase that is not done yet. Returns the fields of the last line."""
    folder = Path(plan["folder"])
    state = prepare_folder(folder, float(plan["disk_mb"]))
    if plan.get("repair"):
        state["phases"] = {}
    python = venv_python(folder)
    phases = (
        ("venv", [sys.version, sys.prefix, plan["build"]], lambda: make_venv(folder)),
        ("pip", [plan["pip"]], lambda: get_pip(python, plan)),
        ("torch", [plan["torch"]], lambda: pip_install(python, "torch", [plan["torch"]], plan, "torch")),
        (
            "packages",
            [Path(plan["requirements"]).read_text(encoding="utf-8")],
            lambda: pip_install(python, "packages", ["--requirement", plan["requirements"]], plan, "package"),
        ),
    )
    # A phase is done again when what it was made from has changed, and with it all that come after.
    kept: dict[str, str] = {}
    for i, (name, inputs, work) in enumerate(phases):
        key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]
        if len(kept) == i and state["phases"].get(name) == key:
            log(f"--- {name}: done before")
            kept[name] = key
            continue
        log(f"--- {name}")
        # Forgotten before the work begins: a new environment that is broken off must not pass for the old one with torch in it.
        state["phases"] = {done: state["phases"][done] for done, _, _ in phases[:i]}
        write_state(folder, state)
        work()
        state["phases"][name] = key
        write_state(folder, state)
    say("progress", phase="check", text="Checking the engine")
    log("--- check")
    verdict = examine(python, {**plan, "is_ours": True})
    state.update({"is_complete": True, "build": plan["build"], "base_python": sys.executable})
    write_state(folder, state)
    shutil.rmtree(folder / TEMPORARY, ignore_errors=True)
    return verdict


def prepare_folder(folder: Path, disk_mb: float) -> dict:
    """The folder with our marker in it; returns what the marker says. Raises: SetupError, OSError."""
    if folder.exists() and not folder.is_dir():
        raise SetupError(f"{folder} is a file.", "Choose a folder for the engine.")
    state = read_state(folder)
    if state is None:
        if folder.is_dir() and any(folder.iterdir()):
            text = f"The folder {folder} is not empty, and it is no engine's."
            raise SetupError(text, f"Choose an empty one, for example {folder / 'dreamfusion'}.")
        folder.mkdir(parents=True, exist_ok=True)
        state = {"what": WHAT, "phases": {}}
    shutil.rmtree(folder / TEMPORARY, ignore_errors=True)  # what a set-up that was broken off left there
    needed_mb = disk_mb if "torch" not in state["phases"] else 0.0
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < needed_mb:
        text = f"The set-up needs {needed_mb / 1000:.1f} GB, but {folder} has {free_mb / 1000:.1f} GB free."
        raise SetupError(text, "Make room, or choose a folder on another disk.")
    state["is_complete"] = False
    write_state(folder, state)
    (folder / TEMPORARY).mkdir(exist_ok=True)
    return state


def read_state(folder: Path) -> dict | None:
    """What our marker in the folder says; None without one. A marker that was torn by a crash still is one."""
    try:
        text = (folder / MARKER).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    try:
        state = json.loads(text)
    except ValueError:
        state = None
    if not isinstance(state, dict) or not isinstance(state.get("phases"), dict):
        return {"what": WHAT, "phases": {}}
    return state


def write_state(folder: Path, state: dict) -> None:
    partial = folder / (MARKER + ".partial")
    partial.write_text(json.dumps(state, indent=2), encoding="utf-8")
    partial.replace(folder / MARKER)


def venv_python(folder: Path) -> Path:
    return folder / VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make_venv(folder: Path) -> None:
    say("progress", phase="venv", text="Making the environment")
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{sys.executable} lacks {' and '.join(missing)}, so it cannot make an environment."
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(text, f"Choose another Python, or install the system's package python{version}-venv.")
    if (folder / VENV).exists():
        shutil.rmtree(folder / VENV)
    code, lines = run_logged([sys.executable, "-I", "-m", "venv", str(folder / VENV)], folder)
    if code != 0:
        raise words_for(lines, f"{sys.executable} could not make an environment", "Choose another Python.")


def get_pip(python: Path, plan: dict) -> None:
    """A pip that shows its progress and goes on with a broken download; that of older Pythons does neither."""
    say("progress", phase="pip", text="Preparing pip")
    code, lines = run_logged([str(python), "-I", "-m", "pip", "--version"], Path(plan["folder"]))
    if code != 0:
        raise words_for(lines, "pip does not work in the new environment", "Click Repair, or choose another Python.")
    if plan["pip"]:
        pip_install(python, "pip", [plan["pip"]], plan, "package")


def pip_install(python: Path, phase: str, what: list[str], plan: dict, source: str) -> None:
    """Install `what` from the plan's `torch` or `package` index, saying how far it is. Raises: SetupError."""
    folder, index = Path(plan["folder"]), plan[f"{source}_index"]
    # A folder of wheels takes the place of an index, for machines without network.
    where = ["--no-index", "--find-links", index] if index.startswith("file:") else ["--index-url", index] if index else []
    remove_torn_packages(python)
    command = [str(python), "-I", "-m", "pip", "install", *what, *where, "--only-binary", ":all:", "--no-input", *bar_arguments(python)]
    progress = PipProgress(phase, float(plan.get(f"{phase}_mb", 0.0)), site_packages(python))
    code, lines = run_logged(command, folder, progress.take)
    progress.stop()
    if code != 0:
        server = index.split("/")[2] if "//" in index else ""
        raise words_for(lines, f"pip could not install {'torch' if phase == 'torch' else 'the packages'}", "Set up again to go on.", server)


def bar_arguments(python: Path) -> list[str]:
    """What this pip understands: "Progress 100 of 200" lines, and going on with a download that broke off."""
    script = "import pip; print(*pip.__version__.split('.')[:2])"
    words = subprocess.run([str(python), "-I", "-c", script], capture_output=True, text=True, check=False).stdout.split()
    version = tuple(int(word) for word in words if word.isdigit())
    return (["--progress-bar", "raw"] if version >= (24, 1) else []) + (["--resume-retries", "10"] if version >= (25, 1) else [])


def site_packages(python: Path) -> Path:
    root = python.parents[1]
    return root / "Lib/site-packages" if sys.platform == "win32" else next(iter(root.glob("lib/python*/site-packages")), root)


def remove_torn_packages(python: Path) -> None:
    """Forget packages whose installation was broken off: pip writes RECORD last, but believes in a package without one."""
    for info in site_packages(python).glob("*.dist-info"):
        if not (info / "RECORD").exists():
            log(f"{info.name} was broken off and is installed again")
            shutil.rmtree(info)


class PipProgress:
    """pip's lines as progress: megabytes while it downloads, packages while it installs."""

    def __init__(self, phase: str, expected_mb: float, packages: Path) -> None:
        self._phase, self._expected_mb, self._packages = phase, expected_mb, packages
        self._before_mb = self._file_mb = 0.0
        self._text = "Asking the index"
        self._stopped = threading.Event()
        say("progress", phase=phase, text=self._text)

    def take(self, line: str) -> bool:
        """Whether the line belongs into the log."""
        words = line.split()
        if len(words) == 4 and words[0] == "Progress" and words[2] == "of":
            self._downloading(float(words[1]) / 1e6)
            return False
        if line.lstrip().startswith(("Downloading ", "Using cached ")) and "(" in line and ".metadata" not in line:
            self._before_mb += self._file_mb
            self._file_mb = megabytes(line.rpartition("(")[2].rstrip(")"))
            self._text = f"Downloading {package_of(words[-3])}"
            self._downloading(self._file_mb if line.lstrip().startswith("Using") else 0.0)
        elif line.startswith("Collecting "):
            self._text = f"Asking for {words[1]}"
            self._downloading(self._file_mb)
        elif line.startswith("Installing collected packages:"):
            n_packages = line.count(",") + 1
            threading.Thread(target=self._count_installed, args=(n_packages, self._n_installed()), daemon=True).start()
        return True

    def stop(self) -> None:
        self._stopped.set()

    def _downloading(self, done_mb: float) -> None:
        expected_mb = max(self._expected_mb, self._before_mb + self._file_mb)
        say("progress", phase=self._phase, done=self._before_mb + done_mb, of=expected_mb, unit="MB", text=self._text)

    def _n_installed(self) -> int:
        return sum(1 for _ in self._packages.glob("*.dist-info/RECORD"))

    def _count_installed(self, n_packages: int, n_before: int) -> None:
        """pip is silent while it unpacks; the finished packages on the disk are counted instead."""
        while True:
            done = max(0, self._n_installed() - n_before)
            say("progress", phase=self._phase, done=done, of=n_packages, unit="packages", text="Installing")
            if self._stopped.wait(0.5):
                return


def megabytes(size: str) -> float:
    """ "526.6 MB", "12 kB" or "1.2 GB" in MB; 0 for what is no size."""
    factors = {"B": 1e-6, "kB": 1e-3, "KB": 1e-3, "MB": 1.0, "GB": 1e3}
    number, _, unit = size.strip().partition(" ")
    try:
        return float(number) * factors[unit]
    except (ValueError, KeyError):
        return 0.0


def package_of(file: str) -> str:
    """ "https://host/torch-2.13.0-cp311-....whl" is "torch 2.13.0"."""
    return " ".join(file.rpartition("/")[2].split("-")[:2])


def run_logged(command: list[str], folder: Path, take: Callable[[str], bool] = lambda _line: True) -> tuple[int, list[str]]:
    """Run a program; its lines go to the log (unless `take` says no) and the last of them come back with the exit code."""
    log("$ " + subprocess.list2cmdline(command))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(folder), cwd=folder
    )
    lines: list[str] = []
    assert process.stdout is not None
    for raw in process.stdout:
        line = raw.decode("utf-8", errors="replace").rstrip()
        if take(line):
            log(line)
            lines = [*lines[-200:], line]
    return process.wait(), lines


def environment(folder: Path) -> dict[str, str]:
    """Ours, without what would lead pip elsewhere; its cache and its temporary files lie in the folder, on the disk that has the room."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("PIP_") or name in KEPT_PIP_VARIABLES}
    temporary = str(folder / TEMPORARY)
    return {
        **kept,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CACHE_DIR": str(folder / CACHE),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "TMPDIR": temporary,
        "TEMP": temporary,
        "TMP": temporary,
        "PYTHONUTF8": "1",
    }


def words_for(lines: list[str], what: str, fix: str, server: str = "") -> SetupError:
    """The sentence for a program that failed: by what it said, else its own last words. `server` is where it went, if that is known."""
    output = "\n".join(lines).lower()
    for failure in json.loads(FAILURES.read_text(encoding="utf-8")):
        if any(sign in output for sign in failure["signs"]):
            return SetupError(failure["text"].replace("The download server", f"The download server {server}".rstrip()), failure["fix"])
    spoken = [line for line in lines if line.strip()]
    last = ([line for line in spoken if line.startswith("ERROR")] or spoken or [""])[-1].removeprefix("ERROR: ")[:200].rstrip(".")
    return SetupError(f"{what}: {last}." if last else f"{what}.", f"{fix} The log has the details.")


def os_error_words(error: OSError) -> tuple[str, str]:
    found = words_for([str(error)], f"The set-up was stopped by the system ({error.strerror or error})", "Set up again to go on.")
    if isinstance(error, PermissionError) or "read-only" in found.text or found.text == "The engine's folder cannot be written.":
        return f"The folder {error.filename} cannot be written.", "Choose another folder for the engine."
    return found.text, found.fix


def examine(python: Path, plan: dict) -> dict:
    """Ask the engine's own doctor in that Python. Returns the fields of the last line. Raises: SetupError."""
    command = [str(python), "-I", plan["launcher"], "doctor", "--json"]
    log("$ " + subprocess.list2cmdline(command))
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DOCTOR_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupError("The engine did not answer within ten minutes.", "Restart the computer and try again.") from error
    output = done.stdout.decode("utf-8", errors="replace")
    log(output + done.stderr.decode("utf-8", errors="replace"))
    is_ours = bool(plan.get("is_ours"))
    fix = "Click Repair." if is_ours else "Choose a Python that has the engine's packages, or set up the engine here."
    try:
        findings = json.loads(output)
        by_name = {finding["name"]: finding for finding in findings}
    except (ValueError, TypeError, KeyError) as error:
        lines = done.stderr.decode("utf-8", errors="replace").splitlines()
        raise words_for(lines, "The engine does not start in this Python", fix) from error
    missing = [finding for finding in findings if finding["state"] == "missing"]
    if missing:
        names = ", ".join(finding["name"] for finding in missing[:4]) + (" and more" if len(missing) > 4 else "")
        raise SetupError(f"{python} cannot run the engine: {names} missing.", fix)
    return {"text": doctor_sentence(by_name, str(plan.get("build", ""))), "result": {"python": str(python), "findings": findings}}


def doctor_sentence(by_name: dict, build: str) -> str:
    """ "Ready: Python 3.11.7, torch 2.13.0, NVIDIA RTX 4070." """
    gpus = [finding["text"].partition(",")[0] for name, finding in by_name.items() if name.startswith("GPU") and finding["state"] == "ok"]
    python = by_name.get("Python", {}).get("text", "").partition(" ")[0]
    torch = by_name.get("torch", {}).get("text", "")
    sentence = f"Ready: Python {python}, torch {torch}, {', '.join(gpus) or 'on the CPU'}."
    if build in {"cuda", "cuda_legacy", "rocm"} and not gpus:
        sentence += " torch does not see the graphics card: update its driver, or choose another build."
    return sentence


def _end_with_stdin() -> None:
    """Blender holds the other end: when it is gone, so are we and all that we started."""
    sys.stdin.buffer.read()
    log("Blender has ended; the set-up stops and can go on later.")
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], capture_output=True, check=False)
    elif os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
