"""A whole job that follows a picture: its own copy, resuming, going on."""

import json

import numpy as np
import PIL.Image
import pytest

from engine.scene.reference_view import prepare_picture, read_picture
from tests.tiny_onnx import color_finder


@pytest.fixture
def picture(tmp_path):
    image = PIL.Image.new("RGB", (80, 60), (250, 250, 250))
    image.paste((200, 20, 20), (20, 10, 60, 50))
    image.save(tmp_path / "mug.jpg", quality=95)
    return tmp_path / "mug.jpg"


def test_the_job_keeps_a_prepared_copy_and_the_picture_makes_a_difference(generate, picture, tmp_path):
    expected = prepare_picture(picture)
    runs = [generate("a red mug", "--image", str(picture), folder=tmp_path / "with"), generate("a red mug", folder=tmp_path / "without")]
    assert [run.code for run in runs] == [0, 0], runs[0].err
    assert np.abs(read_picture(tmp_path / "with/reference.png") - expected).max() < 0.01
    assert not (tmp_path / "without/reference.png").exists()
    meshes = [np.load(tmp_path / name / "result/mesh.npz")["vertices"] for name in ("with", "without")]
    assert meshes[0].shape != meshes[1].shape or not np.array_equal(*meshes)
    assert json.loads((tmp_path / "with/job.json").read_text())["request"]["reference_image"] == str(picture)


def test_a_job_resumes_and_is_gone_on_from_though_the_picture_is_gone(generate, picture, model, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)

    with monkeypatch.context() as patch:
        patch.setattr("engine.jobs._mesh", lambda run, trainer: int("no mesh today"))
        assert generate("a red mug", "--image", str(picture)).code == 1
    picture.unlink()
    assert generate("--resume", small=False).code == 0
    more = generate("--start-from", str(tmp_path / "job"), folder=tmp_path / "more", small=False)
    assert more.code == 0, more.err
    assert (tmp_path / "more/reference.png").is_file()
    assert json.loads((tmp_path / "more/result/result.json").read_text())["steps_done"] == 9


def test_a_job_replaces_itself_with_its_own_copy_of_the_picture(generate, picture, tmp_path):
    assert generate("a red mug", "--image", str(picture)).code == 0
    again = generate("a red mug", "--image", str(tmp_path / "job/reference.png"), "--overwrite")
    assert again.code == 0, again.err
    assert (tmp_path / "job/reference.png").is_file()


def test_a_damaged_copy_is_a_sentence(generate, picture, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("engine.jobs._train", lambda run, trainer: int("not today"))
        assert generate("a red mug", "--image", str(picture)).code == 1
    (tmp_path / "job/reference.png").write_bytes(b"rubbish")
    run = generate("--resume", small=False)
    assert run.code == 2 and "reference.png, is damaged. Start the job again in another folder." in run.err


def test_a_job_follows_an_object_that_a_model_cut_out_of_a_busy_photo(generate, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: requirements/extras.txt")
    noise = np.random.default_rng(0).integers(0, 90, (60, 80, 3), dtype=np.uint8) + np.uint8([30, 90, 60])
    noise[15:45, 25:55] = (220, 30, 30)
    PIL.Image.fromarray(noise).save(tmp_path / "photo.png")
    given = ["--image", str(tmp_path / "photo.png")]
    refused = generate("a red mug", *given)
    assert refused.code == 2 and "--reference.cut-out-model FILE.onnx" in refused.err and not (tmp_path / "job").exists()
    model = color_finder(tmp_path / "red.onnx", (3.0, -2.0, -2.0), -6.0)
    run = generate("a red mug", *given, last=["--reference.cut-out-model", str(model)])
    assert run.code == 0, run.err
    kept = read_picture(tmp_path / "job/reference.png")
    inside = kept[..., 3] > 0.99
    assert inside[100:156, 100:156].all() and not kept[:20, :, 3].any()
    assert np.abs(kept[inside][:, :3] - np.array([220, 30, 30]) / 255).max() < 0.02
