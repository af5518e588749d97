"""Sources that the table does not pin: trusted once, the same ever after, and told when they change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.cli import main
from engine.errors import UserError
from engine.guidance.model_records import read_record, write_record
from engine.guidance.model_table import Model, Source, find_model, models
from engine.model_store import manage
from engine.model_store.download import download
from engine.model_store.first_seen import FIRST_SEEN_NAME, read_first_seen, remember
from engine.model_store.hub import Hub
from tests.unit.models.fake_hub import FakeHub, Repo

REPO = "someone/copy"
OLD, NEW = "a" * 40, "b" * 40
SETTINGS = "scheduler/scheduler_config.json"


@pytest.fixture
def model(copy: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Model:
    """sd15 with one source that is not pinned; `copy` is what that holds at OLD."""
    hub.repos = {REPO: Repo(copy, commit=OLD)}
    unpinned = replace(find_model("sd15"), sources=(Source(REPO, "main"),))
    monkeypatch.setitem(models(), "sd15", unpinned)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return unpinned


def fetch(model: Model, root: Path, hub: FakeHub) -> str:
    return download(model, root, hub=Hub(hub.url))


def change(copy: Path) -> None:
    """Another content of a file of the same length."""
    path = copy / SETTINGS
    path.write_bytes(path.read_bytes()[:-1] + b" ")


def test_the_first_download_says_that_its_commit_is_kept_and_keeps_every_hash(model: Model, root: Path, hub: FakeHub) -> None:
    said = fetch(model, root, hub)
    assert f"The source is not pinned: its commit {OLD[:12]} is kept, and later downloads take the same." in said
    record, first = read_record(root / "sd15"), read_first_seen(root)[REPO]
    assert record is not None and first.commit == OLD and first.files == record.files and len(first.files) > 8


def test_a_pinned_source_is_not_kept(model: Model, root: Path, hub: FakeHub) -> None:
    said = fetch(replace(model, sources=(Source(REPO, OLD),)), root, hub)
    assert "not pinned" not in said and read_first_seen(root) == {}


def test_a_later_download_takes_the_commit_that_was_first_and_says_that_there_is_another(
    model: Model, root: Path, hub: FakeHub, copy: Path, tmp_path: Path
) -> None:
    fetch(model, root, hub)
    first = read_record(root / "sd15")
    manage.remove("sd15", root)
    repo = hub.repos[REPO]
    repo.older, repo.commit, repo.folder = {OLD: copy}, NEW, tmp_path / "newer"
    repo.folder.symlink_to(copy)
    said = fetch(model, root, hub)
    assert f"The source changed since, to {NEW[:12]}; this is what was fetched first, {OLD[:12]}." in said
    assert "models remove sd15 --forget, then download it again" in said
    assert read_record(root / "sd15") == first
    assert f"as they were when they came and as they were first fetched, at {OLD[:12]}" in manage.check("sd15", root)


def test_a_source_that_did_not_move_is_not_said_to(model: Model, root: Path, hub: FakeHub) -> None:
    fetch(model, root, hub)
    manage.remove("sd15", root)
    assert fetch(model, root, hub).endswith(f"from {REPO}).")


def test_another_content_under_the_same_commit_is_refused_before_a_byte_of_weights_comes(
    model: Model, root: Path, hub: FakeHub, copy: Path
) -> None:
    fetch(model, root, hub)
    manage.remove("sd15", root)
    weights = copy / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    hub.served.clear()
    with pytest.raises(UserError) as caught:
        fetch(model, root, hub)
    assert caught.value.code == "changed" and hub.served == [] and not (root / "sd15").exists()
    assert str(caught.value) == (
        f"Model sd15 is no longer what it was: {REPO} changed since it was first fetched "
        "(unet/diffusion_pytorch_model.fp16.safetensors has another content). "
        "If you trust what it holds now: python -m engine models remove sd15 --forget, then download it again."
    )


def test_settings_that_changed_are_refused_too(model: Model, root: Path, hub: FakeHub, copy: Path) -> None:
    """Their SHA-256 is known only once they are here."""
    fetch(model, root, hub)
    manage.remove("sd15", root)
    change(copy)
    with pytest.raises(UserError, match=rf"{SETTINGS} has another content") as caught:
        fetch(model, root, hub)
    assert caught.value.code == "changed" and not (root / "sd15").exists()


def test_files_that_came_or_went_are_named(model: Model, root: Path, hub: FakeHub, copy: Path) -> None:
    fetch(model, root, hub)
    manage.remove("sd15", root)
    (copy / "vae" / "more.json").write_text("{}")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"\(tokenizer/tokenizer.json is gone; vae/more.json is new\)"):
        fetch(model, root, hub)


def test_a_commit_that_its_owner_took_away_is_told(model: Model, root: Path, hub: FakeHub) -> None:
    fetch(model, root, hub)
    manage.remove("sd15", root)
    hub.repos[REPO].commit = NEW
    with pytest.raises(UserError, match=f"{REPO} no longer has the commit {OLD[:12]} that was fetched first. If you trust") as caught:
        fetch(model, root, hub)
    assert caught.value.code == "changed"


def test_a_user_may_trust_the_new(model: Model, root: Path, hub: FakeHub, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(model, root, hub)
    change(copy)
    hub.repos[REPO].commit = NEW
    assert main(["models", "remove", "sd15", "--forget"]) == 0
    said = capsys.readouterr().out
    assert "is deleted" in said and "The next download takes what its source holds then." in said and not (root / "sd15").exists()
    assert f"its commit {NEW[:12]} is kept" in fetch(model, root, hub)
    manage.remove("sd15", root)
    assert manage.remove("sd15", root, forget_source=True) == "The next download takes what its source holds then.", "nothing to delete"
    assert main(["models", "remove", "sd15", "--forget"]) == 2
    assert "Nothing is kept of the sources of Stable Diffusion 1.5" in capsys.readouterr().err


def test_a_damaged_copy_is_mended_from_the_commit_that_was_first(model: Model, root: Path, hub: FakeHub, copy: Path) -> None:
    fetch(model, root, hub)
    (root / "sd15" / SETTINGS).write_text("{}")
    good = (copy / SETTINGS).read_bytes()
    change(copy)
    with pytest.raises(UserError, match="has another content"):
        fetch(model, root, hub)
    (copy / SETTINGS).write_bytes(good)
    assert "is ready in" in fetch(model, root, hub) and (root / "sd15" / SETTINGS).read_bytes() == good


def test_what_was_fetched_before_such_things_were_kept_counts_as_first(model: Model, root: Path, hub: FakeHub, copy: Path) -> None:
    fetch(model, root, hub)
    (root / FIRST_SEEN_NAME).unlink()
    assert "every file is as it should be" in fetch(model, root, hub)
    assert read_first_seen(root)[REPO].commit == OLD


def test_check_sees_a_folder_that_was_exchanged_with_its_record(model: Model, root: Path, hub: FakeHub) -> None:
    fetch(model, root, hub)
    folder = root / "sd15"
    record = read_record(folder)
    assert record is not None
    (folder / SETTINGS).write_text('{"_class_name": "DDPMScheduler"}')
    paths = [folder / file.path for file in record.files]
    write_record(folder, replace(record, files=manage.record_files(folder, paths, lambda _step: None)))
    with pytest.raises(UserError, match=rf"sd15 is not what {REPO} held when it was first fetched: {SETTINGS} has another") as caught:
        manage.check("sd15", root)
    assert caught.value.code == "changed" and "models remove sd15, then download it" in caught.value.fix


def test_the_first_stays_the_first_and_a_broken_list_is_a_sentence(model: Model, root: Path, hub: FakeHub) -> None:
    fetch(model, root, hub)
    remember(root, REPO, NEW, ())
    assert read_first_seen(root)[REPO].commit == OLD
    for text in ("{", "[]", '{"sources": []}', '{"sources": {"a/b": {"commit": "c"}}}'):
        (root / FIRST_SEEN_NAME).write_text(text)
        with pytest.raises(UserError, match=f"{FIRST_SEEN_NAME}, which says what sources held .* Restore it, or remove it"):
            read_first_seen(root)
