"""A surrounding that is learned by spherical harmonics: trained, kept, resumed, gone on from, and asked of jobs that knew none."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from engine.protocol import JobRequest, Progress
from engine.training.checkpoint import latest_checkpoint
from engine.training.control import Control
from tests.unit.jobs.conftest import SMALL

HARMONICS = ("--render.background", "learned", "--field.background-encoding", "spherical-harmonics", "--field.background-degree", "4")


@pytest.fixture(autouse=True)
def every_progress(monkeypatch):
    monkeypatch.setattr("engine.jobs.PROGRESS_EVERY_S", 0.0)


class CancelAt(Control):
    """Cancels when training has reached a step; 0: never."""

    def __init__(self, step=0):
        super().__init__()
        self.step = step

    def watch(self, event):
        if isinstance(event, Progress) and event.phase == "train" and event.step == self.step:
            self.cancel()


def run(folder, model, *, cancel_at=0, resume=False):
    from engine.jobs import run_job

    words = (*SMALL, *HARMONICS, "--training.n-steps", "8", "--training.preview-every-s", "0")
    overrides = {flag[2:]: value for flag, value in zip(words[0::2], words[1::2])}
    control = CancelAt(cancel_at)
    request = None if resume else JobRequest(prompt="a red mug", model=model, overrides=overrides)
    return run_job(request, folder, control.watch, control, resume=resume)


def test_it_learns_is_kept_and_resumes_to_what_an_unbroken_run_has(model, tmp_path):
    assert run(tmp_path / "broken", model, cancel_at=3) == 130
    early = latest_checkpoint(tmp_path / "broken/checkpoints").parts["field"]["background_network.hidden.weight"]
    assert run(tmp_path / "broken", model, resume=True) == 0 and run(tmp_path / "whole", model) == 0
    broken, whole = (latest_checkpoint(tmp_path / name / "checkpoints").parts["field"] for name in ("broken", "whole"))
    assert early.shape == (32, 16) and (whole["background_network.hidden.weight"] != early).any(), "it learns"
    assert all((broken[name] == whole[name]).all() for name in whole)
    meshes = [np.load(tmp_path / name / "result/mesh.npz")["vertices"] for name in ("broken", "whole")]
    assert np.array_equal(*meshes)


def test_a_job_from_before_there_were_two_encodings_is_one_of_waves(generate):
    """Its settings name none; it resumes, and another encoding cannot go on from it."""
    from engine.jobs import run_job

    waves = generate("a red mug", last=("--render.background", "learned"))
    written = waves.folder / "job.json"
    body = json.loads(written.read_text())
    assert body["config"]["field"].pop("background_encoding") == "frequency" and body["config"]["field"].pop("background_degree")
    written.write_text(json.dumps(body))
    shutil.rmtree(waves.folder / "result")
    assert run_job(None, waves.folder, lambda _event: None, Control(), resume=True) == 0

    other = generate("a red mug", "--start-from", str(waves.folder), folder=waves.folder.parent / "other", last=HARMONICS)
    (failed,) = other.of("failed")
    assert other.code == 2 and "field.background-encoding is spherical-harmonics, but the job in" in failed["text"]
    assert failed["fix"] == "Use --field.background-encoding frequency."
