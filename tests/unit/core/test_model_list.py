"""The models as Blender knows them: the shipped table is the engine's, and what comes from outside is read with care."""

from __future__ import annotations

import json
from pathlib import Path

from blender_dreamfusion.core.model_list import (
    TABLE_PATH,
    ModelRow,
    for_text,
    listed_rows,
    models_command,
    progress_text,
    read_cache,
    rows_from,
    shipped_rows,
    write_cache,
)
from engine.guidance.helpers import helpers
from engine.guidance.model_table import Stored, models
from engine.model_store.manage import Row

OF_THIS_MACHINE = {"installed", "origin", "folder", "size_bytes", "partial_bytes", "can_remove"}


def test_the_table_that_ships_is_the_engines() -> None:
    names = [name for name in ModelRow._fields if name not in OF_THIS_MACHINE]
    printed = [printed_row(model) for model in (*models().values(), *helpers().values())]
    table = json.loads(json.dumps([{name: row[name] for name in names if name in row} for row in printed]))
    assert json.loads(TABLE_PATH.read_text()) == table, (
        f"models.toml changed: write this into {TABLE_PATH.name}: {json.dumps(table, indent=1)}"
    )
    assert [row.id for row in shipped_rows() if row.installed] == ["toybox", "toybox-image"]


def printed_row(model: Stored) -> dict[str, object]:
    return Row(model=model, origin="", folder="", size_bytes=0, partial_bytes=0, can_remove=False).to_json()


def test_every_field_of_a_row_is_one_that_the_engine_prints() -> None:
    model, helper = printed_row(next(iter(models().values()))), printed_row(next(iter(helpers().values())))
    assert set(ModelRow._fields) - {"made_for"} <= model.keys()
    assert set(ModelRow._fields) - {"vram_gb", "resolution_px", "vocabulary"} <= helper.keys()


def test_rows_are_kept_between_sessions(tmp_path: Path) -> None:
    rows = (ModelRow(id="sd15", title="Stable Diffusion 1.5", installed=True, size_bytes=2_130_000_000),)
    write_cache(tmp_path / "new" / "models.json", rows)
    found = read_cache(tmp_path / "new" / "models.json")
    assert found[0] == rows[0]
    assert found[1:] == tuple(row for row in shipped_rows() if row.id != "sd15"), "what a newer version knows is there before it is asked"


def test_helpers_come_after_the_models_of_an_answer_that_has_models() -> None:
    body = [{"id": "a", "title": "A"}], [{"id": "b", "title": "B", "is_helper": True, "made_for": ["a", "gone"]}]
    rows = listed_rows({"models": body[0], "helpers": body[1]})
    assert rows == (ModelRow(id="a", title="A"), ModelRow(id="b", title="B", is_helper=True, made_for=("a", "gone")))
    assert for_text(rows[1], rows) == "A, gone" and for_text(rows[0], rows) == "any model"
    assert listed_rows({"helpers": body[1]}) == listed_rows({}) == ()


def test_a_cache_that_cannot_be_read_gives_the_table_that_ships(tmp_path: Path) -> None:
    assert read_cache(tmp_path / "none.json") == shipped_rows()
    for text in ("", "{", "[]", "3", '{"a": 1}', "[null, 3, {}]", '[{"id": "", "title": "x"}]'):
        (tmp_path / "models.json").write_text(text)
        assert read_cache(tmp_path / "models.json") == shipped_rows(), text


def test_strange_values_become_empty_ones() -> None:
    (row,) = rows_from([{"id": "a", "title": "A", "vram_gb": "much", "download_mb": None, "future": 1}])
    assert row == ModelRow(id="a", title="A")
    assert rows_from(None) == ()


def test_states_and_sizes_in_words() -> None:
    row = ModelRow(id="a", title="A", download_mb=2000, vram_gb=8.0)
    assert (row.state_text, row.size_text, row.vram_text) == ("not downloaded", "2.0 GB", "8 GB VRAM")
    assert ModelRow(id="a", title="A", download_mb=2000, partial_bytes=500_000_000).state_text == "25 % downloaded"
    assert ModelRow(id="a", title="A", download_mb=2000, gated=True).state_text == "needs access"
    assert ModelRow(id="a", title="A").state_text == "folder is missing"
    withheld = ModelRow(id="a", title="A", download_mb=2000, withheld="A pickle.")
    assert withheld.state_text == "cannot be fetched" and not withheld.is_downloadable
    here = ModelRow(id="a", title="A", installed=True, origin="added", size_bytes=41_000_000)
    assert (here.state_text, here.size_text, here.vram_text) == ("local folder", "41 MB", "CPU")
    assert progress_text(120e6, 2130e6) == "120 of 2,130 MB" and progress_text(5, 0) == ""


def test_the_command_is_isolated_and_ends_with_blender() -> None:
    command = models_command("/venv/python", Path("/ext"), "download", "sd15")
    assert command[:3] == ["/venv/python", "-I", "-u"] and command[4:] == ["models", "download", "sd15", "--json", "--end-with-stdin"]
