"""Adding, removing, checking and listing models on this machine; nothing here goes online."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import UserError
from engine.guidance.families import load_denoiser
from engine.guidance.model_records import ADDED_NAME, DOWNLOADING_NAME, FileRecord, Record, read_record, write_record
from engine.guidance.model_table import find_model, model_folder
from engine.model_store import manage
from engine.model_store.hashes import record_files
from engine.model_store.layout import part_files
from tests.tiny_mvdream import build_tiny_mvdream
from tests.tiny_zero123 import build_tiny_zero123

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


def refused(match: str, code: str, work, *arguments) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=match) as caught:
        work(*arguments)
    assert caught.value.code == code


def row_of(root: Path, name: str) -> manage.Row:
    return next(row for row in manage.rows(root) if row.model.id == name)


@pytest.fixture
def fetched(root: Path, clean_model: Path) -> Path:
    """sd15 as a download leaves it."""
    folder = Path(shutil.copytree(clean_model, root / "sd15"))
    write_record(folder, Record("sd15", "Stable Diffusion 1.5", "", "a/b@c", record_files(folder, part_files(folder), lambda _step: None)))
    return folder


def test_an_added_folder_is_found_by_its_name_and_stays_where_it_is(root: Path, clean_model: Path) -> None:
    record = manage.add(clean_model, "My Style", root)
    assert record.id == "my-style" and model_folder(find_model("my-style")) == clean_model
    row = row_of(root, "my-style")
    assert (row.origin, row.folder, row.can_remove) == ("added", str(clean_model), True) and row.size_bytes == record.size > 100_000
    assert row.to_json()["installed"] is True and row.to_json()["title"] == "copy"
    assert {file.path for file in record.files} == {path.relative_to(clean_model).as_posix() for path in part_files(clean_model)}
    refused("There is a model called my-style already", "model", manage.add, clean_model, "my-style", root)
    assert "Its folder stays" in manage.remove("my-style", root) and (clean_model / UNET).is_file()
    refused("must be one of", "model", find_model, "my-style")


def test_an_added_folder_that_went_away_is_told_and_can_be_taken_off(root: Path, clean_model: Path) -> None:
    manage.add(clean_model, "mine", root)
    shutil.rmtree(clean_model)
    refused(
        "folder .* of model mine is missing. Put it back, or run: python -m engine models remove mine", "model", manage.check, "mine", root
    )
    assert not row_of(root, "mine").origin and row_of(root, "mine").can_remove
    manage.remove("mine", root)


@pytest.mark.parametrize("name", ["sd15", "toybox", "../evil", "a/b", "", "ü", "x" * 61])
def test_a_name_that_cannot_be_is_refused(root: Path, clean_model: Path, name: str) -> None:
    if name == "":
        assert manage.add(clean_model, name, root).id == "copy", "left out: the folder's own name"
    else:
        refused("There is a model called|cannot be the name of a model", "model", manage.add, clean_model, name, root)


def change(folder: Path, how: str) -> None:
    if how == "pickle":
        for path in (folder / "unet").glob("*.safetensors"):
            path.rename(path.with_suffix(".bin"))
    elif how == "no weights":
        for path in (folder / "vae").glob("*.safetensors"):
            path.unlink()
    elif how == "code":
        (folder / "unet" / "mv_unet.py").write_text("print('owned')")
    elif how == "half a download":
        os.truncate(folder / UNET, (folder / UNET).stat().st_size // 2)
    elif how == "no safetensors":
        (folder / UNET).write_bytes(b"<html>404</html>" * 10)
    elif how == "empty file":
        (folder / UNET).write_bytes(b"")
    elif how == "broken json":
        (folder / "vae" / "config.json").write_text('{"half": ')
    elif how == "part missing":
        shutil.rmtree(folder / "scheduler")
    elif how == "another family":
        config = folder / "unet" / "config.json"
        config.write_text(config.read_text().replace('"addition_embed_type": null', '"addition_embed_type": "image_hint"'))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("pickle", "unet holds its weights as a pickle only, which can run code. Get the model with"),
        ("no weights", "vae holds no .safetensors file"),
        ("code", r"unet holds Python code \(mv_unet.py\), so its weights need code that this program never runs"),
        ("half a download", r"fp16.safetensors is cut off: it has [\d,]+ of [\d,]+ bytes. Fetch it again"),
        ("no safetensors", "is no safetensors file, or its beginning is damaged"),
        ("empty file", "is no safetensors file, or its beginning is damaged"),
        ("broken json", "config.json cannot be read as JSON"),
        ("part missing", "lacks scheduler"),
        ("another family", "which this version cannot use"),
    ],
)
def test_a_folder_that_is_not_whole_or_not_safe_is_refused_with_the_reason(root: Path, clean_model: Path, how: str, says: str) -> None:
    change(clean_model, how)
    refused(says, "model", manage.add, clean_model, "mine", root)
    assert not (root / ADDED_NAME).exists()


@pytest.mark.parametrize(
    ("build", "published"), [(build_tiny_mvdream, "unet/mv_unet.py"), (build_tiny_zero123, "clip_camera_projection/zero123.py")]
)
def test_a_clone_of_a_published_folder_is_taken_for_our_own_code_stands_for_its(
    root: Path, tmp_path: Path, build: Callable[[Path], Path], published: str
) -> None:
    """Both were published with Python beside the weights, which diffusers runs and we do not."""
    folder = build(tmp_path / "clone")
    (folder / published).write_text("raise SystemExit('it ran')")
    (folder / "pipeline.py").write_text("raise SystemExit('it ran')")
    manage.add(folder, "mine", root)
    assert "files are as they were when they came" in manage.check("mine", root)
    assert load_denoiser(folder).parts["unet"] is not None
    other = (folder / published).with_name("other.py")
    other.write_text("")
    refused(r"holds Python code \(other.py\), so its weights need code", "model", manage.add, folder, "again", root)


def test_a_control_net_s_published_example_is_no_code_that_its_weights_need(root: Path) -> None:
    folder = root / "depth-sd15"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, folder / "diffusion_pytorch_model.safetensors")
    (folder / "control_net_depth.py").write_text("raise SystemExit('it ran')")
    assert "all 2 files are whole" in manage.check("depth-sd15", root)
    (folder / "other.py").write_text("")
    refused(r"holds Python code \(other.py\)", "model", manage.check, "depth-sd15", root)


def test_a_check_finds_what_changed_and_what_is_missing(root: Path, fetched: Path, clean_model: Path) -> None:
    assert manage.check("sd15", root).endswith("files are as they were when they came.")
    content = (fetched / UNET).read_bytes()
    (fetched / UNET).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (fetched / "vae" / "config.json").unlink()
    refused(rf"{UNET} has another content.*vae/config.json is missing. .*models download sd15", "damaged", manage.check, "sd15", root)
    manage.add(clean_model, "mine", root)
    os.truncate(clean_model / UNET, 100)
    refused(rf"{UNET} has 100 bytes instead of .*remove mine, then add it again", "damaged", manage.check, "mine", root)


def test_a_check_of_what_has_no_record_looks_at_the_files_themselves(root: Path, clean_model: Path) -> None:
    assert "no record of their hashes" in manage.check("toybox", root)
    assert "no record of their hashes" in manage.check(str(clean_model), root)
    os.truncate(clean_model / UNET, (clean_model / UNET).stat().st_size - 1)
    refused("is cut off", "model", manage.check, str(clean_model), root)


def test_a_check_of_the_hubs_cache_knows_the_hashes_by_the_blobs_names(
    root: Path, clean_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.models.fake_hub import Repo

    cache = tmp_path / "cache"
    repo = cache / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    for sibling in Repo(clean_model).listing()["siblings"]:  # type: ignore[attr-defined]
        blob = repo / "blobs" / (sibling["lfs"]["sha256"] if "lfs" in sibling else sibling["blobId"])
        link = repo / "snapshots" / "abc" / sibling["rfilename"]
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            shutil.copy(clean_model / sibling["rfilename"], blob)
        link.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert manage.check("sd15", root).endswith("files are as the hub's cache says.") and row_of(root, "sd15").origin == "hub cache"
    refused("lies in the hub's cache, which other programs use too", "model", manage.remove, "sd15", root)
    with (repo / "snapshots" / "abc" / "vae" / "config.json").open("a") as file:
        file.write(" ")
    refused("vae/config.json has another content", "damaged", manage.check, "sd15", root)


def test_removing_deletes_what_we_fetched_and_nothing_else(root: Path, fetched: Path, clean_model: Path) -> None:
    staging = root / DOWNLOADING_NAME / "sd21"
    staging.mkdir(parents=True)
    (staging / "part").write_bytes(bytes(1000))
    assert row_of(root, "sd21").partial_bytes == 1000 and row_of(root, "sd21").can_remove
    manage.remove("sd21", root)
    assert not staging.exists() and fetched.exists()
    assert row_of(root, "sd15").origin == "downloaded"
    assert "is deleted" in manage.remove("sd15", root) and not fetched.exists() and row_of(root, "sd15").origin == ""
    refused("is not on this machine", "model", manage.remove, "sd15", root)
    refused("ships with the program and cannot be removed", "model", manage.remove, "toybox", root)
    shutil.copytree(clean_model, root / "sd14")
    refused("was not made by a download, so it is left alone", "model", manage.remove, "sd14", root)
    (root / "sd15").symlink_to(clean_model)
    assert "what the link led to stays" in manage.remove("sd15", root) and (clean_model / UNET).is_file()


def test_a_folder_of_the_user_is_never_deleted(root: Path, clean_model: Path, tmp_path: Path) -> None:
    inside = Path(shutil.copytree(clean_model, root / "mine"))
    manage.add(inside, "mine", root)
    assert row_of(root, "mine").origin == "added" and "Its folder stays" in manage.remove("mine", root)
    assert (inside / UNET).is_file(), "also if it lies in the models folder under its name"
    link = tmp_path / "link"
    link.symlink_to(clean_model)
    refused("is a folder of yours that is not on the list. Delete it yourself", "model", manage.remove, str(link), root)
    assert link.is_symlink() and (clean_model / UNET).is_file()


def test_a_list_of_added_models_that_cannot_be_read_is_not_written_over(root: Path, clean_model: Path) -> None:
    root.mkdir()
    (root / ADDED_NAME).write_text('{"models": [')
    refused("list of added models, .* cannot be read. Remove it", "model", manage.add, clean_model, "mine", root)
    assert (root / ADDED_NAME).read_text() == '{"models": ['


def test_a_record_survives_the_moving_of_the_models_folder(root: Path, fetched: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    root.rename(moved)
    record = read_record(moved / "sd15")
    assert record is not None and record.folder == str(moved / "sd15") and FileRecord in {type(file) for file in record.files}
    assert str(root) not in json.dumps(json.loads((moved / "sd15" / "dreamfusion-model.json").read_text()))
