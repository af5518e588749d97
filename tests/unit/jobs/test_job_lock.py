"""Two engines never work on one job, and one that was killed does not keep the next one out."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import job_lock, jobs
from engine.errors import UserError
from engine.job_folder import create_job
from engine.job_lock import JobLock
from engine.protocol import JobRequest
from engine.training.control import Control

REPOSITORY = Path(__file__).resolve().parents[3]
HOLD = (
    "import sys, time; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path\n"
    "from engine.job_lock import JobLock\n"
    "lock = JobLock(Path(sys.argv[2])); lock.acquire()\n"
    "print('held', flush=True); time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path / "job"."""
    (tmp_path / "job").mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(REPOSITORY), str(tmp_path / "job")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_job_that_another_engine_runs_is_refused_and_left_as_it_is(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "WAIT_S", 0.2)
    request = JobRequest(prompt="a red mug")
    create_job(tmp_path / "job", request)
    before = sorted(path.name for path in (tmp_path / "job").iterdir())
    events = []
    assert jobs.run_job(request, tmp_path / "job", events.append, Control(), resume=True) == 2
    (failed,) = events
    assert failed.code == "busy" and "Another engine is at work" in failed.text and failed.fix
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == before, "not even an event is added"


def test_the_lock_of_a_killed_engine_is_free_at_once(holder, tmp_path):
    holder.kill()
    lock = JobLock(tmp_path / "job")
    begun = time.monotonic()
    lock.acquire()
    assert time.monotonic() - begun < 2.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_lock, "WAIT_S", 0.1)
        with pytest.raises(UserError):
            JobLock(tmp_path / "job").acquire()
    lock.release()
    JobLock(tmp_path / "job").acquire()


def test_full_memory_is_told_by_the_words_of_every_library(tmp_path, monkeypatch):
    for error in (
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
    ):
        assert _failure(tmp_path / str(id(error)), error, monkeypatch).code == "memory"
    assert _failure(tmp_path / "other", RuntimeError("shape [2] is wrong"), monkeypatch).code == "internal"


def test_a_missing_package_says_which_and_how_to_get_it(tmp_path, monkeypatch):
    failed = _failure(tmp_path / "job", ModuleNotFoundError("No module named 'torch'", name="torch"), monkeypatch)
    assert failed.code == "setup" and "has no package torch" in failed.text and "requirements/engine.txt" in failed.fix


def _failure(folder, error, monkeypatch):
    """How a job ends whose model cannot be loaded for this reason."""

    def load(run, config):
        raise error

    monkeypatch.setattr(jobs, "_load", load)
    events = []
    jobs.run_job(JobRequest(prompt="a red mug"), folder, events.append, Control())
    return events[-1]
