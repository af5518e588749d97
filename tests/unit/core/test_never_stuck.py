"""Whatever the engine does, the same four promises hold: the caller is never held, the job ends, a sentence says what to do, and ten
seconds later no process is left. And what the real engine had done when it was killed is not lost.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from blender_dreamfusion.core import session as session_module
from blender_dreamfusion.core.engine_process import EngineProcess, engine_command
from blender_dreamfusion.core.history import HistoryState, read_entry, saved_request
from blender_dreamfusion.core.job_state import Status
from blender_dreamfusion.core.problem import Problem
from blender_dreamfusion.core.protocol import messages
from blender_dreamfusion.core.session import Session
from tests.unit.jobs.conftest import SMALL

ROOT = Path(__file__).resolve().parents[3]
FAKE = Path(__file__).with_name("fake_engine.py")
OVERRIDES = {flag[2:]: value for flag, value in zip(SMALL[0::2], SMALL[1::2])}
# Frames of 30 a second and more.
MAX_POLL_S = 0.03
# For what has to load torch on a machine where everything else runs too.
PATIENCE_S = 120.0


def processes_of(group: int) -> list[int]:
    """Living processes of a process group, the engine's and all that it started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def assert_no_process_left(group: int, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while left := processes_of(group):
        assert time.monotonic() < deadline, f"processes {left} are left over"
        time.sleep(0.02)


class Caller:
    """What Blender's main thread does: poll, and note in CPU time of its own how long that held it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.longest_s = 0.0

    def poll(self) -> None:
        begun_wall, begun = time.perf_counter(), time.thread_time()
        self.session.poll(0.008)
        # Waiting shows on the wall clock only, computing on both; a busy machine on the wall clock too, so that has some room.
        self.longest_s = max(self.longest_s, time.thread_time() - begun, (time.perf_counter() - begun_wall) / 10)

    def until(self, reached, timeout_s: float = 15.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert time.monotonic() < deadline, f"still {self.session.state}"
            self.poll()
            time.sleep(0.01)


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    opened: list[Session] = []
    yield opened
    for session in opened:
        session.shutdown()


@pytest.fixture
def quick(monkeypatch):
    """Patience of a second, so that hanging is noticed within a test's time."""
    monkeypatch.setattr(session_module, "HELLO_TIMEOUT_S", 1.0)
    monkeypatch.setattr(session_module, "HANG_TIMEOUT_S", 1.0)
    monkeypatch.setattr(session_module, "ORPHANED_PIPE_S", 0.5)
    monkeypatch.setattr(session_module, "CANCEL_GRACE_S", 0.5)


def begin(sessions: list[Session], command: list[str], tmp_path: Path) -> tuple[Session, int]:
    log = tmp_path / "engine.log"
    session = Session(partial(EngineProcess, command, log), python=command[0], log_path=log)
    sessions.append(session)
    session.start(messages.JobRequest(prompt="a red mug"), tmp_path / "job")
    return session, session._engine.pid if session._engine is not None else 0


def assert_helpful(problem: Problem) -> None:
    assert problem.text[0].isupper() and problem.text.rstrip().endswith((".", "!")), problem
    assert problem.fix.strip(), problem
    assert "Traceback" not in str(problem) and "--" not in problem.fix, problem


FAILURES = [
    *("die_in_load", "never_greets", "not_an_engine", "flood", "other_protocol", "crash", "killed", "hang", "trickle", "orphan"),
    *("out_of_memory", "bad_alloc", "cuda_memory", "exit_137", "disk_full"),
]


@pytest.mark.parametrize("mode", FAILURES)
def test_every_failure_ends_with_a_sentence_a_free_caller_and_no_process(sessions, quick, tmp_path, mode):
    session, pid = begin(sessions, [sys.executable, "-I", "-u", str(FAKE), mode], tmp_path)
    caller = Caller(session)
    caller.until(lambda: not session.state.is_active)
    assert session.state.status is Status.FAILED
    if mode == "other_protocol":
        assert "Update the add-on" in session.state.problem.text
    else:
        assert_helpful(session.state.problem)
    assert caller.longest_s < MAX_POLL_S
    session.shutdown()
    assert_no_process_left(pid)


@pytest.mark.parametrize(
    ("mode", "after_s"),
    [("slow", 0.0), ("slow", 0.5), ("deaf", 0.5), ("deaf_load", 0.5), ("never_greets", 0.0), ("trickle", 0.5), ("orphan_alive", 0.5)],
)
def test_cancel_works_at_any_moment_on_any_engine(sessions, quick, tmp_path, mode, after_s):
    session, pid = begin(sessions, [sys.executable, "-I", "-u", str(FAKE), mode], tmp_path)
    caller = Caller(session)
    deadline = time.monotonic() + after_s
    caller.until(lambda: time.monotonic() >= deadline)
    session.cancel()
    clicked = time.monotonic()
    caller.until(lambda: not session.state.is_active)
    assert time.monotonic() - clicked < 5.0
    assert session.state.status is Status.CANCELLED
    assert caller.longest_s < MAX_POLL_S
    session.shutdown()
    assert_no_process_left(pid)


def wrong_pythons(tmp_path: Path) -> dict[str, Path]:
    """Things that a user may choose as the engine's Python."""

    def script(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    text_file = tmp_path / "python.txt"
    text_file.write_text("python")
    return {
        "missing": tmp_path / "nowhere" / "python",
        "a folder": tmp_path,
        "not executable": text_file,
        "no program": script("garbage", "\x7f\x00\x01"),
        "another program": Path("/bin/cat"),
        "a python that fails": script("old", '#!/bin/sh\necho "SyntaxError: invalid syntax" >&2\nexit 1\n'),
        "a python without us": script("bare", "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'engine'\" >&2\nexit 1\n"),
        "nothing at all": script("silent", "#!/bin/sh\nexit 0\n"),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "a folder",
        "not executable",
        "no program",
        "another program",
        "a python that fails",
        "a python without us",
        "nothing at all",
    ],
)
def test_a_wrong_python_is_told_and_where_to_choose_another(sessions, quick, tmp_path, kind):
    python = wrong_pythons(tmp_path)[kind]
    session, pid = begin(sessions, engine_command(python, ROOT, os.getpid()), tmp_path)
    caller = Caller(session)
    caller.until(lambda: not session.state.is_active)
    assert session.state.status is Status.FAILED
    assert session.state.problem.code == "start"
    assert_helpful(session.state.problem)
    assert "preferences" in session.state.problem.fix
    if pid:
        assert_no_process_left(pid)


def test_an_engine_that_is_stopped_like_a_hung_program_is_ended(sessions, quick, tmp_path):
    session, pid = begin(sessions, [sys.executable, "-I", "-u", str(FAKE), "slow"], tmp_path)
    caller = Caller(session)
    caller.until(lambda: session.state.step > 2)
    os.kill(pid, signal.SIGSTOP)
    caller.until(lambda: not session.state.is_active)
    assert session.state.problem.code == "hang"
    assert_no_process_left(pid)


def test_after_every_failure_the_next_job_runs(sessions, quick, tmp_path):
    modes = iter(["crash", "hang", "die_in_load", "flood", "good"])
    log = tmp_path / "engine.log"
    session = Session(lambda: EngineProcess([sys.executable, "-I", "-u", str(FAKE), next(modes)], log), log_path=log)
    sessions.append(session)
    caller = Caller(session)
    for end in (*[Status.FAILED] * 4, Status.DONE):
        session.start(messages.JobRequest(prompt="a red mug"), tmp_path / "job")
        caller.until(lambda: not session.state.is_active)
        assert session.state.status is end


def test_what_piled_up_while_blender_was_busy_is_read_in_short_calls(sessions, tmp_path):
    session, _ = begin(sessions, [sys.executable, "-I", "-u", str(FAKE), "fast"], tmp_path)
    time.sleep(1.5)  # a render in the main thread
    caller = Caller(session)
    caller.until(lambda: not session.state.is_active, timeout_s=30)
    assert session.state.status is Status.DONE
    assert caller.longest_s < MAX_POLL_S


# --- the real engine ---


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    from tests.tiny_sd import build_tiny_sd

    return str(build_tiny_sd(tmp_path_factory.mktemp("tiny") / "model"))


def real_request(model: str, **overrides: str) -> messages.JobRequest:
    settings = {**OVERRIDES, "training.n-steps": "100000", "training.checkpoint-every-s": "1", **overrides}
    return messages.JobRequest(prompt="a red mug", model=model, overrides=settings)


def real_session(sessions: list[Session], tmp_path: Path, command: list[str] | None = None) -> Session:
    log = tmp_path / "engine.log"
    session = Session(partial(EngineProcess, command or engine_command(sys.executable, ROOT, os.getpid()), log), log_path=log)
    sessions.append(session)
    return session


def wait_for_checkpoint(folder: Path) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while not (entry := read_entry(folder)) or not entry.step:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return entry.step


@pytest.mark.slow
def test_a_killed_engine_costs_only_what_came_after_its_last_checkpoint(sessions, tmp_path, model):
    folder = tmp_path / "job"
    session = real_session(sessions, tmp_path)
    session.start(real_request(model), folder)
    caller = Caller(session)
    caller.until(lambda: bool(read_entry(folder) and read_entry(folder).step), PATIENCE_S)
    pid = session._engine.pid
    os.kill(pid, signal.SIGKILL)
    caller.until(lambda: not session.state.is_active)
    assert session.state.problem.code == "memory" and "continue the job in the history" in session.state.problem.fix
    assert_no_process_left(pid)
    entry = read_entry(folder)
    assert entry.state is HistoryState.UNFINISHED and entry.is_resumable and entry.step > 0

    session.start(saved_request(folder), folder, resume=True)
    caller.until(lambda: session.state.phase == "train", PATIENCE_S)
    assert session.state.step > entry.step, "it went on, and did not begin anew"
    session.finish_now()
    caller.until(lambda: not session.state.is_active, PATIENCE_S)
    assert session.state.status is Status.DONE
    assert read_entry(folder).state is HistoryState.DONE
    assert caller.longest_s < MAX_POLL_S


@pytest.mark.slow
def test_the_real_engine_follows_a_blender_that_crashed_and_keeps_its_work(tmp_path, model):
    """Blender is a process of its own here, killed without a chance to say anything."""
    script = (
        "import json, os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from blender_dreamfusion.core.engine_process import EngineProcess, engine_command\n"
        "from blender_dreamfusion.core.protocol import messages\n"
        "from blender_dreamfusion.core.session import Session\n"
        "folder, root = Path(sys.argv[2]), Path(sys.argv[1])\n"
        "log = folder.parent / 'engine.log'\n"
        "session = Session(lambda: EngineProcess(engine_command(sys.executable, root, os.getpid()), log), log_path=log)\n"
        "session.start(messages.request_from_json(json.loads(sys.argv[3])), folder)\n"
        "print(session._engine.pid, flush=True)\n"
        "while True: session.poll(); time.sleep(0.05)\n"
    )
    import json
    from dataclasses import asdict

    folder = tmp_path / "job"
    words = json.dumps(asdict(real_request(model)))
    blender = subprocess.Popen([sys.executable, "-c", script, str(ROOT), str(folder), words], stdout=subprocess.PIPE, text=True)
    assert blender.stdout is not None
    pid = int(blender.stdout.readline())
    step = wait_for_checkpoint(folder)
    blender.kill()
    blender.wait()
    blender.stdout.close()
    assert_no_process_left(pid, within_s=10.0)
    entry = read_entry(folder)
    assert entry.is_resumable and entry.step >= step
    assert saved_request(folder) == real_request(model)


@pytest.mark.slow
def test_cancel_while_the_real_engine_loads_is_within_five_seconds(sessions, tmp_path, model):
    session = real_session(sessions, tmp_path)
    session.start(real_request(model), tmp_path / "job")
    caller = Caller(session)
    caller.until(lambda: session.state.phase == "load", PATIENCE_S)
    clicked = time.monotonic()
    session.cancel()
    caller.until(lambda: not session.state.is_active)
    assert session.state.status is Status.CANCELLED
    assert time.monotonic() - clicked < 5.0
    assert caller.longest_s < MAX_POLL_S


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_and_the_job_can_go_on_when_there_is_room(sessions, tmp_path, model):
    """The system refuses files beyond a few kilobytes to this engine, as a full disk would: the first checkpoint cannot be written."""
    folder = tmp_path / "job"
    command = engine_command(sys.executable, ROOT, os.getpid())
    session = real_session(sessions, tmp_path, ["/bin/sh", "-c", 'ulimit -f 24; exec "$@"', "sh", *command])
    session.start(real_request(model), folder)
    caller = Caller(session)
    caller.until(lambda: not session.state.is_active, PATIENCE_S)
    problem = session.state.problem
    assert (session.state.status, problem.code) == (Status.FAILED, "output"), problem
    assert "Make room" in problem.fix and "continue it in the history" in problem.fix
    session.shutdown()
    assert read_entry(folder).is_resumable

    session = real_session(sessions, tmp_path)
    session.start(saved_request(folder), folder, resume=True)
    caller = Caller(session)
    caller.until(lambda: session.state.step > 2 and session.state.phase == "train", PATIENCE_S)
    session.finish_now()
    caller.until(lambda: not session.state.is_active, PATIENCE_S)
    assert session.state.status is Status.DONE
