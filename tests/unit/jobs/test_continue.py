"""A new job that goes on from another one's last checkpoint, with the real engine."""

import dataclasses
import json
import os
import shutil

import pytest
import torch

from engine.continuation import continued_request
from engine.jobs import run_job
from engine.protocol import Failed, JobRequest, Progress, Result
from engine.training.checkpoint import list_checkpoints, load_checkpoint
from engine.training.control import Control
from tests.unit.jobs.conftest import SMALL

OVERRIDES = {flag[2:]: value for flag, value in zip(SMALL[0::2], SMALL[1::2])} | {"training.preview-every-s": "0"}
# Nothing here depends on how long the run is, so a run of 4 steps that goes on to 7 must be the run of 7.
LEVEL = {
    "optimizer.learning-rate": "0.005",
    "guidance.t-low": "0.1",
    "guidance.t-high": "0.7",
    "guidance.view-contrast": "0",
    "loss.lambda-opacity": "1",
    "loss.lambda-entropy": "1",
    "training.max-level": "1",
    "training.n-steps": "4",
}
pytestmark = pytest.mark.usefixtures("every_progress")


@pytest.fixture
def every_progress(monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)


def run(folder, request, **how):
    events = []
    return run_job(request, folder, events.append, Control(), **how), events


@pytest.fixture(scope="module")
def first(model, tmp_path_factory):
    """A finished job of 4 steps; tests only read it."""
    folder = tmp_path_factory.mktemp("first") / "job"
    request = JobRequest(prompt="a red mug", model=model, overrides=OVERRIDES | LEVEL, seed=3)
    code, events = run(folder, request)
    assert code == 0, events[-1]
    return folder, request


def going_on(first, **overrides):
    folder, request = first
    kept = {key: text for key, text in request.overrides.items() if key != "training.n-steps"}
    more = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return dataclasses.replace(request, overrides=kept | more, start_from=str(folder))


def refused(first, folder, request, text):
    before = sorted(path.name for path in first[0].rglob("*"))
    code, events = run(folder, request)
    assert code == 2 and isinstance(events[-1], Failed), events
    assert text in events[-1].text + " " + events[-1].fix and events[-1].fix
    assert not folder.exists(), "a refused job leaves nothing"
    assert sorted(path.name for path in first[0].rglob("*")) == before


def tensors(folder):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).parts


def test_a_finished_job_keeps_its_last_checkpoint(first):
    assert [path.name for path in list_checkpoints(first[0] / "checkpoints")][-1] == "step-0000004.safetensors"


def test_what_goes_on_is_the_longer_run_itself(first, tmp_path):
    folder, request = first
    code, events = run(tmp_path / "more", going_on(first, training__n_steps=7))
    assert code == 0 and isinstance(events[-1], Result)
    steps = [event.step for event in events if isinstance(event, Progress) and event.phase == "train"]
    assert steps == [5, 6, 7]
    run(tmp_path / "whole", dataclasses.replace(request, overrides=request.overrides | {"training.n-steps": "7"}))
    more, whole = tensors(tmp_path / "more"), tensors(tmp_path / "whole")
    for part, values in whole.items():
        for name, value in values.items():
            assert torch.equal(value, more[part][name]), f"{part} {name}"
    assert not torch.equal(tensors(folder)["field"]["encoding.levels.0"], whole["field"]["encoding.levels.0"])
    info = json.loads((tmp_path / "more/result/result.json").read_text())
    assert (info["steps_done"], info["n_steps"], info["request"]["start_from"]) == (7, 7, str(folder))


def test_without_a_word_it_goes_on_for_half_as_long_again(first, tmp_path):
    code, events = run(tmp_path / "more", going_on(first))
    assert code == 0, events[-1]
    assert json.loads((tmp_path / "more/result/result.json").read_text())["steps_done"] == 6


def test_the_command_line_takes_what_is_left_out_from_the_other_job(first, generate, tmp_path):
    run = generate("--start-from", os.path.relpath(first[0]), "--mesh.target-faces", "200", small=False)
    assert run.code == 0, run.err
    job = json.loads((run.folder / "job.json").read_text())
    assert job["request"]["prompt"] == "a red mug" and job["request"]["seed"] == 3
    assert job["request"]["start_from"] == str(first[0])
    assert job["config"]["mesh"]["target_faces"] == 200 and job["config"]["training"]["n_steps"] == 6
    assert json.loads((run.folder / "result/result.json").read_text())["stats"]["n_faces"] <= 200


def test_another_seed_draws_anew_and_the_same_goes_on(first, tmp_path):
    fields = []
    for name, seed in (("same", 3), ("other", 4), ("again", 4)):
        code, events = run(tmp_path / name, dataclasses.replace(going_on(first, training__n_steps=5), seed=seed))
        assert code == 0, events[-1]
        fields.append(tensors(tmp_path / name)["field"]["encoding.levels.0"])
    assert torch.equal(fields[1], fields[2]) and not torch.equal(fields[0], fields[1])


def test_a_finer_occupancy_grid_is_looked_at_anew(first, tmp_path):
    code, events = run(tmp_path / "more", going_on(first, render__occupancy_resolution=24))
    assert code == 0, events[-1]
    assert tensors(tmp_path / "more")["occupancy"]["densities"].shape == (1, 24, 24, 24)


def test_killed_at_once_it_resumes_from_its_own_copy_though_the_other_job_is_gone(first, tmp_path, monkeypatch):
    shutil.copytree(first[0], tmp_path / "source")
    request = dataclasses.replace(going_on(first, training__n_steps=5), start_from=str(tmp_path / "source"))
    with monkeypatch.context() as patch:
        patch.setattr("engine.jobs._load", lambda run: os.getpid() / 0)
        assert run(tmp_path / "more", request)[0] == 1
    shutil.rmtree(tmp_path / "source")
    code, events = run(tmp_path / "more", None, resume=True)
    assert code == 0, events[-1]
    assert [event.step for event in events if isinstance(event, Progress) and event.phase == "train"] == [5]


def test_an_unfinished_job_can_be_gone_on_from(first, tmp_path):
    shutil.copytree(first[0], tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/result")
    code, events = run(tmp_path / "more", dataclasses.replace(going_on(first), start_from=str(tmp_path / "cut")))
    assert code == 0, events[-1]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("field.finest_resolution", "32", "field.finest-resolution is 32, but the job in"),
        ("field.finest_resolution", "32", "was trained with 16. Use --field.finest-resolution 16."),
        ("field.encoding", "hash", "field.encoding is hash, but the job in"),
        ("field.blob_radius", "0.3", "Use --field.blob-radius 0.45."),
        ("optimizer.method", "adan", "Use --optimizer.method adam."),
        ("training.n_steps", "4", "has done 4 steps. Use --training.n-steps 6."),
        ("training.n-steps", "2", "training.n-steps is 2, but"),
    ],
)
def test_what_does_not_fit_is_named(first, tmp_path, key, value, text):
    refused(first, tmp_path / "more", going_on(first, **{key: value}), text)


def test_folders_that_are_no_start_are_refused(first, tmp_path):
    request = going_on(first)
    refused(first, tmp_path / "a", dataclasses.replace(request, start_from=str(tmp_path / "no")), "There is no job in")
    copy = tmp_path / "copy"
    shutil.copytree(first[0], copy)
    paths = list_checkpoints(copy / "checkpoints")
    os.truncate(paths[-1], paths[-1].stat().st_size - 50)
    refused(first, tmp_path / "b", dataclasses.replace(request, start_from=str(copy)), "damaged or was cut short")
    shutil.rmtree(copy / "checkpoints")
    refused(first, tmp_path / "c", dataclasses.replace(request, start_from=str(copy)), "has no checkpoint to go on from")
    (copy / "job.json").write_text("{")
    refused(first, tmp_path / "d", dataclasses.replace(request, start_from=str(copy)), "job.json is damaged")


def test_a_job_cannot_replace_the_one_it_goes_on_from(first):
    code, events = run(first[0], going_on(first), overwrite=True)
    assert code == 2 and "cannot go on from" in events[-1].text
    assert (first[0] / "result/result.json").is_file()


def test_a_run_that_starts_again_gives_up_its_later_checkpoints(first, tmp_path):
    from engine.training.checkpoint import save_checkpoint

    shutil.copytree(first[0] / "checkpoints", tmp_path / "checkpoints")
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    save_checkpoint(tmp_path / "checkpoints", 2, checkpoint)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-0000002.safetensors"]


def test_continued_request_keeps_everything_but_the_length(first):
    folder, request = first
    more = continued_request(folder)
    assert "training.n-steps" not in more.overrides and more.overrides.items() <= request.overrides.items()
    assert dataclasses.replace(more, overrides=request.overrides, start_from="") == request
