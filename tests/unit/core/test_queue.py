"""The line of waiting jobs: its order, the file that keeps it, and that two Blenders never run the same one. Locks by real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blender_dreamfusion.core.file_lock import FileLock
from blender_dreamfusion.core.import_plan import ImportPlan
from blender_dreamfusion.core.protocol import messages
from blender_dreamfusion.core.queue import Queue, QueueEntry, open_store

ROOT = Path(__file__).resolve().parents[3]
# Another Blender: takes a line in argv[2], puts jobs named by the other arguments into it, runs the first, and waits to be killed.
OTHER = (
    "import sys, time; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path\n"
    "from blender_dreamfusion.core.protocol import messages\n"
    "from blender_dreamfusion.core.queue import Queue, QueueEntry, open_store\n"
    "store, left = open_store(Path(sys.argv[2]))\n"
    "queue = Queue(store)\n"
    "for name in sys.argv[3:]:\n"
    "    queue.add(QueueEntry(messages.JobRequest(prompt=name), str(Path('/jobs') / name)))\n"
    "queue.take()\n"
    "print(store.path.name, len(left), flush=True)\n"
    "time.sleep(60)\n"
)


def entry(name: str, **values) -> QueueEntry:
    return QueueEntry(messages.JobRequest(prompt=name), str(Path("/jobs") / name), **values)


def names(entries) -> str:
    return " ".join(item.request.prompt for item in entries)


def queue_of(words: str, store=None) -> Queue:
    queue = Queue(store)
    for word in words.split():
        queue.add(entry(word))
    return queue


@pytest.fixture
def other_blender():
    running = []

    def begin(folder: Path, *jobs: str) -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen([sys.executable, "-c", OTHER, str(ROOT), str(folder), *jobs], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield begin
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def test_first_come_first_served_and_the_running_one_is_remembered():
    queue = queue_of("a b c")
    assert queue.take() == queue.running == entry("a")
    assert names(queue.entries) == "b c"
    queue.ended()
    assert queue.running is None
    queue.put_back(entry("a"))
    assert names(queue.entries) == "a b c"
    for _ in range(3):
        queue.take()
    assert queue.take() is None


@pytest.mark.parametrize(
    ("index", "by", "after", "place"),
    [(2, -1, "a c b d", 1), (0, 1, "b a c d", 1), (0, -1, "a b c d", 0), (3, 5, "a b c d", 3), (3, -9, "d a b c", 0), (7, 1, "a b c d", 7)],
)
def test_entries_move_up_and_down_and_stop_at_the_ends(index, by, after, place):
    queue = queue_of("a b c d")
    assert queue.move(index, by) == place
    assert names(queue.entries) == after


def test_entries_are_removed_one_by_one_or_all():
    queue = queue_of("a b c")
    queue.remove(1)
    queue.remove(9)
    queue.remove(-1)
    assert names(queue.entries) == "a c"
    queue.clear()
    assert queue.entries == ()


def test_an_entry_survives_json_unchanged():
    plan = ImportPlan(location=(1.0, 2.5, -3.0), height_m=0.4, scene_name="Set", lods=(0.5, 0.1), tags=("prop",))
    request = messages.JobRequest(prompt="ein Käfer", overrides={"training.n_steps": "5"}, seed=9, start_from="/jobs/old")
    made = QueueEntry(request, "/jobs/new", plan, resume=True)
    assert QueueEntry.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_the_line_survives_a_blender_that_was_closed(tmp_path):
    store, left = open_store(tmp_path)
    assert left == ()
    queue_of("a b c", store)
    store.close()
    _, left = open_store(tmp_path)
    assert names(left) == "a b c"


def test_a_job_that_ran_when_blender_crashed_comes_first_and_is_resumed_if_it_had_begun(tmp_path, other_blender):
    jobs = tmp_path / "jobs"
    (jobs / "begun").mkdir(parents=True)
    (jobs / "begun" / "job.json").write_text("{}")
    process, _ = other_blender(tmp_path / "queue", str(jobs / "begun"), "b", "c")
    process.kill()
    process.wait()
    _, left = open_store(tmp_path / "queue")
    assert [item.resume for item in left] == [True, False, False]
    assert [Path(item.folder).name for item in left] == ["begun", "b", "c"]


def test_a_job_that_was_done_when_blender_crashed_is_not_run_again(tmp_path):
    (tmp_path / "job" / "result").mkdir(parents=True)
    store, _ = open_store(tmp_path / "queue")
    queue = Queue(store)
    queue.started(QueueEntry(messages.JobRequest(prompt="a"), str(tmp_path / "job")))
    queue.add(entry("b"))
    (tmp_path / "job" / "result" / "result.json").write_text("{}")
    store.close()
    assert names(open_store(tmp_path / "queue")[1]) == "b"


def test_two_blenders_keep_two_lines_and_the_next_one_finds_what_both_left(tmp_path, other_blender):
    first, said = other_blender(tmp_path, "a", "b")
    assert said == "queue-0.json 0"
    second, said = other_blender(tmp_path, "c", "d")
    assert said == "queue-1.json 0", "the line of a living Blender is its own"
    store, left = open_store(tmp_path)
    assert (store.path.name, left) == ("queue-2.json", ())
    store.close()
    for process in (first, second):
        process.kill()
        process.wait()
    store, left = open_store(tmp_path)
    assert names(left) == "a b c d"
    assert [path.name for path in sorted(tmp_path.glob("*.json"))] == ["queue-0.json"]
    store.close()
    assert names(open_store(tmp_path)[1]) == "a b c d", "a Blender that was closed without an answer asks again"


def test_what_was_left_stays_in_the_file_until_it_is_answered(tmp_path):
    store, _ = open_store(tmp_path)
    queue_of("a b", store)
    store.close()
    store, left = open_store(tmp_path)
    queue = Queue(store)
    queue.left = left
    queue.add(entry("new"))
    store.close()
    store, left = open_store(tmp_path)
    assert names(left) == "new a b"
    queue = Queue(store)
    queue.left = left
    queue.answer_left(left[1:])
    assert names(queue.entries) == "a b" and queue.left == ()
    queue.clear()
    assert not store.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1, "waiting": 5, "running": "x"}', "[" * 100_000, "\xff"])
def test_a_damaged_file_is_an_empty_line(tmp_path, text):
    (tmp_path / "queue-0.json").write_text(text, encoding="latin-1")
    store, left = open_store(tmp_path)
    assert store is not None and left == ()


def test_a_damaged_entry_costs_only_itself(tmp_path):
    good = entry("good").to_json()
    bad = [
        None,
        {},
        {**good, "request": {"prompt": 5}},
        {**good, "folder": "relative"},
        {**good, "plan": {"height_m": -1}},
        {**good, "plan": {"location": "here"}},
    ]
    body = {"format": 1, "running": None, "waiting": [*bad, good]}
    (tmp_path / "queue-0.json").write_text(json.dumps(body))
    assert names(open_store(tmp_path)[1]) == "good"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_and_the_jobs_go_on(tmp_path):
    store, _ = open_store(tmp_path)
    store.path.with_suffix(".partial").symlink_to("/dev/full")
    queue = queue_of("a b", store)
    assert "No space left on device" in store.problem
    assert names(queue.entries) == "a b"
    store.path.with_suffix(".partial").unlink()
    queue.add(entry("c"))
    assert store.problem == "" and len(json.loads(store.path.read_text())["waiting"]) == 3


def test_a_file_that_is_replaced_is_whole_at_every_moment(tmp_path):
    store, _ = open_store(tmp_path)
    queue_of("a", store)
    before = store.path.stat().st_ino
    with store.path.open() as reader:
        queue_of("b c", store)
        assert len(json.load(reader)["waiting"]) == 1, "who reads the old file reads all of it"
    assert store.path.stat().st_ino != before
    assert not list(tmp_path.glob("*.partial"))


def test_a_lock_is_held_once_and_free_after_release(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire() and first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_folders_that_are_spoken_for_include_the_running_one():
    queue = queue_of("a b")
    queue.take()
    assert queue.folders == {"/jobs/a", "/jobs/b"}
