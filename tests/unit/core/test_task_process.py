"""A task ends in done, failed or cancelled with a sentence, whatever its program does, and leaves no process behind. Real processes."""

import os
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from blender_dreamfusion.core.task_process import TaskProcess, TaskState, TaskStatus, ThreadTask

SAY = "import json, sys, time\ndef say(**m): print(json.dumps(m), flush=True)\n"


@pytest.fixture
def run(tmp_path: Path):
    tasks = []

    def begin(code: str, **arguments: object) -> TaskProcess:
        task = TaskProcess([sys.executable, "-I", "-c", SAY + code], tmp_path / "task.log", **arguments)
        tasks.append(task)
        return task

    yield begin
    for task in tasks:
        task.kill()


def wait_until(task, reached, timeout_s: float = 10.0) -> TaskState:
    deadline = time.monotonic() + timeout_s
    while not reached(state := task.poll()):
        assert time.monotonic() < deadline, state
        time.sleep(0.005)
    return state


def end_of(task) -> TaskState:
    return wait_until(task, lambda state: not state.is_active)


def test_progress_then_done_with_its_result_and_readable_log(run, tmp_path):
    task = run(
        "say(type='progress', phase='torch', done=30, of=120, unit='MB', text='Downloading torch')\n"
        "say(type='log', text='pip says hello'); print('no message'); print('[1, 2]')\n"
        "sys.stderr.write('from the inside\\n'); sys.stdin.readline() if len(sys.argv) > 1 else time.sleep(0.3)\n"
        "say(type='done', text='Ready.', result={'python': '/x'})"
    )
    state = wait_until(task, lambda state: state.phase == "torch")
    assert state.fraction == pytest.approx(0.25) and state.amount == "30 of 120 MB" and state.text == "Downloading torch"
    state = end_of(task)
    assert (state.status, state.text, state.result, state.fraction) == (TaskStatus.DONE, "Ready.", {"python": "/x"}, 1.0)
    log = (tmp_path / "task.log").read_text()
    assert log.startswith("$ ") and all(line in log for line in ("pip says hello", "no message", "[1, 2]", "from the inside"))


def test_a_refusal_arrives_in_its_own_words(run):
    state = end_of(run("say(type='failed', text='The disk is full.', fix='Make room.')"))
    assert state.status is TaskStatus.FAILED and state.sentence == "The disk is full. Make room."


def test_a_program_that_dies_is_a_failure_with_its_last_words(run):
    state = end_of(run("sys.stderr.write('ValueError: odd\\n'); sys.exit(3)"))
    assert state.status is TaskStatus.FAILED
    assert "ended unexpectedly (exit code 3): ValueError: odd" in state.text and "task.log" in state.fix


def test_ending_without_a_last_word_is_a_failure_too(run):
    assert end_of(run("pass")).status is TaskStatus.FAILED


@pytest.mark.parametrize("python", ["/nowhere/python", "/etc/hostname"])
def test_a_program_that_cannot_be_started_is_a_failed_task(tmp_path, python):
    state = TaskProcess([python, "-c", ""], tmp_path / "task.log").poll()
    assert state.status is TaskStatus.FAILED and python in state.text and "preferences" in state.fix


def test_a_log_that_cannot_be_written_is_a_failed_task(tmp_path):
    (tmp_path / "file").write_text("")
    assert TaskProcess([sys.executable, "-c", ""], tmp_path / "file" / "task.log").poll().status is TaskStatus.FAILED


@pytest.mark.parametrize("deafness", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"])
def test_cancel_ends_the_program_and_its_children_within_five_seconds(run, deafness):
    task = run(
        deafness + "import subprocess\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-c', {deafness + 'import time; time.sleep(60)'!r}])\n"
        "say(type='progress', done=child.pid); time.sleep(60)"
    )
    child = int(wait_until(task, lambda state: state.done > 0).done)
    time.sleep(0.1)
    begun = time.monotonic()
    task.cancel()
    assert time.monotonic() - begun < 0.1, "the click itself does not wait"
    assert task.poll().status in {TaskStatus.CANCELLING, TaskStatus.CANCELLED}
    state = end_of(task)
    assert state.status is TaskStatus.CANCELLED and time.monotonic() - begun < 5.0
    assert not is_running(child) and not is_running(task._process.pid)
    task.cancel()
    assert task.poll() == state, "a second click changes nothing"


def is_running(pid: int) -> bool:
    deadline = time.monotonic() + 1.0  # an orphan is reaped by the system, in its own time
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.01)
    return True


def test_a_flood_of_output_does_not_hold_the_caller(run):
    task = run("while True: print('rubbish' * 10)")
    time.sleep(0.5)
    begun = time.thread_time()
    task.poll()
    assert time.thread_time() - begun < 0.1
    task.kill()
    assert task.poll().status is TaskStatus.CANCELLED


def test_the_program_learns_of_blenders_end_by_its_stdin(run):
    task = run("say(type='progress', done=1); sys.stdin.read(); say(type='done', text='input ended')")
    wait_until(task, lambda state: state.done == 1)
    task._close_input()  # what the system does when Blender is gone
    assert end_of(task).text == "input ended"


def test_environment_is_ours_without_what_leads_python_astray(run, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/astray")
    code = "import os; say(type='done', text=os.environ.get('PYTHONPATH', 'none') + os.environ.get('DREAMFUSION_X', ''))"
    assert end_of(run(code)).text == "none"
    assert end_of(run(code, env={**os.environ, "DREAMFUSION_X": "given"})).text == "/astraygiven"


def test_thread_task_reports_and_returns():
    go = threading.Event()

    def work(report):
        report(1, 4, "files", "Deleting")
        go.wait(5)
        return {"text": "Gone.", "n": 4}

    task = ThreadTask(work)
    assert wait_until(task, lambda state: state.of == 4).amount == "1 of 4 files"
    go.set()
    state = end_of(task)
    assert (state.status, state.text, state.result["n"]) == (TaskStatus.DONE, "Gone.", 4)


def test_thread_task_can_be_cancelled():
    def work(report):
        while True:
            report(1, 2)
            time.sleep(0.01)

    task = ThreadTask(work)
    task.cancel()
    assert end_of(task).status is TaskStatus.CANCELLED


@pytest.mark.parametrize(("error", "words"), [(OSError("disk gone"), "disk gone"), (KeyError("x"), "KeyError('x')")])
def test_thread_task_that_raises_has_failed(error, words):
    def work(report):
        raise error

    state = end_of(ThreadTask(work))
    assert state.status is TaskStatus.FAILED and words in state.text
