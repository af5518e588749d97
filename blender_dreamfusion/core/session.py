"""One engine, one job at a time: ties the process to the state. No bpy; `poll` is called by Blender's pump or by a loop.

What is guaranteed: a job that was started ends in done, failed or cancelled whatever the engine does (crash, hang, rubbish,
refuse to start), and no engine outlives `shutdown`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from . import job_state
from .engine_process import Babble, EngineProcess, Exited, Incoming
from .job_state import JobState, Status
from .problem import CONTINUE_FIX, OTHER_PYTHON_FIX, Problem, exit_problem, start_problem
from .protocol import messages

# The promise to the user is 5 s from click to silence; the kill itself takes up to one.
CANCEL_GRACE_S = 4.0
# Hello comes before anything is loaded, but a cold disk or a virus scanner can hold Python back for long.
HELLO_TIMEOUT_S = 60.0
# Heartbeats come each second; loading a big library can hold Python's lock for many.
HANG_TIMEOUT_S = 45.0
# Nobody polled for this long: Blender was busy, or the computer asleep. What the engine said meanwhile is still to be read.
AWAY_S = 5.0
# The engine is gone, but a process that it started holds the pipe open, so no end of output comes.
ORPHANED_PIPE_S = 3.0
# A library that greets on stdout is harmless; this much is not an engine.
MAX_BABBLE_LINES = 50
# A warm engine answers at once, but holds its memory: after this long without a job it is sent home.
IDLE_TIMEOUT_S = 300.0


class Session:
    """Runs jobs on an engine that is started when first needed.

    Args:
        launch: starts an engine; may raise OSError.
        python: what `launch` starts, for messages.
        log_path: the engine's log, for messages.
    """

    def __init__(self, launch: Callable[[], EngineProcess], *, python: str = "", log_path: Path = Path()) -> None:
        self.state = JobState()
        self._launch, self._python, self._log_path = launch, python, log_path
        self._engine: EngineProcess | None = None
        self._has_greeted = False
        self._n_babble = 0
        self._cancel_deadline = float("inf")
        self._born = self._idle_since = self._last_watch = time.monotonic()
        self._dying: EngineProcess | None = None

    @property
    def is_alive(self) -> bool:
        """Whether an engine process is held (also a warm one without a job)."""
        return self._engine is not None

    def start(self, request: messages.JobRequest, folder: Path, *, resume: bool = False) -> None:
        """Begin a job in `folder`. A start that fails is a failed job, not an exception.

        Raises: RuntimeError if a job is running; ProtocolError if the request cannot be sent.
        """
        if self.state.is_active:
            raise RuntimeError("a job is running")
        job = uuid.uuid4().hex[:12]
        command = messages.Generate(job=job, request=request, out_dir=str(folder), resume=resume)
        messages.encode(command)  # before anything is started: a request that is too long must not leave an engine behind
        self.state = job_state.started(job, request.title, str(folder))
        self._cancel_deadline = float("inf")
        self._n_babble = 0
        if self._engine is not None and not self._engine.is_alive():
            self._drop_engine()
        if self._engine is None:
            try:
                self._engine = self._launch()
            except OSError as error:
                self.state = job_state.failed(self.state, start_problem(error, self._python, self._log_path))
                return
            self._has_greeted, self._born = False, time.monotonic()
        self._engine.send(command)

    def pause(self) -> None:
        self._ask(Status.PAUSED, messages.Pause(job=self.state.job))

    def resume(self) -> None:
        self._ask(Status.RUNNING, messages.Resume(job=self.state.job))

    def finish_now(self) -> None:
        """Stop training and keep what there is."""
        self._ask(Status.FINISHING, messages.FinishNow(job=self.state.job))

    def cancel(self) -> None:
        """End the job; an engine that does not answer within CANCEL_GRACE_S is killed by a later `poll`.

        One that has not even greeted has nothing to save and is killed at once.
        """
        if self._ask(Status.CANCELLING, messages.Cancel(job=self.state.job)):
            self._cancel_deadline = time.monotonic() + (CANCEL_GRACE_S if self._has_greeted else 0.0)

    def tell(self, command: messages.SetView | messages.ClearView | messages.SetProxy) -> None:
        """Pass on what the running job shall show; nothing while none runs."""
        if self.state.is_active and self._engine is not None:
            self._engine.send(command)

    def poll(self, budget_s: float = 0.01) -> bool:
        """Apply what the engine said, for at most `budget_s`. Returns whether the state changed."""
        before = self.state
        deadline = time.monotonic() + budget_s
        while self._engine is not None and (event := self._engine.next_event()) is not None:
            self._take(event)
            if time.monotonic() > deadline:
                break
        self._watch()
        if before.is_active and not self.state.is_active:
            self._idle_since = time.monotonic()
        return self.state != before

    def shutdown(self) -> None:
        """End the engine now, and wait until it is gone; a running job counts as cancelled (its folder can be resumed)."""
        if self.state.is_active:
            self.state = self.state._replace(status=Status.CANCELLED)
        self._drop_engine()
        if self._dying is not None:
            self._dying.kill()

    def _ask(self, status: Status, command: messages.Command) -> bool:
        after = job_state.requested(self.state, status)
        if after is self.state or self._engine is None:
            return False
        self.state = after
        self._engine.send(command)
        return True

    def _take(self, event: Incoming) -> None:
        if isinstance(event, Exited):
            self._fail(self._exit_problem(event.returncode))
        elif isinstance(event, Babble):
            self._n_babble += 1
            if self._n_babble > MAX_BABBLE_LINES:
                text = f'What answers is not the engine; it says "{event.text[:80]}".'
                self._fail(Problem(text, OTHER_PYTHON_FIX, "protocol", str(self._log_path)))
        elif isinstance(event, messages.Hello):
            try:
                messages.check_hello(event)
                self._has_greeted = True
            except messages.ProtocolError as error:
                self._fail(Problem(str(error), code="protocol"))
        else:
            self.state = job_state.applied(self.state, event)

    def _watch(self) -> None:
        """What no event tells: an engine that is silent, deaf, or idle for long."""
        engine, now = self._engine, time.monotonic()
        was_away, self._last_watch = now - self._last_watch > AWAY_S, now
        if engine is None:
            return
        if was_away:
            engine.last_heard = self._born = now
        if not self.state.is_active:
            if now - self._idle_since > IDLE_TIMEOUT_S:
                self._drop_engine()
        elif now > self._cancel_deadline:
            self._fail(Problem("The engine did not stop when asked and was ended.", code="hang"))
        elif not engine.is_alive() and engine.silent_s() > ORPHANED_PIPE_S:
            self._fail(self._exit_problem(engine.returncode))
        elif not self._has_greeted and now - self._born > HELLO_TIMEOUT_S:
            text = f"The engine did not start within {HELLO_TIMEOUT_S:.0f} s."
            self._fail(Problem(text, f"{OTHER_PYTHON_FIX} Its log: {self._log_path}", "start", str(self._log_path)))
        elif self._has_greeted and engine.silent_s() > HANG_TIMEOUT_S:
            text = f"The engine has not answered for {HANG_TIMEOUT_S:.0f} s and was ended."
            self._fail(Problem(text, CONTINUE_FIX, "hang", str(self._log_path)))

    def _fail(self, problem: Problem) -> None:
        self.state = job_state.failed(self.state, problem)
        self._drop_engine()

    def _exit_problem(self, returncode: int) -> Problem:
        engine = self._engine
        problem = exit_problem(returncode, self._log_path, engine.log_start if engine is not None else 0)
        if self._has_greeted or problem.code != "exit":
            return problem
        text = problem.text.replace("The engine ended unexpectedly", "The engine did not start")
        return problem._replace(text=text, fix=f"{OTHER_PYTHON_FIX} {problem.fix}", code="start")

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            self._dying = engine
            engine.kill_soon()
