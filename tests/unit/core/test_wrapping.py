"""Lines that fit: lengths as real windows of Blender 4.3 and 5.2 showed them at the sidebar's default width."""

import pytest

from blender_dreamfusion.core.wrapping import text_width, wrapped

KILLED = "The engine was killed by the system, most likely because memory ran out. Close other programs and continue the job."


def test_a_line_of_wide_letters_is_shorter():
    """Blender 4.3 cut this one: "system, most likely because mem..."."""
    assert "system, most likely because memory" not in wrapped(KILLED, 35)
    assert "continue the job in the history, or" in wrapped("continue the job in the history, or generate again", 35)


def test_what_just_fits_stays_on_one_line():
    assert wrapped("No graphics card that torch can use", 35) == ("No graphics card that torch can use",)


@pytest.mark.parametrize("text", [KILLED, "m" * 200, "/home/artist/" + "folder/" * 20, "", " a \n b "])
def test_no_word_is_lost_and_no_line_is_too_long(text):
    lines = wrapped(text, 35)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert len(lines) >= 1 and all(len(line) <= 35 and text_width(line) <= 31 for line in lines)
