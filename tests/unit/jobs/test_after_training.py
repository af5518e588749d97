"""Pictures and meshes of a job whose training is over, without the diffusion model that trained it."""

import json
import shutil

import av
import numpy as np
import PIL.Image
import pytest
import torch

from engine.cli import main
from engine.config import PICTURE_KINDS
from engine.field_pictures import SIX_VIEWS, field_picture
from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig
from engine.job_folder import read_job
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import orbit_cameras
from engine.training.checkpoint import latest_checkpoint
from engine.training.trained import TrainedField, load_trained


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished job whose model is gone; tests only add folders to it."""
    from tests.tiny_sd import build_tiny_sd
    from tests.unit.jobs.conftest import SMALL

    home = tmp_path_factory.mktemp("late")
    model = build_tiny_sd(home / "model")
    extra = ["--output.field-videos", "depth", "--output.six-views", "true"]
    assert main(["generate", "a red mug", "--model", str(model), "--out", str(home / "job"), "--json", *SMALL, *extra]) == 0
    for part in (model / "unet", model / "vae"):
        for weights in part.glob("*.safetensors"):
            weights.unlink()
    return home / "job"


def run(capsys, *words):
    capsys.readouterr()
    code = main([*map(str, words)])
    return code, capsys.readouterr()


def frames_of(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_a_job_makes_the_pictures_that_were_asked_for(finished):
    result = finished / "result"
    assert len(frames_of(result / "turntable-depth.mp4")) == 2
    assert all(PIL.Image.open(result / f"{view}-color.png").size == (64, 64) for view in SIX_VIEWS)


def test_render_makes_videos_and_six_views_of_every_kind(finished, capsys):
    code, said = run(capsys, "render", finished, "--frames", 3, "--size", 48)
    folder = finished / "renders" / "1"
    assert code == 0 and said.out == f"{folder.resolve()}\n"
    assert {path.name for path in folder.iterdir()} == {
        *(f"turntable-{kind}.mp4" for kind in PICTURE_KINDS),
        *(f"{view}-{kind}.png" for view in SIX_VIEWS for kind in PICTURE_KINDS),
    }
    for kind in PICTURE_KINDS:
        frames = frames_of(folder / f"turntable-{kind}.mp4")
        assert len(frames) == 3 and frames[0].shape == (48, 48, 3)
    code, said = run(capsys, "render", finished, "--frames", 0, "--kinds", "depth", "--json")
    assert code == 0 and json.loads(said.out.splitlines()[-1]) == {"type": "done", "folder": str((finished / "renders" / "2").resolve())}
    assert {path.name for path in (finished / "renders" / "2").iterdir()} == {f"{view}-depth.png" for view in SIX_VIEWS}


def test_export_makes_another_mesh_of_the_same_field_and_leaves_the_result(finished, capsys):
    before = (finished / "result" / "mesh.npz").read_bytes()
    code, said = run(capsys, "export", finished, "--mesh.resolution", 24, "--output.formats", "obj", "--output.field-videos", "")
    folder = finished / "exports" / "1"
    assert code == 0, said.err
    info, old = (json.loads((place / "result.json").read_text()) for place in (folder, finished / "result"))
    assert info["config"]["mesh"]["resolution"] == 24 and old["config"]["mesh"]["resolution"] == 16
    assert info["config"]["training"] == old["config"]["training"] and info["steps_done"] == 6
    assert info["stats"]["open_edges"] == 0 and (folder / "a-red-mug.obj").is_file() and not (folder / "turntable-depth.mp4").exists()
    assert (finished / "result" / "mesh.npz").read_bytes() == before


def test_export_with_the_jobs_own_settings_is_the_jobs_own_mesh(finished, capsys, tmp_path):
    code, _ = run(capsys, "export", finished, "--out", tmp_path / "same")
    assert code == 0
    ours, theirs = (np.load(place / "mesh.npz") for place in (tmp_path / "same", finished / "result"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ("vertices", "faces"))


def trained(job):
    return load_trained(read_job(job)[1], latest_checkpoint(job / "checkpoints"), torch.device("cpu"))


def test_previews_pictures_and_mesh_show_the_averaged_field(finished):
    """The last preview, rendered by the running job, and one rendered from its checkpoint are the same picture."""
    from engine.previews import SURVEY_FOV_DEG, SURVEY_RADIUS, TURN_ELEVATION_DEG, TURN_START_DEG
    from engine.training.trainer import Trainer

    azimuth = (720 + TURN_START_DEG) % 360
    cameras = orbit_cameras(*(torch.tensor([v]) for v in (azimuth, TURN_ELEVATION_DEG, SURVEY_RADIUS, SURVEY_FOV_DEG)))
    shown = np.asarray(PIL.Image.open(finished / "previews" / "step-0000006.png").convert("RGB"), np.float32) / 255
    found = trained(finished).picture(cameras, 32, 32).image[0].numpy()
    assert np.abs(found - shown).max() <= 0.51 / 255
    checkpoint = latest_checkpoint(finished / "checkpoints")
    raw = Trainer(read_job(finished)[1], 0, torch.device("cpu"), None)
    raw.ema.module.load_state_dict(checkpoint.parts["field"])
    assert not all(torch.equal(checkpoint.parts["field"][name], value) for name, value in checkpoint.parts["ema"].items())
    assert np.abs(raw.picture(cameras, 32, 32).image[0].numpy() - shown).max() > 0.6 / 255, "the trained field itself looks different"


def test_each_kind_shows_what_it_says():
    """Of a gray ball of radius 0.45 round the origin."""
    config = FieldConfig(n_levels=1, finest_resolution=16, blob_density=400, blob_radius=0.45)
    looked_at = TrainedField(make_field(config, torch.Generator()).requires_grad_(False), OccupancyGrid(8), 0.02)
    front = orbit_cameras(*(torch.tensor([v]) for v in (0.0, 0.0, 2.95, 40.0)))
    color, depth, normals, bare = (field_picture(looked_at, front, 33, kind)[0] for kind in PICTURE_KINDS)
    middle = (16, 16)
    assert color[0, 0].tolist() == [1, 1, 1] and color[middle] == pytest.approx([0.5] * 3, abs=0.02)
    assert depth[0, 0].tolist() == [0, 0, 0] and depth[middle][0] == pytest.approx(1 - 0.55 / 2, abs=0.03), "a little below the surface"
    assert normals[0, 0] == pytest.approx([0.5] * 3, abs=0.01) and normals[middle] == pytest.approx([0.5, 0.0, 0.5], abs=0.02)
    assert bare[middle][0] == pytest.approx(1, abs=0.02) and bare[16, 21][0] < 0.9 and np.ptp(bare, axis=-1).max() < 1e-5, (
        "no colour, lit from the camera"
    )
    with pytest.raises(ValueError, match="kind is 'heat'"):
        field_picture(looked_at, front, 8, "heat")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("render", "JOB", "--kinds", "colour"), "kinds holds 'colour', but knows color, depth, normals, textureless"),
        (("render", "JOB", "--kinds", ","), "kinds holds ''"),
        (("render", "JOB", "--frames", "many"), "frames is 'many', but must be a whole number"),
        (("render", "JOB", "--frames", "9999"), "frames is 9999, but must lie in 0..720"),
        (("render", "JOB", "--size", "8"), "size is 8, but must lie in 32..2048"),
        (("render", "JOB/nothing"), "There is no job in"),
        (("export", "JOB", "--mesh.resolution", "1"), "mesh.resolution is 1, but must lie in 8..512"),
        (("export", "JOB", "--training.n-steps", "9"), "There is no option '--training.n-steps'"),
        (("export", "JOB", "--out", "JOB"), "is there already. Use another --out"),
        (("export", "JOB", "--device", "cuda:99"), "torch sees no such GPU here"),
        (("export",), "required: job"),
    ],
)
def test_wrong_words_are_one_sentence(finished, capsys, words, text):
    code, said = run(capsys, *(word.replace("JOB", str(finished)) for word in words))
    assert code == 2 and text in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_job_without_a_checkpoint_or_with_one_of_other_settings(finished, capsys, tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    shutil.copy(finished / "job.json", job)
    for command in ("render", "export"):
        code, said = run(capsys, command, job)
        assert code == 2 and "has no checkpoint, so there is nothing to show yet. Train it first:" in said.err
    shutil.copytree(finished / "checkpoints", job / "checkpoints")
    body = json.loads((job / "job.json").read_text())
    body["config"]["field"]["finest_resolution"] = 12
    (job / "job.json").write_text(json.dumps(body))
    code, said = run(capsys, "export", job)
    assert code == 2 and "does not fit this job's settings" in said.err and not (job / "exports").exists()


def test_a_full_disk_leaves_nothing_half_made(finished, capsys, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.field_pictures.write_png", full)
    code, said = run(capsys, "render", finished, "--frames", 0, "--out", tmp_path / "out")
    assert code == 2 and "failed: No space left on device. Make room, or use another --out." in said.err
    assert list(tmp_path.iterdir()) == []
