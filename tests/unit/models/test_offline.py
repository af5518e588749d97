"""Once a model is here, nothing goes online: Python itself tells of every address that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.guidance.helpers import helpers
from engine.guidance.model_table import ENGINE_FOLDER, find_model
from engine.model_store.download import download
from engine.model_store.hub import Hub
from tests.tiny_control_net import build_control_net
from tests.unit.jobs.conftest import SMALL
from tests.unit.models.fake_hub import FakeHub, Repo

# Runs each command line that it is given, with "--" between them, and ends with 9 if anything asked the network.
WATCHED = """
import sys
asked = []
sys.addaudithook(lambda event, given: asked.append((event, given[1:])) if event in ("socket.connect", "socket.getaddrinfo") else None)
from engine.cli import main
lines = [[]]
for word in sys.argv[1:]:
    lines.append([]) if word == "--" else lines[-1].append(word)
codes = [main(line) for line in lines]
print("asked", asked, "codes", codes, file=sys.stderr)
sys.exit(9 if asked else max(codes))
"""


def watched(root: Path, tmp_path: Path, *lines: list[str]) -> subprocess.CompletedProcess[str]:
    words = [word for line in lines for word in ["--", *line]][1:]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"DREAMFUSION_MODELS": str(root), "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCHED, *words]
    return subprocess.run(command, cwd=ENGINE_FOLDER.parent, env=environment, text=True, capture_output=True, timeout=900)


@pytest.mark.slow
def test_a_fetched_model_and_its_helper_are_listed_checked_drawn_with_and_trained_under_without_the_network(
    root: Path, hub: FakeHub, tiny_model: Path, tmp_path: Path
) -> None:
    import PIL.Image

    model, helper = find_model("sd15"), helpers()["depth-sd15"]
    net = build_control_net(tmp_path / "net", tiny_model)
    for row, folder in ((model, tiny_model), (helper, net)):
        hub.repos[row.sources[0].repo] = Repo(folder, commit=row.sources[0].revision)
        download(row, root, hub=Hub(hub.url))
    PIL.Image.new("RGB", (32, 32), "gray").save(tmp_path / "depth.png")
    control = ["--control-net", "depth-sd15", "--control-image", str(tmp_path / "depth.png")]
    job = tmp_path / "job"
    ended = watched(
        root,
        tmp_path,
        ["models", "list"],
        ["models", "check", "sd15"],
        ["models", "download", "sd15"],
        ["sample", "a red mug", "--model", "sd15", "--number", "1", "--steps", "2", "--out", str(tmp_path / "out"), *control],
        ["generate", "a red mug", "--model", "sd15", "--out", str(job), *SMALL],
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (job / "result" / "result.json").is_file() and len(list((tmp_path / "out").glob("*.png"))) == 1


def test_the_watch_sees_what_does_go_online(root: Path, tmp_path: Path) -> None:
    ended = watched(root, tmp_path, ["models", "download", "sd14"])
    assert ended.returncode == 9 and "socket.getaddrinfo" in ended.stderr
