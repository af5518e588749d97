"""`generate --init shap-e`: the job draws its first shape itself, once, and goes on from it like from a mesh file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.cli import main
from engine.config import JobConfig
from engine.errors import UserError
from engine.meshing.source_mesh import SourceMesh
from engine.protocol import JobRequest
from engine.stages import find_source
from engine.training import loop
from engine.training.control import Control
from tests.tiny_shap_e import build_tiny_shap_e


@pytest.fixture(scope="module")
def shap_e(tmp_path_factory):
    return build_tiny_shap_e(tmp_path_factory.mktemp("shap-e") / "model")


def drawn_steps(run):
    return [event for event in run.of("progress") if event["text"].startswith("Drawing the first shape")]


def test_a_job_starts_from_what_shap_e_draws(generate, shap_e, tmp_path):
    # Six steps are the end of a run too, where the entropy would fatten the shape.
    run = generate("a red mug", "--init", str(shap_e), "--loss.lambda-entropy", "0")
    assert run.code == 0 and run.events[-1]["type"] == "result", run.err
    steps = drawn_steps(run)
    assert steps[0]["step"] == 0 and steps[-1]["step"] == steps[-1]["of"] == 127
    phases = [event["text"] for event in run.of("progress") if event["phase"] == "load"]
    assert phases.index(steps[-1]["text"]) < phases.index("Starting torch")  # before the diffusion model is in memory
    source = SourceMesh.load(run.folder / "source.npz")
    assert len(source.faces) > 500 and source.has_colors
    mesh = np.load(run.folder / "result" / "mesh.npz")["vertices"]
    assert np.abs(np.ptp(mesh, axis=0) - np.ptp(source.vertices, axis=0)).max() < 0.3  # six small steps: still the box


def test_a_resumed_job_draws_nothing_and_needs_no_model(generate, shap_e, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(shap_e, tmp_path / "copy"))
    original = loop.train

    def cancelled(*_args, **_kwargs):
        raise loop.CancelledError

    monkeypatch.setattr("engine.training.loop.train", cancelled)
    first = generate("a red mug", "--init", str(copy))
    assert first.code == 130 and (first.folder / "source.npz").is_file()
    monkeypatch.setattr("engine.training.loop.train", original)
    shutil.rmtree(copy)
    assert main(["generate", "--resume", "--out", str(first.folder), "--json"]) == 0
    assert (first.folder / "result" / "result.json").is_file()


def test_cancelling_while_it_draws_leaves_a_job_that_resumes(generate, shap_e, monkeypatch):
    monkeypatch.setattr(Control, "cancelled", property(lambda _self: True))
    run = generate("a red mug", "--init", str(shap_e))
    assert run.code == 130 and not (run.folder / "source.npz").exists() and not (run.folder / "source.partial").exists()
    assert (run.folder / "job.json").is_file()


@pytest.mark.parametrize("init", ["shap-e", "openai/shap-e"])
def test_a_model_that_is_not_here_is_a_sentence_before_anything_is_written(generate, tmp_path, monkeypatch, init):
    monkeypatch.setenv("DREAMFUSION_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    run = generate("a red mug", "--init", init)
    assert run.code == 2 and run.events[-1]["code"] == "model"
    assert "models download shap-e" in run.events[-1]["fix"] and not run.folder.exists()


def test_a_folder_of_something_else_is_a_sentence(generate, tmp_path):
    (tmp_path / "photos").mkdir()
    run = generate("a red mug", "--init", str(tmp_path / "photos"))
    assert run.code == 2 and "is no Shap-E model: it lacks tokenizer" in run.events[-1]["text"] and not run.folder.exists()


def test_without_words_there_is_nothing_to_draw(shap_e, tmp_path):
    request = JobRequest(prompt=" ", start_mesh=str(shap_e), reference_image="/mug.png")
    with pytest.raises(UserError, match="Shap-E draws from words, and the prompt is empty. Say what the picture shows"):
        find_source(request, JobConfig(), tmp_path / "job")


def test_a_job_starts_from_a_ball_of_the_size_that_was_asked_for(generate, tmp_path):
    # Without a draw of the model the field is what it started as: the mesh is the ball.
    still = ["--loss.lambda-entropy", "0", "--optimizer.learning-rate", "1e-6"]
    for word, radius in (("sphere", 0.5), ("sphere:0.8", 0.8)):
        run = generate("a red mug", "--init", word, folder=tmp_path / word.replace(":", "-"), last=still)
        assert run.code == 0, run.err
        distances = np.linalg.norm(SourceMesh.load(run.folder / "source.npz").vertices, axis=1)
        assert np.abs(distances - radius).max() < 1e-5
        mesh = np.load(run.folder / "result" / "mesh.npz")["vertices"]
        assert np.abs(np.linalg.norm(mesh, axis=1) - radius).max() < 0.12  # a lattice of 16 cells
    assert json.loads((run.folder / "job.json").read_text())["request"]["start_mesh"] == "sphere:0.8"


def test_a_ball_is_one_also_where_a_folder_has_its_name(generate, tmp_path, monkeypatch):
    (tmp_path / "sphere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = generate("a red mug", "--init", "sphere", "--training.n-steps", "1", folder=tmp_path / "job")
    assert run.code == 0, run.err


@pytest.mark.parametrize("init", ["sphere:", "sphere:large", "sphere:2", "sphere:nan", "sphere:-0.5"])
def test_a_ball_of_no_size_is_a_sentence_before_anything_is_written(generate, init):
    run = generate("a red mug", "--init", init)
    assert run.code == 2 and not run.folder.exists()
    assert f"init is {init!r}, but the radius behind sphere: must be a number in 0.05..0.95. Use --init sphere:0.5." in run.err


def test_a_job_is_no_mesh_and_both_ways_from_it_are_named(generate, tmp_path):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "job.json").write_text("{}")
    run = generate("a red mug", "--init", str(tmp_path / "before"))
    assert run.code == 2 and not run.folder.exists()
    assert f"is the folder of a job, not a mesh. Go on from its checkpoint with --start-from {tmp_path / 'before'}, or" in run.err
