"""A whole job under a tiny random diffusion model: events, files, resuming, ending."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from engine.job_folder import slug_of
from engine.protocol import Progress, decode_event
from engine.training.control import Control


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A finished job's folder; tests only read it."""
    from contextlib import redirect_stdout
    from io import StringIO

    from engine.cli import main
    from tests.unit.jobs.conftest import SMALL, Generated

    folder = tmp_path_factory.mktemp("finished") / "job"
    out = StringIO()
    with redirect_stdout(out):
        arguments = ["generate", "a red mug", "--seed", "3", "--model", model, "--out", str(folder), "--json", *SMALL]
        code = main([*arguments, "--output.formats", "glb,obj,ply", "--mesh.isovalue", "0"])
    return Generated(code, out.getvalue(), folder)


def test_a_job_ends_with_its_result_and_goes_through_every_phase_in_order(finished):
    assert finished.code == 0
    assert [event["type"] for event in finished.events].count("result") == 1
    assert finished.events[-1] == {"type": "result", "job": finished.events[0]["job"], "folder": str(finished.folder / "result")}
    phases = list(dict.fromkeys(event["phase"] for event in finished.of("progress")))
    assert phases == ["load", "train", "mesh", "texture", "export"]
    assert [e["step"] for e in finished.of("progress") if e["phase"] == "train"][-1] == 6


def test_every_line_is_a_message_and_every_event_is_in_the_folder_with_its_time(finished):
    recorded = [json.loads(line) for line in (finished.folder / "events.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in event.items() if k != "time"} for event in recorded] == finished.events
    assert [event["time"] for event in recorded] == sorted(event["time"] for event in recorded)
    for event in finished.events:
        assert decode_event(json.dumps(event)) is not None


def test_the_result_folder_holds_what_blender_and_others_import(finished):
    result = finished.folder / "result"
    names = {path.name for path in result.iterdir()}
    models = {"a-red-mug.glb", "a-red-mug.obj", "a-red-mug.mtl", "a-red-mug.png", "a-red-mug_normal.png", "a-red-mug.ply"}
    assert names == {"mesh.npz", "albedo.png", "normal.png", "thumbnail.png", "turntable.mp4", "result.json"} | models
    with np.load(result / "mesh.npz", allow_pickle=False) as mesh:
        n_vertices, n_faces = len(mesh["vertices"]), len(mesh["faces"])
        assert mesh["vertices"].dtype == np.float32 and mesh["faces"].dtype == np.int32
        assert mesh["corner_uvs"].shape == (n_faces, 3, 2)
    info = json.loads((result / "result.json").read_text())
    assert info["stats"]["n_faces"] == n_faces and info["stats"]["n_vertices"] == n_vertices
    assert info["stats"]["open_edges"] == 0
    assert (info["prompt"], info["seed"], info["steps_done"], info["finished_early"]) == ("a red mug", 3, 6, False)
    assert (info["model_licence"], info["guidance"], info["guidance_scale"]) == ("unknown", "image-target", 4.0)
    assert info["baked_light"] == "some", "a folder's model knows no word for unlit pictures, and part of the steps was lit"
    assert {"load", "train", "mesh", "export", "total"} == info["seconds"].keys()
    assert info["config"]["training"]["n_steps"] == 6 and info["versions"]["torch"]
    assert 50e6 < info["peak_memory_bytes"] < 20e9
    assert PIL.Image.open(result / "albedo.png").size == (64, 64)
    assert PIL.Image.open(result / "thumbnail.png").size == (64, 64)
    assert b"ftyp" in (result / "turntable.mp4").read_bytes()[:16]


def test_previews_are_pictures_in_the_job_folder(finished):
    previews = finished.of("preview")
    assert previews and previews[-1]["step"] == 6 and previews[-1]["view"] == "turn"
    for event in previews:
        assert PIL.Image.open(event["path"]).size == (32, 32)
        assert event["path"].startswith(str(finished.folder / "previews"))


def test_nothing_partial_stays(finished):
    assert not [path for path in finished.folder.rglob("*") if ".partial" in path.name]


def test_the_same_seed_makes_the_same_mesh(finished, generate):
    again = generate("a red mug", "--seed", "3", last=("--mesh.isovalue", "0"))
    other = generate("a red mug", "--seed", "4", folder=again.folder.parent / "other")
    meshes = [np.load(run.folder / "result" / "mesh.npz")["vertices"] for run in (finished, again, other)]
    assert np.array_equal(meshes[0], meshes[1])
    assert meshes[0].shape != meshes[2].shape or not np.array_equal(meshes[0], meshes[2])


def test_resuming_a_finished_job_gives_its_result_at_once(finished):
    from engine.jobs import run_job

    events = []
    assert run_job(None, finished.folder, events.append, Control(), resume=True) == 0
    assert [type(event).__name__ for event in events] == ["Result"]


class AskAt(Control):
    """Asks for something when training has reached a step."""

    def __init__(self, ask, step):
        super().__init__()
        self.ask, self.step = ask, step

    def watch(self, event):
        if isinstance(event, Progress) and event.phase == "train" and event.step == self.step:
            getattr(self, self.ask)()


def run_with(folder, control, model, *, resume=False, n_steps=8):
    from engine.jobs import run_job
    from engine.protocol import JobRequest
    from tests.unit.jobs.conftest import SMALL

    pairs = zip(SMALL[0::2], SMALL[1::2])
    overrides = {flag[2:]: value for flag, value in pairs} | {"training.n-steps": str(n_steps), "training.preview-every-s": "0"}
    events = []

    def emit(event):
        events.append(event)
        if isinstance(control, AskAt):
            control.watch(event)

    request = None if resume else JobRequest(prompt="a red mug", model=model, overrides=overrides)
    return run_job(request, folder, emit, control, resume=resume), events


@pytest.fixture(autouse=True)
def every_progress(monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)


def test_finish_makes_a_mesh_of_what_is_there(model, tmp_path):
    code, _ = run_with(tmp_path / "job", AskAt("finish", 3), model)
    info = json.loads((tmp_path / "job/result/result.json").read_text())
    assert code == 0 and info["steps_done"] == 3 and info["finished_early"] is True


def test_a_cancelled_job_has_no_result_and_resumes_to_the_mesh_of_an_unbroken_one(model, tmp_path):
    code, events = run_with(tmp_path / "broken", AskAt("cancel", 3), model)
    assert code == 130 and events[-1].code == "cancelled"
    assert not (tmp_path / "broken/result").exists()
    code, events = run_with(tmp_path / "broken", Control(), model, resume=True)
    assert code == 0
    assert min(e.step for e in events if isinstance(e, Progress) and e.phase == "train") == 4
    run_with(tmp_path / "whole", Control(), model)
    broken, whole = (np.load(tmp_path / name / "result/mesh.npz")["vertices"] for name in ("broken", "whole"))
    assert np.array_equal(broken, whole)


def test_a_half_written_result_of_a_killed_engine_is_made_anew(model, tmp_path):
    run_with(tmp_path / "job", Control(), model)
    (tmp_path / "job/result").rename(tmp_path / "job/result.partial")
    (tmp_path / "job/result.partial/result.json").unlink()
    code, _ = run_with(tmp_path / "job", Control(), model, resume=True)
    assert code == 0 and (tmp_path / "job/result/result.json").is_file()
    assert not (tmp_path / "job/result.partial").exists()


def test_the_view_of_the_user_is_what_previews_show(model, tmp_path):
    from engine.protocol import Preview, SetView

    control = Control()
    control.set_view(
        SetView(
            job="a",
            camera_to_world=(1.0, 0, 0, 0, 0, 0, -1, -3, 0, 1, 0, 0, 0, 0, 0, 1),
            window=(-0.4, 0.4, -0.3, 0.3),
            width_px=40,
            height_px=24,
        )
    )
    from engine.jobs import run_job
    from engine.protocol import JobRequest
    from tests.unit.jobs.conftest import SMALL

    overrides = {flag[2:]: value for flag, value in zip(SMALL[0::2], SMALL[1::2])} | {"training.preview-every-s": "1000"}
    events = []
    run_job(JobRequest(prompt="a mug", model=model, overrides=overrides), tmp_path / "job", events.append, control)
    previews = [event for event in events if isinstance(event, Preview)]
    pictures = [PIL.Image.open(event.path) for event in previews if event.view == "camera"]
    assert len(pictures) >= 2 and all(picture.size == (40, 24) and picture.mode == "RGBA" for picture in pictures)
    recorded = (tmp_path / "job" / "events.jsonl").read_text()
    assert '"view": "turn"' in recorded and '"view": "camera"' not in recorded, "what follows the user's hand is no history"


def test_a_fault_of_the_engine_is_a_sentence_and_a_log(model, tmp_path, monkeypatch):
    def broken(self):
        raise KeyError("nonsense")

    monkeypatch.setattr("engine.training.trainer.Trainer.train_step", broken)
    code, events = run_with(tmp_path / "job", Control(), model)
    assert code == 1 and events[-1].code == "internal" and "KeyError" in events[-1].text
    assert "Traceback" in (tmp_path / "job/error.log").read_text()
    assert not (tmp_path / "job/result").exists()


def test_a_full_disk_in_the_middle_is_a_sentence_and_nothing_looks_finished(model, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.meshing.export.write_npz", full)
    code, events = run_with(tmp_path / "job", Control(), model)
    assert code == 2 and events[-1].code == "output"
    assert events[-1].text == f"Writing to {tmp_path / 'job'} failed: No space left on device."
    assert not (tmp_path / "job/result").exists()
    monkeypatch.undo()
    code, _ = run_with(tmp_path / "job", Control(), model, resume=True)
    assert code == 0


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [("A red mug!", "a-red-mug"), ("café  crème", "cafe-creme"), ("マグ", "asset"), ("../../etc", "etc"), ("x" * 99, "x" * 40)],
)
def test_a_slug_is_a_plain_file_name(prompt, slug):
    assert slug_of(prompt) == slug


def test_a_job_folder_can_be_moved_and_resumed(model, tmp_path):
    run_with(tmp_path / "here", AskAt("cancel", 2), model)
    shutil.move(tmp_path / "here", tmp_path / "there")
    code, events = run_with(tmp_path / "there", Control(), model, resume=True)
    assert code == 0 and events[-1].folder == str(tmp_path / "there/result")
