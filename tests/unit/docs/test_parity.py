"""The parity table is held to the code: what it names exists, and it leaves out no option of stable-dreamfusion's."""

import re
from pathlib import Path

import pytest

from engine.config import options

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "parity.md"
COLUMNS = 5
N_THEIR_OPTIONS = 116
# Flags of commands that are no settings.
FLAG = re.compile(r'"(--[a-z][a-z-]+)"')
ELSEWHERE = re.compile(r"see (guidance\.md|models\.md|stages)")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "theirs" and not row[0].startswith("---")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_is_whole(row):
    assert len(row) == COLUMNS and row[1]
    commands = (ROOT / "engine" / "cli_parser.py").read_text(encoding="utf-8")
    known = set(FLAG.findall(commands)) | {option.flag for option in options().values()}
    for word in quoted(row[1]):
        flag = word.split()[0].split("=")[0]
        if flag.startswith("--") and "**missing**" not in row[2]:
            assert flag in known, f"there is no {flag}"
    done = not ELSEWHERE.fullmatch(row[1]) and "**missing**" not in row[1] + row[2]
    assert not done or (quoted(row[2]) and quoted(row[3])), "say where it lives and which test runs it"
    for place in quoted(row[2]):
        assert (ROOT / place).is_file(), f"there is no {place}"
    for test in quoted(row[3]):
        path, _, name = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"there is no {test}"


def test_every_option_of_theirs_has_exactly_one_row():
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## Options") : text.index("## Modes")]
    first = [line.split("|")[1].strip().strip("`") for line in section.splitlines() if line.startswith("| `")]
    assert len(first) == len(set(first)) == N_THEIR_OPTIONS


def test_settings_named_in_the_last_column_exist():
    flags = {option.flag for option in options().values()}
    named = [word.split()[0] for row in ROWS for word in quoted(row[4]) if re.match(r"--[a-z]+\.", word)]
    assert named and [flag for flag in named if flag not in flags] == []
