"""A hash grid read in half precision in whole jobs: what goes on is the unbroken run, and a job may change over to it."""

import json
import shutil

import pytest
import torch

from engine.protocol import JobRequest
from tests.unit.jobs.test_continue import LEVEL, OVERRIDES, going_on, run, tensors

HASH = {"field.encoding": "hash", "field.features": "2", "field.hidden-width": "8"}
HALF = {"field.table-precision": "float16"}
pytestmark = pytest.mark.usefixtures("every_progress")


@pytest.fixture
def every_progress(monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)


def job(model, folder, **more):
    request = JobRequest(prompt="a red mug", model=model, overrides=OVERRIDES | LEVEL | HASH | more, seed=3)
    code, events = run(folder, request)
    assert code == 0, events[-1]
    return folder, request


def test_what_goes_on_is_the_unbroken_run_and_its_checkpoint_holds_float32_alone(model, tmp_path):
    first = job(model, tmp_path / "first", **HALF)
    code, events = run(tmp_path / "more", going_on(first, training__n_steps=7))
    assert code == 0, events[-1]
    job(model, tmp_path / "whole", **HALF, **{"training.n-steps": "7"})
    more, whole = tensors(tmp_path / "more"), tensors(tmp_path / "whole")
    for part, values in whole.items():
        for name, value in values.items():
            assert torch.equal(value, more[part][name]) and value.dtype != torch.float16, f"{part} {name}"
    assert json.loads((tmp_path / "more/result/result.json").read_text())["config"]["field"]["table_precision"] == "float16"


def test_a_job_in_float32_goes_on_in_half_precision(model, tmp_path):
    first = job(model, tmp_path / "first")
    code, events = run(tmp_path / "more", going_on(first, training__n_steps=6, **{"field__table-precision": "float16"}))
    assert code == 0, events[-1]
    before, after = (tensors(folder)["field"]["encoding.table"] for folder in (first[0], tmp_path / "more"))
    assert before.shape == after.shape and not torch.equal(before, after)


def test_a_job_from_before_there_was_a_choice_resumes(model, tmp_path):
    folder, _ = job(model, tmp_path / "job")
    shutil.rmtree(folder / "result")
    path = folder / "job.json"
    written = json.loads(path.read_text())
    del written["config"]["field"]["table_precision"]
    path.write_text(json.dumps(written))
    code, events = run(folder, None, resume=True)
    assert code == 0, events[-1]
