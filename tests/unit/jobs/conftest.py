"""One tiny random model and one finished job for all tests of jobs."""

import json

import pytest
import torch

from engine.cli import main
from tests.tiny_sd import build_tiny_sd

torch.set_num_threads(1)

# A job of about a second once diffusers is imported. The isovalue is given because looking for it takes longer than the rest.
SMALL = [
    "--training.n-steps", "6", "--training.batch-size", "1", "--render.size-px", "16", "--render.n-samples", "24",
    "--render.occupancy-resolution", "16", "--field.finest-resolution", "16", "--field.n-levels", "2",
    "--training.preview-size-px", "32", "--mesh.resolution", "16", "--mesh.target-faces", "300", "--mesh.texture-size", "64",
    "--mesh.supersample", "1", "--mesh.isovalue", "2", "--output.turntable-frames", "2", "--output.turntable-size-px", "64",
]  # fmt: skip


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return str(build_tiny_sd(tmp_path_factory.mktemp("tiny") / "model"))


class Generated:
    """What a run of `generate --json` left: exit code, events, folder."""

    def __init__(self, code, out, folder, err=""):
        self.code, self.folder, self.err = code, folder, err
        self.events = [json.loads(line) for line in out.splitlines()]

    def of(self, kind):
        return [event for event in self.events if event["type"] == kind]


@pytest.fixture
def generate(model, tmp_path, capsys):
    """Run `generate` in this process with the tiny model; `last` comes after the small settings and so wins."""

    def run(*words, folder=None, small=True, last=()):
        folder = folder or tmp_path / "job"
        capsys.readouterr()
        arguments = ["generate", *words, "--out", str(folder), "--json"]
        if small:
            arguments += [*SMALL, "--model", model]
        code = main([*arguments, *last])
        captured = capsys.readouterr()
        return Generated(code, captured.out, folder, captured.err)

    return run
