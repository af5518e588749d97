"""The history is what the job folders say: every state, every kind of damage, thousands of them, and a delete that takes only jobs."""

import json
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from blender_dreamfusion.core import history
from blender_dreamfusion.core.file_lock import FileLock
from blender_dreamfusion.core.history import HistoryReader, HistoryState, read_entry
from blender_dreamfusion.core.protocol import messages
from engine.job_folder import OURS, create_job
from engine.protocol import Failed, JobRequest, Preview, Progress


def make_job(folder: Path, prompt: str = "a red mug", **request) -> Path:
    """A real job folder, made by the engine's own code."""
    job = create_job(folder, JobRequest(prompt=prompt, **request))
    job.record(Progress(job="j", phase="train", step=30, of=300))
    return folder


def finish(folder: Path, total_s: float = 61.5, **changed) -> Path:
    (folder / "result").mkdir()
    result = {"seconds": {"total": total_s}, "steps_done": 300, "stats": {"n_faces": 4000}, "device": "cpu", "finished_early": False}
    (folder / "result" / "result.json").write_text(json.dumps({**result, **changed}))
    (folder / "result" / "thumbnail.png").write_bytes(b"\x89PNG")
    return folder


def record(folder: Path, event) -> None:
    from engine.job_folder import open_job

    open_job(folder).record(event)


def test_a_finished_job_has_all_that_the_list_shows(tmp_path):
    entry = read_entry(finish(make_job(tmp_path / "one", seed=7)))
    assert (entry.state, entry.prompt, entry.preset, entry.seed) == (HistoryState.DONE, "a red mug", "draft", 7)
    assert (entry.seconds, entry.step, entry.n_triangles, entry.device) == (61.5, 300, 4000, "cpu")
    assert entry.thumbnail == str(tmp_path / "one" / "result" / "thumbnail.png")
    assert abs(entry.created - time.time()) < 60 and entry.date.startswith("20")
    assert not entry.is_resumable


def test_unfinished_cancelled_and_failed_jobs_can_be_resumed_and_say_why(tmp_path):
    killed = make_job(tmp_path / "killed")
    with (killed / "events.jsonl").open("a") as file:
        file.write('{"type":"progress","st')  # the kill came here
    (killed / "checkpoints").mkdir()
    for step in (10, 25):
        (killed / "checkpoints" / f"step-{step:07d}.safetensors").touch()
    entry = read_entry(killed)
    assert (entry.state, entry.step, entry.is_resumable) == (HistoryState.UNFINISHED, 25, True)
    assert entry.n_steps > 0

    with (killed / "events.jsonl").open("a") as file:
        file.write("\n")
    record(killed, Failed(job="j", code="cancelled", text="The job was cancelled."))
    assert read_entry(killed).state is HistoryState.CANCELLED

    record(killed, Failed(job="j", code="memory", text="The memory is full."))
    entry = read_entry(killed)
    assert (entry.state, entry.problem, entry.is_resumable) == (HistoryState.FAILED, "The memory is full.", True)

    record(killed, Progress(job="j", phase="train", step=31, of=300))
    assert read_entry(killed).state is HistoryState.UNFINISHED, "it was resumed, and killed again"


def test_an_unfinished_job_shows_its_last_preview(tmp_path):
    folder = make_job(tmp_path / "one")
    (folder / "previews").mkdir()
    for name in ("step-0000010.png", "step-0000020.png", "step-0000030.partial"):
        (folder / "previews" / name).touch()
    assert read_entry(folder).thumbnail.endswith("step-0000020.png")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"request": 5}', '{"request": {"prompt": 7}}', "[" * 100_000, "\x00\xff", '{"config": {}}'],
    ids=lambda text: text[:12],
)
def test_a_damaged_job_is_one_damaged_entry_and_the_others_come_through(tmp_path, text):
    finish(make_job(tmp_path / "good"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "job.json").write_text(text, encoding="latin-1")
    found = history.scan(tmp_path, {})
    states = {Path(folder).name: entry.state for folder, (_, entry) in found.items()}
    assert states == {"good": HistoryState.DONE, "bad": HistoryState.DAMAGED}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seconds": 5, "stats": [], "steps_done": "many"}', '{"seconds": {"total": 1e999}}'])
def test_a_damaged_result_is_still_a_result(tmp_path, text):
    folder = finish(make_job(tmp_path / "one"))
    (folder / "result" / "result.json").write_text(text)
    entry = read_entry(folder)
    assert (entry.state, entry.seconds, entry.step) == (HistoryState.DONE, 0.0, 0)


def test_what_is_no_job_is_not_in_the_history(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert history.scan(tmp_path, {}) == {}
    assert history.scan(tmp_path / "nowhere", {}) == {}


def test_a_huge_file_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MAX_FILE_BYTES", 100)
    make_job(tmp_path / "one")
    assert read_entry(tmp_path / "one").state is HistoryState.DAMAGED


def read_all(reader: HistoryReader, folder: Path):
    reader.ask(folder)
    deadline = time.monotonic() + 30
    while (found := reader.take()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_the_reader_gives_the_newest_first_and_never_holds_its_caller(tmp_path):
    template = make_job(tmp_path / "template")
    body = json.loads((template / "job.json").read_text())
    n_jobs = 1500
    for number in range(n_jobs):
        folder = tmp_path / f"job-{number}"
        folder.mkdir()
        body["created"] = f"2026-01-{1 + number % 28:02d}T10:00:{number % 60:02d}+00:00"
        (folder / "job.json").write_text(json.dumps(body))
    reader = HistoryReader()
    asked = time.perf_counter()
    reader.ask(tmp_path)
    longest, found = time.perf_counter() - asked, None
    while found is None:
        begun = time.perf_counter()
        found = reader.take()
        longest = max(longest, time.perf_counter() - begun)
        time.sleep(0.002)
    assert longest < (time.perf_counter() - asked) / 4, "a caller that is held waits for all of it"
    assert len(found) == n_jobs + 1
    assert [entry.created for entry in found] == sorted((entry.created for entry in found), reverse=True)


def test_only_what_changed_is_read_again(tmp_path, monkeypatch):
    one, two = make_job(tmp_path / "one"), make_job(tmp_path / "two")
    reader = HistoryReader()
    assert {entry.state for entry in read_all(reader, tmp_path)} == {HistoryState.UNFINISHED}
    read = []
    real = history.read_entry
    monkeypatch.setattr(history, "read_entry", lambda folder: (read.append(folder), real(folder))[1])
    finish(one)
    states = {Path(entry.folder).name: entry.state for entry in read_all(reader, tmp_path)}
    assert states == {"one": HistoryState.DONE, "two": HistoryState.UNFINISHED}
    assert read == [one] and two not in read
    history.delete_job(two, tmp_path)
    assert [Path(entry.folder).name for entry in read_all(reader, tmp_path)] == ["one"]


def test_a_stopped_reader_leaves_no_thread(tmp_path):
    for number in range(200):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "job.json").write_text("{}")
    reader = HistoryReader()
    reader.ask(tmp_path)
    reader.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "dreamfusion-history"]


def test_search_finds_words_in_any_order(tmp_path):
    mug = read_entry(finish(make_job(tmp_path / "mug", "a red mug", seed=4711)))  # no date has this number
    chair = read_entry(make_job(tmp_path / "chair", "a Red chair"))
    entries = (mug, chair)
    assert history.matching(entries, "") == entries
    assert history.matching(entries, "MUG red") == (mug,)
    assert history.matching(entries, "unfinished") == (chair,)
    assert history.matching(entries, "seed 4711") == (mug,)
    assert history.matching(entries, "boat") == ()


def test_times_for_estimates_are_those_of_whole_jobs_oldest_first(tmp_path):
    entries = [
        read_entry(finish(make_job(tmp_path / "new", overrides={"training.n_steps": "50"}), 20.0)),
        read_entry(finish(make_job(tmp_path / "early"), 5.0, finished_early=True)),
        read_entry(make_job(tmp_path / "unfinished")),
        read_entry(finish(make_job(tmp_path / "old"), 60.0)),
    ]
    found = history.records(entries)
    assert [(record.preset, record.seconds, record.n_steps) for record in found] == [("draft", 60.0, 300), ("draft", 20.0, 300)]
    assert found[1].overrides == {"training.n_steps": "50"}


def test_again_is_the_same_request_and_further_goes_on_from_the_folder(tmp_path):
    folder = make_job(tmp_path / "one", overrides={"training.n-steps": "50", "render.n_samples": "32"}, seed=4)
    again = history.again_request(folder)
    assert asdict(again) == asdict(messages.request_from_json(json.loads((folder / "job.json").read_text())["request"]))
    further = history.further_request(folder, 90)
    assert further.start_from == str(folder)
    assert further.overrides == {"render.n_samples": "32", "training.n_steps": "90"}
    (folder / "job.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read .* Generate the object anew"):
        history.again_request(folder)


def test_more_steps_of_a_stage_go_on_from_what_it_made_and_its_time_tells_nothing_of_whole_jobs(tmp_path):
    overrides = {"training.n_steps": "50", "surface.colors": "gray"}
    folder = make_job(tmp_path / "one", overrides=overrides, stage="texture", start_mesh="/meshes/chair.glb")
    further = history.further_request(folder, 90, n_done=50)
    assert (further.stage, further.start_from, further.start_mesh) == ("texture", str(folder), "")
    assert further.overrides == {"training.n_steps": "40", "surface.colors": "source"}
    entry = read_entry(folder)
    assert entry.stage == "texture" and entry.is_short


def test_again_takes_the_picture_that_the_job_kept(tmp_path):
    folder = make_job(tmp_path / "one")
    body = json.loads((folder / "job.json").read_text())
    body["request"]["reference_image"] = "/gone/picture.png"
    (folder / "job.json").write_text(json.dumps(body))
    assert history.again_request(folder).reference_image == "/gone/picture.png"
    (folder / "reference.png").touch()
    assert history.again_request(folder).reference_image == str(folder / "reference.png")


def test_delete_takes_a_job_whole_and_leaves_what_is_not_of_a_job(tmp_path):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    folder = finish(make_job(jobs / "one"))
    record(folder, Preview(job="j", path="x"))
    assert history.delete_job(folder, jobs) is True
    assert not folder.exists()

    folder = finish(make_job(jobs / "two"))
    (folder / "my scene.blend").write_text("mine")
    assert history.delete_job(folder, jobs) is False
    assert [path.name for path in folder.iterdir()] == ["my scene.blend"]


def test_delete_refuses_everything_but_a_job_in_the_jobs_folder(tmp_path):
    jobs, outside = tmp_path / "jobs", make_job(tmp_path / "outside")
    jobs.mkdir()
    (jobs / "link").symlink_to(outside)
    (jobs / "no job").mkdir()
    for folder in (outside, jobs / "link", jobs / "no job", jobs, jobs / ".." / "outside", jobs / "nowhere"):
        with pytest.raises(ValueError, match="Delete it in a file browser"):
            history.delete_job(folder, jobs)
    assert (outside / "job.json").is_file() and (jobs / "no job").is_dir()


def test_delete_refuses_a_job_at_which_an_engine_works(tmp_path):
    folder = make_job(tmp_path / "one")
    lock = FileLock(folder / "job.lock")
    assert lock.acquire()
    before = sorted(os.listdir(folder))
    with pytest.raises(ValueError, match="Cancel it, then delete it"):
        history.delete_job(folder, tmp_path)
    assert sorted(os.listdir(folder)) == before
    lock.release()
    assert history.delete_job(folder, tmp_path)


def test_delete_knows_every_file_that_the_engine_makes():
    assert set(history.JOB_FILES) == set(OURS)
    assert history.JOB_FILES[0] == "job.json" and history.JOB_FILES[-1] == "job.lock"
