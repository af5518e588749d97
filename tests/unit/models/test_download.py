"""Downloads against a real HTTP server: whole or not there, resumed, mended, and every refusal a sentence with the fix."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.guidance.families import FAMILIES
from engine.guidance.model_records import DOWNLOADING_NAME, read_record
from engine.guidance.model_table import Model, Source, find_model, model_folder
from engine.model_store.download import SPARE_BYTES, download
from engine.model_store.hub import Hub, RemoteFile, SourceError, wanted_files
from engine.model_store.manage import add, check
from engine.model_store.progress import Step
from tests.tiny_clip import build_tiny_clip
from tests.unit.models.fake_hub import FakeHub, Repo

FIRST, SECOND = "first/copy", "second/copy"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def model(tiny_model: Path, hub: FakeHub) -> Model:
    """sd15, to be had from two copies on the small hub."""
    hub.repos = {name: Repo(tiny_model) for name in (FIRST, SECOND)}
    commit = hub.repos[FIRST].commit
    return replace(find_model("sd15"), sources=(Source(FIRST, commit), Source(SECOND, "main")))


def fetch(model: Model, root: Path, hub: FakeHub, **more: object) -> list[Step]:
    steps: list[Step] = []
    download(model, root, steps.append, hub=Hub(hub.url), **more)  # type: ignore[arg-type]
    return steps


def refused(model: Model, root: Path, hub: FakeHub, code: str) -> str:
    with pytest.raises(UserError) as caught:
        fetch(model, root, hub)
    assert caught.value.code == code and not (root / model.id).exists()
    return str(caught.value)


def test_only_what_is_loaded_is_fetched_and_it_loads(model: Model, root: Path, hub: FakeHub) -> None:
    steps = fetch(model, root, hub)
    folder = model_folder(find_model("sd15"))
    assert folder == root / "sd15"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name for name in names if name.endswith(".safetensors")} == {
        UNET,
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
    }
    assert all(name.endswith((".json", ".txt", ".safetensors")) for name in names) and "tokenizer/tokenizer_config.json" in names
    record = read_record(folder)
    assert record is not None and record.source == f"{FIRST}@{hub.repos[FIRST].commit}" and record.size == steps[-1].of == steps[-1].done
    assert {file.path for file in record.files} == names - {"dreamfusion-model.json"}
    assert [step.done for step in steps] == sorted(step.done for step in steps), "progress goes forward"

    from engine.guidance.denoiser import Denoiser

    assert Denoiser.load(folder).embed(["a mug"]).shape[0] == 1


def test_a_broken_connection_goes_on_where_it_broke(model: Model, root: Path, hub: FakeHub) -> None:
    hub.repos[FIRST].cut[UNET] = 48 * 1024
    fetch(model, root, hub)
    starts = [first for name, first in hub.served if name == UNET]
    assert len(starts) == 2 and starts[0] == 0 and starts[1] >= 48 * 1024


def test_what_an_earlier_download_left_is_not_fetched_again(model: Model, root: Path, hub: FakeHub, tiny_model: Path) -> None:
    fetch(model, root, hub)
    content = (tiny_model / UNET).read_bytes()
    staging = root / DOWNLOADING_NAME / "sd15"
    (root / "sd15").rename(staging)
    (staging / UNET).unlink()
    part = f"{UNET}.{_sha256(content)[:16]}.part"
    (staging / part).write_bytes(content[:50_000])
    hub.served.clear()
    fetch(model, root, hub)
    assert hub.served == [(UNET, 50_000)]
    assert (root / "sd15" / UNET).read_bytes() == content and not (root / "sd15" / part).exists()


def test_a_part_that_was_damaged_on_disk_is_fetched_anew(model: Model, root: Path, hub: FakeHub, tiny_model: Path) -> None:
    content = (tiny_model / UNET).read_bytes()
    part = root / DOWNLOADING_NAME / "sd15" / f"{UNET}.{_sha256(content)[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(50_000))
    fetch(model, root, hub)
    assert [first for name, first in hub.served if name == UNET] == [50_000, 0]
    assert (root / "sd15" / UNET).read_bytes() == content


def test_a_file_that_arrives_damaged_is_fetched_once_more_then_from_the_next_copy(model: Model, root: Path, hub: FakeHub) -> None:
    hub.repos[FIRST].corrupt[UNET] = 1
    fetch(model, root, hub)
    record = read_record(root / "sd15")
    assert record is not None and record.source.startswith(FIRST)

    hub.repos[FIRST].corrupt["vae/config.json"] = 2
    (root / "sd15" / "vae" / "config.json").write_text("{}")
    fetch(model, root, hub)
    record = read_record(root / "sd15")
    assert record is not None and record.source.startswith(SECOND)


def test_damage_everywhere_is_told(model: Model, root: Path, hub: FakeHub) -> None:
    for repo in hub.repos.values():
        repo.corrupt[UNET] = 9
    text = refused(model, root, hub, "model")
    assert f"{FIRST} sent {UNET} damaged twice; {SECOND} sent {UNET} damaged twice. Fetch a copy yourself" in text


def test_a_damaged_model_is_mended_by_downloading_it_again(model: Model, root: Path, hub: FakeHub) -> None:
    fetch(model, root, hub)
    good = (root / "sd15" / UNET).read_bytes()
    (root / "sd15" / UNET).write_bytes(good[:-1] + b"x")
    hub.served.clear()
    fetch(model, root, hub)
    assert {name for name, _ in hub.served} == {UNET} and (root / "sd15" / UNET).read_bytes() == good
    hub.served.clear()
    assert "every file is as it should be" in download(model, root, hub=Hub(hub.url)) and hub.served == []


@pytest.mark.parametrize("error", [(404, "RepoNotFound"), (401, ""), (404, "RevisionNotFound"), (403, "GatedRepo"), (503, "")])
def test_a_copy_that_is_gone_or_closed_is_passed_over(model: Model, root: Path, hub: FakeHub, error: tuple[int, str]) -> None:
    hub.repos[FIRST].error = error
    fetch(model, root, hub)
    record = read_record(root / "sd15")
    assert record is not None and record.source == f"{SECOND}@{hub.repos[SECOND].commit}", "a moving revision is kept as its commit"


def test_a_model_that_is_gone_everywhere_says_so(model: Model, root: Path, hub: FakeHub) -> None:
    hub.repos[FIRST].error, hub.repos[SECOND].error = (404, "RepoNotFound"), (404, "RevisionNotFound")
    text = refused(model, root, hub, "model")
    assert f"{FIRST} is no longer on the hub, or was made private; {SECOND} no longer has its revision main." in text


def test_a_gated_model_says_how_to_get_access_and_takes_the_token(
    model: Model, root: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for repo in hub.repos.values():
        repo.token = "hf_secret"
    text = refused(model, root, hub, "gated")
    assert f"{hub.url}/{FIRST}, log in and accept the license" in text and "HF_TOKEN" in text and "hf auth login" in text
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(model, root, hub)
    assert not any(b"hf_secret" in path.read_bytes() for path in root.rglob("*") if path.is_file()), "kept nowhere"


def test_without_room_nothing_is_fetched(model: Model, root: Path, hub: FakeHub) -> None:
    size = Hub(hub.url).find(model.sources[0], model.parts).size
    with pytest.raises(UserError, match=r"needs 0\.2 GB, but only 0\.2 GB are free.* choose another models folder") as caught:
        fetch(model, root, hub, free_bytes=lambda _folder: size + SPARE_BYTES - 1)
    assert caught.value.code == "disk" and hub.served == []
    fetch(model, root, hub, free_bytes=lambda _folder: size + SPARE_BYTES)


def test_a_disk_that_fills_up_meanwhile_keeps_what_is_there(
    model: Model, root: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Hub.fetch

    def full(self: Hub, remote: object, file: RemoteFile, *rest: object) -> None:
        if file.path == UNET:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, remote, file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Hub, "fetch", full)
    assert "is full. Make room, then download again; it goes on" in refused(model, root, hub, "disk")
    assert (root / DOWNLOADING_NAME / "sd15" / "text_encoder" / "model.safetensors").is_file()


def test_no_network_is_told_with_the_address(model: Model, root: Path, hub: FakeHub) -> None:
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 cannot be reached .*Check the internet connection") as caught:
        download(model, root, hub=Hub("http://127.0.0.1:9"))
    assert caught.value.code == "offline"


def test_offline_mode_of_the_hub_is_obeyed(model: Model, root: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(model, root, hub, "offline")


def test_two_downloads_of_one_model_do_not_mix(model: Model, root: Path, hub: FakeHub) -> None:
    from filelock import FileLock

    (root / DOWNLOADING_NAME).mkdir(parents=True)
    with FileLock(root / DOWNLOADING_NAME / "sd15.lock"):
        assert "is being downloaded already" in refused(model, root, hub, "busy")


def test_a_folder_of_that_name_that_is_not_ours_is_left_alone(model: Model, root: Path, hub: FakeHub) -> None:
    (root / "sd15").mkdir(parents=True)
    (root / "sd15" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists but was not made by a download. Move it away"):
        fetch(model, root, hub)
    assert (root / "sd15" / "mine.txt").read_text() == "mine"


def remote(*paths: str) -> list[RemoteFile]:
    settings = [f"{part}/config.json" for part in ("tokenizer", "text_encoder", "unet", "vae", "scheduler")]
    return [RemoteFile(path, 1, "", "") for path in (*settings, *paths)]


PARTS = FAMILIES["stable-diffusion"].parts
TEXT, VAE = "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"


def chosen(*paths: str) -> set[str]:
    return {file.path for file in wanted_files(remote(*paths), PARTS) if not file.path.endswith("/config.json")}


def test_weights_in_pieces_come_with_their_index() -> None:
    stem = "unet/diffusion_pytorch_model"
    pieces = {f"{stem}-00001-of-00002.safetensors", f"{stem}-00002-of-00002.safetensors", f"{stem}.safetensors.index.json"}
    half = {f"{stem}.fp16-00001-of-00001.safetensors", f"{stem}.safetensors.index.fp16.json"}
    assert chosen(TEXT, VAE, *pieces) == {TEXT, VAE, *pieces}
    assert chosen(TEXT, VAE, *pieces, *half) == {TEXT, VAE, *half}


def test_other_weights_and_places_outside_the_parts_are_not_chosen() -> None:
    unet = "unet/diffusion_pytorch_model.safetensors"
    others = [
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/../../x.json",
        "unet/a/b.json",
        "../unet/c.json",
        "unet/flax.msgpack",
    ]
    assert chosen(TEXT, VAE, unet, *others) == {TEXT, VAE, unet}


def test_every_family_brings_its_own_parts() -> None:
    """As the hub's copies of SDXL and of DeepFloyd IF are laid out; T5 comes in pieces, its tokenizer as SentencePiece's file."""
    t5 = [f"text_encoder/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    deepfloyd = [
        *("tokenizer/spiece.model", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json", "unet/config.json"),
        *("text_encoder/config.json", "text_encoder/model.safetensors.index.fp16.json", *t5),
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    others = ["watermarker/diffusion_pytorch_model.safetensors", "safety_checker/model.safetensors", "vae/config.json", "unet/x.bin"]
    files = [RemoteFile(path, 1, "", "") for path in (*deepfloyd, *others)]
    assert {file.path for file in wanted_files(files, FAMILIES["deepfloyd"].parts)} == set(deepfloyd)
    xl = FAMILIES["stable-diffusion-xl"].parts
    with pytest.raises(SourceError, match="lacks tokenizer_2"):
        wanted_files(remote(TEXT, VAE, "unet/diffusion_pytorch_model.safetensors"), xl)


def test_a_family_without_folders_brings_what_lies_at_the_top() -> None:
    """As the hub's copy of CLIP is laid out."""
    settings = ["config.json", "merges.txt", "vocab.json", "tokenizer.json", "preprocessor_config.json"]
    others = ["pytorch_model.bin", "tf_model.h5", "README.md", "onnx/model.safetensors", "onnx/config.json", ".gitattributes"]
    files = [RemoteFile(path, 1, "", "") for path in (*settings, "model.safetensors", *others)]
    assert {file.path for file in wanted_files(files, FAMILIES["clip"].parts)} == {*settings, "model.safetensors"}
    with pytest.raises(SourceError, match="offers its weights as a pickle only"):
        wanted_files([file for file in files if file.path != "model.safetensors"], FAMILIES["clip"].parts)
    with pytest.raises(SourceError, match="lacks the settings"):
        wanted_files([file for file in files if "/" in file.path], FAMILIES["clip"].parts)


def test_clip_is_fetched_checked_and_added(root: Path, hub: FakeHub, tmp_path: Path) -> None:
    clip = build_tiny_clip(tmp_path / "copy")
    (clip / "pytorch_model.bin").write_bytes(b"pickle")
    hub.repos["openai/clip-vit-large-patch14"] = Repo(clip, commit="32bd64288804d66eefd0ccbe215aa642df71cc41")
    fetch(find_model("clip-vit-l14"), root, hub)
    folder = model_folder(find_model("clip-vit-l14"))
    assert folder == root / "clip-vit-l14" and (folder / "model.safetensors").is_file() and not (folder / "pytorch_model.bin").exists()
    assert "files are as they were when they came" in check("clip-vit-l14", root)
    add(folder, "my-clip", root)
    assert find_model("my-clip").kind == "clip"


def test_a_copy_without_safetensors_is_refused() -> None:
    with pytest.raises(SourceError, match="offers unet as a pickle only"):
        wanted_files(remote(TEXT, VAE, "unet/diffusion_pytorch_model.bin"), PARTS)
    with pytest.raises(SourceError, match="lacks the weights of unet"):
        wanted_files(remote(TEXT, VAE), PARTS)
    with pytest.raises(SourceError, match="lacks scheduler"):
        files = remote(TEXT, VAE, "unet/diffusion_pytorch_model.safetensors")
        wanted_files([file for file in files if "scheduler" not in file.path], PARTS)


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
