"""--output.tensorboard: the numbers and pictures of a run, read back by tensorboard itself; refused in a sentence without it."""

from __future__ import annotations

import io
import sys

import numpy as np
import PIL.Image
import pytest

WANTED = ("--output.tensorboard", "1", "--training.preview-every-s", "0.05")
SCALARS = {"loss", "guidance loss", "opacity of the box", "largest density", "seconds per step"}


def read_back(folder):
    pytest.importorskip("tensorboard", reason="python -m pip install -r requirements/dev.txt")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_every_step_and_preview_is_read_back(generate):
    pytest.importorskip("tensorboard", reason="python -m pip install -r requirements/dev.txt")
    run = generate("a red mug", last=WANTED)
    assert run.code == 0, run.err
    found = read_back(run.folder)
    assert set(found.Tags()["scalars"]) == SCALARS
    for name in SCALARS:
        values = found.Scalars(name)
        assert [value.step for value in values] == [1, 2, 3, 4, 5, 6] and np.isfinite([value.value for value in values]).all()
    assert len({value.value for value in found.Scalars("loss")}) == 6
    previews = {event["step"]: event["path"] for event in run.of("preview")}
    pictures = {picture.step: picture for picture in found.Images("preview")}
    assert pictures.keys() == previews.keys() and 6 in pictures
    logged = np.asarray(PIL.Image.open(io.BytesIO(pictures[6].encoded_image_string)))
    assert np.array_equal(logged, np.asarray(PIL.Image.open(previews[6]).convert("RGB")))


def test_nothing_is_written_unless_asked_for(generate):
    assert not (generate("a red mug").folder / "tensorboard").exists()


def test_without_the_package_it_is_a_sentence_before_the_run(generate, monkeypatch):
    import importlib.util

    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else original(name, *rest))
    run = generate("a red mug", last=WANTED)
    assert run.code == 2 and len(run.events) == 1 and run.events[-1]["code"] == "setup" and not run.folder.exists()
    assert run.events[-1]["text"].startswith("output.tensorboard needs the package tensorboard")
    assert "python -m pip install tensorboard" in run.events[-1]["fix"]


def test_a_broken_package_is_the_same_sentence(generate, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard" or name == "torch.utils.tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # what an import that fails leaves
    monkeypatch.setattr("engine.tensorboard_log.importlib.util.find_spec", lambda _name, *_rest: object())
    run = generate("a red mug", last=WANTED)
    assert run.code == 2 and run.events[-1]["code"] == "setup" and "pip install tensorboard" in run.events[-1]["fix"]
