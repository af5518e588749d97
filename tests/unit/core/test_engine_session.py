"""A job ends in a state with a sentence whatever the engine does, and no engine outlives its session. Real processes, all of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from blender_dreamfusion.core import session as session_module
from blender_dreamfusion.core.engine_process import EngineProcess, engine_command, scrubbed_environment
from blender_dreamfusion.core.job_state import Status
from blender_dreamfusion.core.protocol import messages
from blender_dreamfusion.core.session import Session

FAKE = Path(__file__).with_name("fake_engine.py")
REQUEST = messages.JobRequest(prompt="a red mug")


@pytest.fixture
def start(tmp_path: Path):
    sessions = []

    def begin(mode: str) -> Session:
        log = tmp_path / "engine.log"
        session = Session(partial(EngineProcess, [sys.executable, "-I", "-u", str(FAKE), mode], log), python=sys.executable, log_path=log)
        sessions.append(session)
        session.start(REQUEST, tmp_path / "job")
        return session

    yield begin
    for session in sessions:
        session.shutdown()


def poll_until(session: Session, reached: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, f"still {session.state}"
        session.poll()
        time.sleep(0.005)


def poll_to_end(session: Session, timeout_s: float = 10.0) -> None:
    poll_until(session, lambda: not session.state.is_active, timeout_s)


def pid_of(session: Session) -> int:
    assert session._engine is not None
    return session._engine.pid


def wait_until_gone(pid: int, timeout_s: float = 3.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is left over"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")  # a zombie that nobody collects (a container without init) is gone too
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_job_runs_to_its_result_and_the_engine_stays_warm(start):
    session = start("good")
    poll_to_end(session)
    assert session.state.status is Status.DONE
    assert session.state.result_folder == "/finished"
    assert session.state.preview_path == "", "a preview of another job must not show"
    assert session.is_alive


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("die_in_load", "start", "did not start (exit code 3): ImportError: no module named torch"),
        ("crash", "exit", "exit code -6"),
        ("killed", "memory", "memory ran out"),
        ("orphan", "exit", "exit code 1"),
        ("out_of_memory", "memory", "Take the preset draft."),
        ("other_protocol", "protocol", "speaks protocol 99"),
        ("not_an_engine", "protocol", "Welcome to something else"),
        ("flood", "protocol", "What answers is not the engine"),
        ("bad_alloc", "memory", "ran out of memory. Close other programs"),
        ("cuda_memory", "memory", "ran out of memory. Close other programs"),
        ("exit_137", "memory", "memory ran out. Close other programs"),
        ("disk_full", "output", "No space left on device. Make room or give access, then continue it in the history."),
    ],
)
def test_every_death_of_the_engine_is_a_sentence(start, monkeypatch, mode, code, words):
    monkeypatch.setattr(session_module, "ORPHANED_PIPE_S", 0.3)
    session = start(mode)
    poll_to_end(session)
    assert session.state.status is Status.FAILED
    assert session.state.problem.code == code
    assert words in str(session.state.problem)


@pytest.mark.parametrize("mode", ["babble", "endless_line"])
def test_rubbish_between_messages_does_no_harm(start, mode):
    session = start(mode)
    poll_to_end(session)
    assert session.state.status is Status.DONE


def test_engine_that_falls_silent_is_ended(start, monkeypatch):
    monkeypatch.setattr(session_module, "HANG_TIMEOUT_S", 0.5)
    session = start("hang")
    pid = pid_of(session)
    poll_to_end(session)
    assert session.state.problem.code == "hang"
    assert "has not answered" in session.state.problem.text
    assert "history" in session.state.problem.fix
    wait_until_gone(pid)


def test_engine_whose_line_never_ends_is_ended(start, monkeypatch):
    monkeypatch.setattr(session_module, "HANG_TIMEOUT_S", 0.5)
    session = start("trickle")
    poll_to_end(session)
    assert session.state.problem.code == "hang"


def test_a_blender_that_was_away_does_not_take_its_own_absence_for_silence(start, monkeypatch):
    """A laptop that slept: both were stopped, and the engine's first words come after the first poll."""
    monkeypatch.setattr(session_module, "AWAY_S", 0.3)
    session = start("slow")
    poll_until(session, lambda: session.state.status is Status.RUNNING)
    os.kill(pid_of(session), signal.SIGSTOP)
    time.sleep(0.6)
    monkeypatch.setattr(session_module, "HANG_TIMEOUT_S", 0.4)
    session.poll()
    assert session.state.is_active
    os.kill(pid_of(session), signal.SIGCONT)
    step = session.state.step
    poll_until(session, lambda: session.state.step > step + 20)


def test_engine_that_never_greets_is_ended(start, monkeypatch):
    monkeypatch.setattr(session_module, "HELLO_TIMEOUT_S", 0.5)
    session = start("never_greets")
    poll_to_end(session)
    assert "did not start" in session.state.problem.text


def test_cancel_ends_a_willing_engine_without_killing_it(start):
    session = start("slow")
    poll_until(session, lambda: session.state.status is Status.RUNNING)
    session.cancel()
    poll_to_end(session, timeout_s=2.0)
    assert session.state.status is Status.CANCELLED
    assert session.is_alive


def test_cancel_kills_a_deaf_engine_within_five_seconds(start):
    session = start("deaf")
    pid = pid_of(session)
    poll_until(session, lambda: session.state.status is Status.RUNNING)
    clicked = time.monotonic()
    session.cancel()
    poll_to_end(session, timeout_s=6.0)
    assert session.state.status is Status.CANCELLED
    wait_until_gone(pid)
    assert time.monotonic() - clicked < 5.0


def test_cancel_while_a_library_loads_is_within_five_seconds_too(start):
    session = start("deaf_load")
    poll_until(session, lambda: session._has_greeted)
    pid, clicked = pid_of(session), time.monotonic()
    session.cancel()
    poll_to_end(session, timeout_s=6.0)
    wait_until_gone(pid)
    assert time.monotonic() - clicked < 5.0
    assert session.state.status is Status.CANCELLED


def test_cancel_before_the_engine_greets_is_at_once(start):
    session = start("never_greets")
    pid = pid_of(session)
    session.cancel()
    poll_to_end(session, timeout_s=1.0)
    assert session.state.status is Status.CANCELLED
    wait_until_gone(pid)


def test_finish_now_keeps_what_there_is(start):
    session = start("slow")
    poll_until(session, lambda: session.state.step >= 3)
    session.finish_now()
    assert session.state.status is Status.FINISHING
    poll_to_end(session, timeout_s=2.0)
    assert session.state.result_folder.startswith("/finished/at/")


def test_pause_holds_the_step_count_and_resume_lets_it_go_on(start):
    session = start("slow")
    poll_until(session, lambda: session.state.step >= 3)
    session.pause()
    deadline = time.monotonic() + 0.3  # what was on its way when pause was said
    poll_until(session, lambda: time.monotonic() > deadline)
    held = session.state.step
    deadline = time.monotonic() + 0.3
    poll_until(session, lambda: time.monotonic() > deadline)
    assert (session.state.status, session.state.step) == (Status.PAUSED, held)
    session.resume()
    poll_until(session, lambda: session.state.step > held + 2)
    assert session.state.status is Status.RUNNING


def test_shutdown_leaves_no_process_even_of_a_deaf_engine(start):
    session = start("deaf")
    pid = pid_of(session)
    poll_until(session, lambda: session.state.status is Status.RUNNING)
    session.shutdown()
    assert is_gone(pid)
    assert session.state.status is Status.CANCELLED


def test_a_child_of_the_engine_ends_with_it(start):
    session = start("orphan_alive")
    poll_until(session, lambda: session.state.text.startswith("child"))
    child = int(session.state.text.split()[1])
    assert not is_gone(child)
    session.shutdown()
    wait_until_gone(child)


def test_a_deaf_engine_ends_when_python_ends_in_good_order(tmp_path):
    """Blender's own end runs Python's exit functions; nobody called shutdown."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from blender_dreamfusion.core.engine_process import EngineProcess\n"
        "engine = EngineProcess([sys.executable, '-I', '-u', sys.argv[2], 'deaf'], Path(sys.argv[3]))\n"
        "print(engine.pid, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", script, str(root), str(FAKE), str(tmp_path / "log")]
    user = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=20, check=True)
    wait_until_gone(int(user.stdout))


def test_what_an_earlier_engine_wrote_into_the_log_is_not_quoted(start, tmp_path):
    (tmp_path / "engine.log").write_text("RuntimeError: CUDA out of memory\n")
    session = start("crash")
    poll_to_end(session)
    assert session.state.problem.code == "exit"
    assert "CUDA" not in str(session.state.problem)


def test_ending_a_deaf_engine_does_not_hold_the_caller(start, monkeypatch):
    monkeypatch.setattr(session_module, "CANCEL_GRACE_S", 0.2)
    session = start("deaf")
    poll_until(session, lambda: session.state.status is Status.RUNNING)
    session.cancel()
    longest = 0.0
    while session.state.is_active:
        time.sleep(0.01)
        begun = time.perf_counter()
        session.poll(0.008)
        longest = max(longest, time.perf_counter() - begun)
    assert longest < 0.03


def test_engine_ends_when_its_user_is_gone(tmp_path):
    """The user is a process of its own here, killed without a chance to say anything."""
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from blender_dreamfusion.core.engine_process import EngineProcess\n"
        "engine = EngineProcess([sys.executable, '-I', '-u', sys.argv[2], 'slow'], Path(sys.argv[3]))\n"
        "print(engine.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", script, str(root), str(FAKE), str(tmp_path / "log")]
    user = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    pid = int(user.stdout.readline())
    user.kill()
    user.wait()
    user.stdout.close()
    wait_until_gone(pid, timeout_s=10.0)


def test_idle_engine_is_sent_home(start, monkeypatch):
    session = start("good")
    poll_to_end(session)
    monkeypatch.setattr(session_module, "IDLE_TIMEOUT_S", 0.0)
    session.poll()
    assert not session.is_alive
    assert session.state.status is Status.DONE


def test_missing_python_is_a_failed_job_with_a_fix(tmp_path):
    log = tmp_path / "engine.log"
    session = Session(partial(EngineProcess, ["/nowhere/python"], log), python="/nowhere/python", log_path=log)
    session.start(REQUEST, tmp_path)
    assert session.state.status is Status.FAILED
    assert str(session.state.problem) == "The engine's Python is not there: /nowhere/python. Choose it again in the add-on's preferences."


def test_a_second_job_is_refused_while_one_runs(start, tmp_path):
    session = start("slow")
    with pytest.raises(RuntimeError, match="a job is running"):
        session.start(REQUEST, tmp_path)


def test_a_request_too_long_for_a_line_starts_nothing(tmp_path):
    session = Session(partial(EngineProcess, [sys.executable, str(FAKE), "good"], tmp_path / "log"))
    with pytest.raises(messages.ProtocolError):
        session.start(messages.JobRequest(prompt="x" * messages.MAX_LINE_BYTES), tmp_path)
    assert not session.is_alive
    assert session.state.status is Status.IDLE


def test_polling_costs_little_while_events_pour_in(start):
    session = start("slow")
    poll_until(session, lambda: session.state.status is Status.RUNNING)
    longest = 0.0
    for _ in range(40):
        time.sleep(0.01)
        begun = time.perf_counter()
        session.poll(0.008)
        longest = max(longest, time.perf_counter() - begun)
    assert longest < 0.03


def test_environment_is_scrubbed_of_other_pythons():
    kept = scrubbed_environment(
        {"PATH": "/bin", "PYTHONPATH": "/x", "CONDA_PREFIX": "/c", "LD_LIBRARY_PATH": "/l", "DREAMFUSION_HOME": "/d"}
    )
    assert kept == {"PATH": "/bin", "DREAMFUSION_HOME": "/d"}


def test_engine_command_is_isolated_and_names_the_parent():
    root = Path(__file__).resolve().parents[3]
    command = engine_command("/venv/bin/python", root, 42)
    assert command[:3] == ["/venv/bin/python", "-I", "-u"]
    assert Path(command[3]).is_file()
    assert command[-2:] == ["--parent-pid", "42"]
