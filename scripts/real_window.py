"""A real Blender with a window: the one of this machine, or one fetched from Debian's packages.

    python scripts/real_window.py list                  which ones there are, and why not
    python scripts/real_window.py fetch                 fetch those that can be had (needs root on Debian, about 1 GB and 3 minutes each)
    python scripts/real_window.py run NAME COMMAND ...  run a command beside the Blender called NAME, on a virtual screen

This machine's own is used when Xvfb and xdotool are installed too: the Blender that BLENDER names, or `blender` on the PATH.
A fetched one lives in a folder with a small Debian of its own, under DREAMFUSION_WINDOWS (else ~/.cache/dreamfusion-windows).
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Debian's suites and the Blender that each brings: the oldest of today's that we support, and the newest.
SUITES = {"trixie": "4.3", "sid": "5.2"}
PACKAGES = (
    *("blender", "xvfb", "xdotool", "libgl1-mesa-dri", "libegl1", "procps", "ca-certificates"),
    *("python3-numpy", "python3-requests", "python3-cattr", "python3-zstandard"),
)
FETCH_TIMEOUT_S = 900.0
SCREEN_SIZE = (1280, 900)
# Drawn by the CPU, on one thread: a test must not take a whole machine.
DRAWING = {"LIBGL_ALWAYS_SOFTWARE": "1", "LP_NUM_THREADS": "1", "LANG": "C.UTF-8"}

# In a mount namespace of its own, so that nothing stays mounted: $1 the small system, then folders until "--", then the command.
# The machine's own files are under /host inside, for programs (an engine's Python) that need its libraries.
ENTER = """
set -e
root=$1; shift
for system in /proc /dev; do mount --rbind $system "$root$system"; done
mkdir -p "$root/host"; mount --rbind / "$root/host"
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --bind "$1" "$root$1"; shift; done
shift
exec chroot "$root" "$@"
"""


class NoWindowError(Exception):
    """Why there is none: a sentence with what to do about it."""


@dataclass(frozen=True)
class Place:
    """Where a Blender and a virtual screen are. `root`: the folder with its small system; None: this machine's own."""

    name: str
    blender: str
    root: Path | None = None

    def command(self, arguments: list[str], folders: list[Path], environment: dict[str, str]) -> list[str]:
        """The command line that runs `arguments` in this place, with `folders` at the same paths inside."""
        if self.root is None:
            return ["env", *_assignments({**DRAWING, **environment}), *arguments]
        path = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/games"}
        inside = ["env", "-i", *_assignments({**path, **DRAWING, **environment}), *arguments]
        mounts = [str(folder) for folder in folders]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", str(self.root), *mounts, "--", *inside]

    def reachable_python(self, python: Path, folder: Path) -> Path:
        """A program in `folder` that runs the machine's `python` from inside this place."""
        if self.root is None:
            return python
        program = folder / "machines-python"
        program.write_text(f'#!/bin/sh\nexec /usr/sbin/chroot /host "{python}" "$@"\n')
        program.chmod(0o755)
        return program

    @contextmanager
    def screen(self, folder: Path) -> Iterator[dict[str, str]]:
        """A virtual screen while it lasts; gives the environment that leads to it. The server finds a free number by itself.

        What the screen shows is at every moment in `folder`/Xvfb_screen0 (X's own window dump; see `read_screen`).
        """
        size = "{}x{}x24".format(*SCREEN_SIZE)
        arguments = ["Xvfb", "-displayfd", "1", "-screen", "0", size, "-fbdir", str(folder), "+extension", "GLX", "-nolisten", "tcp"]
        command = self.command(arguments, [folder], {})
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout is not None
                number = server.stdout.readline().strip()
                if not number:
                    raise NoWindowError(f"{self.name}: Xvfb did not start. Try it by hand: Xvfb :99")
                yield {"DISPLAY": f":{number}"}
            finally:
                server.terminate()


def _assignments(environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def read_screen(folder: Path) -> tuple[int, int, bytes]:
    """Width, height and pixels (BGRX, rows from the top) of the virtual screen whose dump is in `folder`."""
    dump = (folder / "Xvfb_screen0").read_bytes()
    header = struct.unpack(">25I", dump[:100])
    header_bytes, width, height, line_bytes, n_colours = header[0], header[4], header[5], header[12], header[19]
    start = header_bytes + 12 * n_colours
    rows = (dump[start + row * line_bytes : start + row * line_bytes + 4 * width] for row in range(height))
    return width, height, b"".join(rows)


def fetched_folder() -> Path:
    return Path(os.environ.get("DREAMFUSION_WINDOWS") or Path.home() / ".cache" / "dreamfusion-windows")


def own_place() -> Place:
    """This machine's own Blender. Raises: NoWindowError."""
    blender = os.environ.get("BLENDER") or shutil.which("blender")
    if not blender:
        raise NoWindowError("There is no blender on the PATH. Install one, or name it in BLENDER.")
    if not shutil.which(blender):
        raise NoWindowError(f"BLENDER names {blender}, which cannot be run. Correct it, or unset it.")
    missing = [name for name in ("Xvfb", "xdotool") if not shutil.which(name)]
    if missing:
        raise NoWindowError(f"{' and '.join(missing)} is missing. Install the packages xvfb and xdotool.")
    return Place("own", blender)


def fetched_place(suite: str) -> Place:
    """A Blender fetched earlier. Raises: NoWindowError."""
    root = fetched_folder() / suite
    if not (root / ".ready").exists():
        raise NoWindowError(f"Blender {SUITES[suite]} of Debian {suite} is not fetched. Run: python scripts/real_window.py fetch")
    _check_rights()
    return Place(suite, "blender", root)


def _check_rights() -> None:
    """Raises: NoWindowError where folders cannot be mounted and changed into."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoWindowError("A fetched Blender needs Linux and root. Or install blender, xvfb and xdotool.")
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoWindowError(f"This machine does not let root mount folders ({done.stderr.strip()}). Or install blender, xvfb and xdotool.")


def places(fetch_until: float = 0.0) -> tuple[list[Place], list[str]]:
    """Every Blender with a window that can be had, and the reasons against the others. This machine's own is enough.

    `fetch_until`: until this time.monotonic() missing ones are fetched; 0: none is.
    """
    reasons = []
    try:
        return [own_place()], []
    except NoWindowError as reason:
        reasons.append(str(reason))
    found = []
    for suite in SUITES:
        try:
            if fetch_until:
                fetch(suite, fetch_until)
            found.append(fetched_place(suite))
        except NoWindowError as reason:
            reasons.append(str(reason))
    return found, list(dict.fromkeys(reasons))


def fetch(suite: str, end: float) -> None:
    """Make the small system with Blender in it, if it is not there yet, before the time.monotonic() `end`. Raises: NoWindowError."""
    root = fetched_folder() / suite
    if (root / ".ready").exists():
        return
    _check_rights()
    mirror = _debian_mirror()
    if shutil.which("debootstrap") is None:
        _run(["apt-get", "update", "-q"], end)
        _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "debootstrap"], end)
    if root.exists():
        shutil.rmtree(root)  # half of an earlier try; nothing is mounted in it, see ENTER
    root.mkdir(parents=True)
    print(f"Fetching Blender {SUITES[suite]} of Debian {suite} into {root} (about 1 GB) ...", flush=True)
    _run(["debootstrap", "--variant=minbase", suite, str(root), mirror], end)
    _copy_network_settings(root)
    place, quiet = Place(suite, "blender", root), {"DEBIAN_FRONTEND": "noninteractive"}
    _run(place.command(["apt-get", "update", "-q"], [], quiet), end)
    _run(place.command(["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES], [], quiet), end)
    (root / ".ready").touch()


def _debian_mirror() -> str:
    """The mirror that this machine itself uses. Raises: NoWindowError on anything but Debian."""
    try:
        is_debian = "\nID=debian\n" in "\n" + Path("/etc/os-release").read_text()
    except OSError:
        is_debian = False
    if not is_debian:
        raise NoWindowError("A Blender can be fetched on Debian only. Install blender, xvfb and xdotool.")
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in path.read_text().splitlines() if path.exists() else []:
            words = [word for word in line.split() if not word.startswith("[")]
            if len(words) > 1 and words[0] in {"URIs:", "deb"}:
                return words[1]
    raise NoWindowError("No Debian mirror is named in /etc/apt. Install blender, xvfb and xdotool.")


def _copy_network_settings(root: Path) -> None:
    """How this machine reaches its mirror: names, certificates, apt's own settings for the way there."""
    for path in (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt")):
        if path.exists():
            (root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.relative_to("/"))
    for path in Path("/etc/apt/apt.conf.d").glob("*"):
        if "Acquire::" in path.read_text(errors="replace"):
            shutil.copy(path, root / "etc/apt/apt.conf.d")


def _run(command: list[str], end: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise NoWindowError("A Blender could not be fetched in the time there was. Give it more, or a faster network.") from error
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise NoWindowError(f"A Blender could not be fetched ({'; '.join([command[0], *last])}). Install blender, xvfb and xdotool.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("list", "fetch", "run"))
    parser.add_argument("name", nargs="?", help="own, trixie or sid")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    found, reasons = places(time.monotonic() + FETCH_TIMEOUT_S if options.verb == "fetch" else 0.0)
    if options.verb != "run":
        print("\n".join([f"{place.name}: {place.root or place.blender}" for place in found] + reasons))
        return 0 if found else 1
    place = next((place for place in found if place.name == options.name), None)
    if place is None:
        print("\n".join([f"There is no Blender called {options.name}.", *reasons]), file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, place.screen(Path(folder)) as screen:
        here = Path.cwd()
        command = place.command(options.arguments, [here], {**screen, "HOME": str(here)})
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
