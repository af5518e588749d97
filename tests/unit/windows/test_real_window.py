"""Finding a Blender with a window: which one is taken, and the sentence where there is none."""

import struct
import time
from pathlib import Path

import pytest

from scripts import real_window
from scripts.real_window import NoWindowError, Place, own_place, places, read_screen


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with just these programs on it."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BLENDER", raising=False)
    monkeypatch.setenv("DREAMFUSION_WINDOWS", str(tmp_path / "fetched"))
    return make


def test_blender_on_the_path_is_taken_when_a_screen_can_be_had(programs):
    folder = programs("blender", "Xvfb", "xdotool")
    assert own_place() == Place("own", str(folder / "blender"))
    assert places() == ([own_place()], []), "and nothing else is looked for"


def test_blender_named_in_the_environment_goes_first(programs, monkeypatch):
    folder = programs("blender", "Xvfb", "xdotool", "blender-5.2")
    monkeypatch.setenv("BLENDER", str(folder / "blender-5.2"))
    assert own_place().blender == str(folder / "blender-5.2")


@pytest.mark.parametrize(
    ("there", "named", "words"),
    [
        (("Xvfb", "xdotool"), "", "no blender on the PATH"),
        (("blender", "Xvfb"), "", "xdotool is missing. Install the packages"),
        (("blender",), "", "Xvfb and xdotool is missing"),
        (("blender", "Xvfb", "xdotool"), "/nowhere/blender", "BLENDER names /nowhere/blender, which cannot be run"),
    ],
)
def test_what_is_missing_is_said(programs, monkeypatch, there, named, words):
    programs(*there)
    if named:
        monkeypatch.setenv("BLENDER", named)
    with pytest.raises(NoWindowError, match=words):
        own_place()
    found, reasons = places()
    assert (
        found == [] and words in reasons[0] and any("is not fetched. Run: python scripts/real_window.py fetch" in text for text in reasons)
    )


def test_nothing_is_fetched_where_it_cannot_work(programs, monkeypatch, tmp_path):
    monkeypatch.setattr(real_window.os, "geteuid", lambda: 1000)
    programs()
    found, reasons = places(fetch_until=time.monotonic() + 60.0)
    assert found == [] and "needs Linux and root" in " ".join(reasons)
    assert not (tmp_path / "fetched").exists()


def test_a_failing_download_is_a_reason_and_not_an_end(programs, monkeypatch):
    """The tools are there and fail, as they do without a network."""
    programs("debootstrap").joinpath("debootstrap").write_text("#!/bin/sh\necho E: Failed getting release file; exit 1\n")
    monkeypatch.setattr(real_window, "_check_rights", lambda: None)
    monkeypatch.setattr(real_window, "_debian_mirror", lambda: "http://127.0.0.1:9/debian")
    found, reasons = places(fetch_until=time.monotonic() + 60.0)
    assert found == [] and "could not be fetched (debootstrap; E: Failed getting release file)" in " ".join(reasons)


def test_a_screens_dump_becomes_rows_of_pixels(tmp_path):
    """X's window dump: a header of 25 numbers and a name, colours of 12 bytes, rows that are longer than their pixels."""
    width, height, line_bytes, n_colours, name = 3, 2, 16, 4, b"screen\0\0"
    header = [0] * 25
    header[0], header[4], header[5], header[12], header[19] = 100 + len(name), width, height, line_bytes, n_colours
    rows = [bytes([number] * 12) + b"rest" for number in (1, 2)]
    (tmp_path / "Xvfb_screen0").write_bytes(struct.pack(">25I", *header) + name + bytes(12 * n_colours) + b"".join(rows))
    assert read_screen(tmp_path) == (3, 2, bytes([1] * 12 + [2] * 12))


def test_a_command_in_this_machines_own_place_gets_its_environment():
    command = Place("own", "blender").command(["blender", "-b"], [Path("/a b")], {"DISPLAY": ":7"})
    assert command[0] == "env" and command[-2:] == ["blender", "-b"] and "DISPLAY=:7" in command and "LIBGL_ALWAYS_SOFTWARE=1" in command


def test_a_fetched_place_is_entered_with_its_folders(tmp_path):
    command = Place("sid", "blender", tmp_path).command(["blender"], [Path("/a b")], {})
    assert command[0] == "unshare" and command[command.index("--") - 1] == "/a b" and command[-1] == "blender"


def test_the_machines_python_is_reached_from_inside(tmp_path):
    program = Place("sid", "blender", tmp_path / "root").reachable_python(Path("/opt/a b/python"), tmp_path)
    assert '/host "/opt/a b/python" "$@"' in program.read_text() and program.stat().st_mode & 0o111
    assert Place("own", "blender").reachable_python(Path("/opt/python"), tmp_path) == Path("/opt/python")
