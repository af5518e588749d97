"""`python -m engine models ...` as a process: what Blender and pipelines read, and how it ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.guidance.model_table import ENGINE_FOLDER
from tests.unit.models.fake_hub import FakeHub, Repo

REPO = "stable-diffusion-v1-5/stable-diffusion-v1-5"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def command(root: Path, hub: FakeHub, tiny_model: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Starts the command in an environment that sees nothing of this machine's own models; sd15's first copy is on the small hub."""
    hub.repos[REPO] = Repo(tiny_model, commit="451f4fe16113bff5a5d2269ed5ad43b0592e9a14")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"DREAMFUSION_MODELS": str(root), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}

    def start(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", "models", *words],
            cwd=ENGINE_FOLDER.parent, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def lines_of(process: subprocess.Popen[str]) -> list[dict]:  # type: ignore[type-arg]
    out, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def test_download_prints_bytes_as_json_lines_and_the_list_shows_it(command, root: Path) -> None:  # type: ignore[no-untyped-def]
    process = command("download", "sd15", "--json")
    *steps, end = lines_of(process)
    assert process.returncode == 0 and end["type"] == "done" and "is ready in" in end["text"]
    assert {step["type"] for step in steps} == {"progress"} and steps[-1]["done"] == steps[-1]["of"] > 100_000
    assert steps[0]["unit"] == "bytes" and steps[0]["phase"] == "download"
    (listed,) = lines_of(command("list", "--json"))
    rows = {row["id"]: row for row in listed["result"]["models"]}
    assert rows["sd15"]["installed"] and rows["sd15"]["folder"] == str(root / "sd15") and not rows["sd14"]["installed"]
    assert listed["result"]["folder"] == str(root)


def test_a_terminated_download_says_cancelled_and_the_next_goes_on(command, hub: FakeHub, root: Path) -> None:  # type: ignore[no-untyped-def]
    repo = hub.repos[REPO]
    repo.stall[UNET] = 64 * 1024
    process = command("download", "sd15", "--json")
    assert hub.stalled.wait(60)
    part = _wait_for_part(root, 64 * 1024)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in err
    assert part.stat().st_size == 64 * 1024, "what was fetched is kept"
    assert not (root / "sd15").exists()
    repo.stall.clear()
    hub.served.clear()
    process = command("download", "sd15", "--json")
    assert lines_of(process)[-1]["type"] == "done"
    assert [first for name, first in hub.served if name == UNET] == [64 * 1024]


def test_it_ends_with_stdin_when_blender_is_gone(command, hub: FakeHub, root: Path) -> None:  # type: ignore[no-untyped-def]
    hub.repos[REPO].stall[UNET] = 64 * 1024
    process = command("download", "sd15", "--json", "--end-with-stdin")
    assert hub.stalled.wait(60)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 130
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("download", "runwayml/stable-diffusion-v1-5"), "was withdrawn from the hub by its owner in August 2024. Use sd15 instead"),
        (("download", "sd14"), "Model sd14 cannot be had from its sources: CompVis/stable-diffusion-v1-4 is no longer on the hub"),
        (("download", "dalle"), "model is 'dalle', but must be one of toybox"),
        (("check", "sd15"), "is not on this machine. Run: python -m engine models download sd15"),
        (("add", "/no/such/folder"), "There is nothing at /no/such/folder"),
        (("remove", "toybox"), "cannot be removed"),
        (("fetch", "sd15"), "invalid choice: 'fetch'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(command, words: tuple[str, ...], says: str) -> None:  # type: ignore[no-untyped-def]
    process = command(*words, "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in err
    failed = json.loads(out.splitlines()[-1])
    assert failed["type"] == "failed" and says in f"{failed['text']} {failed['fix']}"


def _wait_for_part(root: Path, size: int) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for part in root.rglob("*.part"):
            if part.stat().st_size >= size:
                return part
        time.sleep(0.05)
    raise AssertionError("no part file came")
