"""The texture stage, whole jobs with a tiny random model: from a job, from mesh files, resumed, refused."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import trimesh

from engine.cli import main
from engine.jobs import run_job
from engine.meshing.source_mesh import SourceMesh, read_mesh
from engine.protocol import JobRequest, Progress
from engine.stage_meshes import holds_texture
from engine.stages import stage_request
from engine.training.control import Control
from tests.tiny_control_net import build_control_net
from tests.tiny_shap_e import build_tiny_shap_e
from tests.unit.jobs.conftest import SMALL, Generated

# n_steps of SMALL is 6; a stage has its own sizes for the rest.
STAGE = {flag[2:]: value for flag, value in zip(SMALL[0::2], SMALL[1::2])} | {
    "training.preview-every-s": "0",
    "optimizer.warm-up-steps": "0",
}
LAST = [word for key, value in STAGE.items() for word in ("--" + key, value)]


@pytest.fixture(autouse=True)
def every_progress(monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def job(model, tmp_path_factory):
    """A finished job; tests only read it."""
    folder = tmp_path_factory.mktemp("first") / "job"
    assert run_job(JobRequest(prompt="a red mug", model=model, overrides=STAGE, seed=3), folder, lambda event: None, Control()) == 0
    return folder


@pytest.fixture
def stage(model, tmp_path, capsys):
    """Run `texture` or `refine` in this process with small settings."""

    def run(*words, folder=None, last=()):
        folder = folder or tmp_path / "out"
        capsys.readouterr()
        code = main([*(str(word) for word in words), "--out", str(folder), "--json", *last])
        captured = capsys.readouterr()
        return Generated(code, captured.out, folder, captured.err)

    return run


def mesh_of(folder):
    with np.load(folder / "result/mesh.npz") as mesh:
        return {name: mesh[name] for name in mesh.files}


def albedo_of(folder):
    return np.asarray(PIL.Image.open(folder / "result/albedo.png"), np.float32) / 255


def box_file(path, **visual):
    """A box of 1 x 2 x 3 (Z up) somewhere off the middle."""
    box = trimesh.creation.box(extents=(1, 2, 3))
    box.apply_translation((5, 6, 7))
    if path.suffix in (".glb", ".obj"):
        box.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0)))
    if visual:
        box.visual = trimesh.visual.ColorVisuals(box, **visual)
    box.export(path)
    return path


def test_a_job_s_mesh_gets_new_colors_and_keeps_its_shape_and_uvs(job, stage):
    textured = stage("texture", job, "--prompt", "a blue mug", last=LAST)
    assert textured.code == 0, textured.err
    assert textured.events[-1]["type"] == "result"
    old, new = mesh_of(job), mesh_of(textured.folder)
    assert all(np.array_equal(old[name], new[name]) for name in ("vertices", "faces", "corner_uvs"))
    assert np.abs(albedo_of(job) - albedo_of(textured.folder)).mean() > 0.01
    info = json.loads((textured.folder / "result/result.json").read_text())
    assert (info["stage"], info["prompt"], info["steps_done"]) == ("texture", "a blue mug", 6)
    assert info["source"] == {"center": [0.0, 0.0, 0.0], "scale": 1.0}
    phases = list(dict.fromkeys(event["phase"] for event in textured.of("progress")))
    assert phases == ["load", "train", "texture", "export"]


def test_the_same_prompt_starts_from_the_colors_that_are_there(job, stage):
    kept = stage("texture", job, last=[*LAST, "--optimizer.learning-rate", "0.000001"])
    assert kept.code == 0, kept.err
    info = json.loads((kept.folder / "result/result.json").read_text())
    assert info["prompt"] == "a red mug" and info["config"]["surface"]["colors"] == "source"
    # The field of this test has 16 cells an axis, so it follows the texture in the large.
    assert np.abs(albedo_of(job) - albedo_of(kept.folder)).mean() < 0.03


def test_training_moves_the_texture_and_a_broken_run_goes_on_to_the_same_one(job, model, tmp_path):
    from tests.unit.jobs.test_generate import AskAt

    def run(folder, control, resume=False):
        events = []

        def emit(event):
            events.append(event)
            if isinstance(control, AskAt):
                control.watch(event)

        request = None if resume else JobRequest(prompt="a blue mug", model=model, overrides=STAGE, stage="texture", start_from=str(source))
        return run_job(request, folder, emit, control, resume=resume), events

    source = tmp_path / "source"
    shutil.copytree(job, source)
    assert run(tmp_path / "whole", Control())[0] == 0
    assert run(tmp_path / "broken", AskAt("cancel", 3))[0] == 130
    shutil.rmtree(source)  # the job has its own copy
    code, events = run(tmp_path / "broken", Control(), resume=True)
    assert code == 0 and min(e.step for e in events if isinstance(e, Progress) and e.phase == "train") == 4
    assert np.array_equal(albedo_of(tmp_path / "broken"), albedo_of(tmp_path / "whole"))


@pytest.mark.parametrize("suffix", [".obj", ".glb", ".ply", ".stl"])
def test_a_mesh_file_of_any_kind_stands_upright_and_its_places_can_be_found_again(suffix, tmp_path):
    source = read_mesh(box_file(tmp_path / f"box{suffix}"))
    assert len(source.vertices) == 8 and len(source.faces) == 12
    size = np.ptp(source.vertices, axis=0)
    assert np.allclose(size / size.min(), [1, 2, 3], atol=1e-4)
    assert np.linalg.norm(source.vertices, axis=1).max() == pytest.approx(0.9, abs=1e-4)
    own = source.vertices * source.scale + source.center
    assert np.allclose([own.min(axis=0), own.max(axis=0)], [[4.5, 5, 5.5], [5.5, 7, 8.5]], atol=1e-3)


def test_a_mesh_file_without_uvs_is_unwrapped_and_textured(stage, model, tmp_path):
    file = box_file(tmp_path / "box.ply")
    textured = stage("texture", file, "--prompt", "a red box", "--model", model, last=LAST)
    assert textured.code == 0, textured.err
    info = json.loads((textured.folder / "result/result.json").read_text())
    assert info["stats"]["uv_overlap"] == 0 and info["stats"]["n_faces"] == 12
    assert info["source"]["center"] == pytest.approx([5, 6, 7], abs=1e-4)


def test_uvs_that_can_hold_a_texture_are_kept_and_others_are_made_anew(job, model, stage, tmp_path):
    glb = next((job / "result").glob("*.glb"))
    kept = stage("texture", glb, "--prompt", "a mug", "--model", model, folder=tmp_path / "kept", last=LAST)
    assert kept.code == 0, kept.err
    # A vertex is one again, so the order of corners is that of the file.
    assert np.abs(np.sort(mesh_of(kept.folder)["corner_uvs"].reshape(-1)) - np.sort(mesh_of(job)["corner_uvs"].reshape(-1))).max() < 1e-5
    mesh = trimesh.load(glb).dump()[0]
    mesh.visual.uv = np.zeros_like(mesh.visual.uv)
    mesh.export(tmp_path / "flat.glb")
    made = stage("texture", tmp_path / "flat.glb", "--prompt", "a mug", "--model", model, folder=tmp_path / "made", last=LAST)
    assert made.code == 0 and np.ptp(mesh_of(made.folder)["corner_uvs"]) > 0.5


def test_colors_of_files_are_read_where_they_stand(job, tmp_path):
    half = np.where(trimesh.creation.box().vertices[:, :1] > 0, [[250, 10, 10, 255]], [[10, 10, 250, 255]]).astype(np.uint8)
    source = read_mesh(box_file(tmp_path / "box.ply", vertex_colors=half))
    places, face, weights = source.sample_surface(500, np.random.default_rng(0))
    colors = source.colors_at(face, weights)
    end = np.abs(places[:, 0]) > 0.98 * np.abs(places[:, 0]).max()
    assert np.array_equal(colors[end][:, 0] > 0.5, places[end][:, 0] > 0)
    textured = read_mesh(next((job / "result").glob("*.glb")))
    from engine.meshing.source_mesh import read_result

    ours = read_result(job)
    face, weights = np.arange(len(ours.faces)), np.full((len(ours.faces), 3), 1 / 3)
    assert np.abs(textured.colors_at(face, weights).mean(0) - ours.colors_at(face, weights).mean(0)).max() < 0.01


def test_a_source_is_saved_whole(job, tmp_path):
    from engine.meshing.source_mesh import read_result

    source = read_result(job)
    source.save(tmp_path / "source.npz")
    again = SourceMesh.load(tmp_path / "source.npz")
    assert np.array_equal(source.vertices, again.vertices) and np.array_equal(source.texture, again.texture)
    assert again.corner_colors is None and again.scale == 1.0
    (tmp_path / "source.npz").write_bytes(b"nothing")
    with pytest.raises(Exception, match="is damaged"):
        SourceMesh.load(tmp_path / "source.npz")


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda tmp, job: tmp / "no.obj", "There is no mesh file"),
        (lambda tmp, job: write(tmp / "a.txt", "x"), "is no mesh that can be read"),
        (lambda tmp, job: write(tmp / "a.obj", "v 0 0 0\nv 1 0 0\n"), "has no faces"),
        (lambda tmp, job: write(tmp / "a.glb", "not a glb at all"), "cannot be read as a mesh"),
        (lambda tmp, job: write(tmp / "a.obj", "v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"), "has no size"),
        (lambda tmp, job: tmp, "There is no job in"),
        (lambda tmp, job: shutil.copytree(job, tmp / "half", ignore=shutil.ignore_patterns("result")), "has no finished mesh"),
    ],
)
def test_what_is_no_mesh_is_refused_with_a_sentence_and_nothing_is_left(make, text, job, stage, tmp_path, model):
    source = make(tmp_path, job)
    refused = stage("texture", source, "--prompt", "a mug", "--model", model)
    assert refused.code == 2 and text in refused.err and not refused.folder.exists()
    assert refused.events[-1]["type"] == "failed" and refused.events[-1]["fix"]


def test_contradictions_are_sentences(job, stage, model):
    assert "needs a mesh" in stage("texture").err
    assert "The prompt is empty" in stage("texture", next((job / "result").glob("*.glb")), "--model", model).err
    request = stage_request("texture", job)
    for change, text in (
        ({"start_mesh": "/a.obj"}, "only one can be"),
        ({"stage": "paint"}, "must be one of"),
        ({"reference_image": "/a.png"}, "has no effect on the stage"),
        ({"overrides": {"output.six_views": "true"}}, "show a field, and the stage texture has none"),
        ({"start_from": ""}, "needs a mesh"),
    ):
        import dataclasses

        events = []
        assert run_job(dataclasses.replace(request, **change), job.parent / "none", events.append, Control()) == 2
        assert text in events[-1].text and not (job.parent / "none").exists()
    gray = stage("texture", job, "--surface.colors", "green")
    assert gray.code == 2 and "surface.colors" in gray.err
    more = stage("texture", job, "--resume")
    assert more.code == 2


def test_a_textured_job_has_no_field_to_go_on_with(job, stage, generate, tmp_path):
    textured = stage("texture", job, "--prompt", "a blue mug", last=LAST)
    assert textured.code == 0
    more = generate("--start-from", str(textured.folder), folder=tmp_path / "more", small=False)
    assert more.code == 2 and "has no field to go on with" in more.err


def test_every_command_of_the_guide_runs(job, stage, model, tmp_path):
    import re
    import shlex
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "stages.md").read_text(encoding="utf-8")
    found = re.findall(r"^    python -m engine (.+)$", page, flags=re.MULTILINE)
    commands = [command for command in found if command != "models download shap-e"]  # which needs the internet
    assert len(commands) == 7 == len(found) - 1
    shap_e = build_tiny_shap_e(tmp_path / "shap-e")
    control_net = build_control_net(tmp_path / "control", Path(model))
    places = {"a-red-mug-0": str(job), "chair.glb": str(box_file(tmp_path / "chair.glb"))}
    places |= {"shap-e": str(shap_e), "depth-sd15": str(control_net)}
    for number, command in enumerate(commands):
        words = [places.get(word, word) for word in shlex.split(command)]
        small = [*LAST, "--training.n-steps", "2", "--surface.resolution", "10"]
        done = stage(*words, "--model", model, folder=tmp_path / str(number), last=small)
        assert done.code == 0, (command, done.err)
        assert json.loads((done.folder / "result/result.json").read_text())["stats"]["open_edges"] == 0


def cross_of_a_cube():
    """Corner UVs [12, 3, 2] of the six squares of a cube, unfolded on a grid of eighths as Blender's own cube is; diagonals at 45°."""
    squares = [(0.375, 0.0), (0.375, 0.25), (0.375, 0.5), (0.375, 0.75), (0.125, 0.5), (0.625, 0.5)]
    triangle = np.array([[[0, 0], [0.25, 0], [0.25, 0.25]], [[0, 0], [0.25, 0.25], [0, 0.25]]])
    return np.concatenate([triangle + np.array(square) for square in squares]).astype(np.float32)


@pytest.mark.parametrize("size", [64, 256, 512])
def test_a_uv_map_on_the_grid_holds_a_texture_and_one_that_is_used_twice_does_not(size):
    uvs = cross_of_a_cube()
    assert holds_texture(uvs, size)
    assert not holds_texture(np.concatenate([uvs, uvs[:2]]), size), "one square in twelve is used twice"
    assert not holds_texture(uvs + np.float32(0.5), size), "outside the picture"
