"""`serve`: a conversation in JSON lines, in this process through pipes, and once with the real program."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine import protocol
from engine.protocol import CANCELLED, Cancel, FinishNow, Generate, JobRequest, Pause, Resume, decode_event, encode
from engine.server import Server
from tests.unit.jobs.conftest import SMALL

REPOSITORY = Path(__file__).resolve().parents[3]
OVERRIDES = {flag[2:]: value for flag, value in zip(SMALL[0::2], SMALL[1::2])}
# Long enough for a machine where everything else runs too; a test never waits that long if all is well.
PATIENCE_S = 120


class Talk:
    """The other side of a server's two pipes."""

    def __init__(self, commands, events):
        self._commands, self._events = commands, events
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._events:
            self.lines.put(line)
        self.lines.put(None)

    def send(self, message):
        self._commands.write(encode(message).encode() if not isinstance(message, bytes) else message)
        self._commands.flush()

    def hear(self, *kinds):
        """The next event of these kinds; None at the end."""
        while (line := self.lines.get(timeout=PATIENCE_S)) is not None:
            event = decode_event(line)
            assert event is not None
            if isinstance(event, kinds):
                return event
        return None

    def close(self):
        self._commands.close()


@pytest.fixture
def talk():
    """A server in a thread of this process."""
    command_read, command_write = os.pipe()
    event_read, event_write = os.pipe()
    incoming, commands = os.fdopen(command_read, "rb"), os.fdopen(command_write, "wb")
    events, outgoing = os.fdopen(event_read, "rb"), os.fdopen(event_write, "wb")
    server = Server(incoming, outgoing)
    server._exit = lambda: None  # the last resort would end the tests

    def run():
        with outgoing:
            server.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    conversation = Talk(commands, events)
    yield conversation
    try:
        conversation.close()
    except OSError:
        pass
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the server did not end when its input ended"


def generate(folder, model, job="one", n_steps=6, **request):
    overrides = OVERRIDES | {"training.n-steps": str(n_steps)}
    return Generate(job=job, request=JobRequest(prompt="a red mug", model=model, overrides=overrides, **request), out_dir=str(folder))


END = (protocol.Result, protocol.Failed)


def test_hello_comes_first_and_the_input_s_end_is_the_end(talk):
    hello = talk.hear(protocol.Hello)
    assert (hello.protocol, hello.pid) == (protocol.PROTOCOL_VERSION, os.getpid())
    talk.close()
    assert talk.hear(*END) is None


def test_a_heartbeat_comes_each_second_though_nothing_runs(talk):
    start = time.monotonic()
    beats = [talk.hear(protocol.Heartbeat) for _ in range(2)]
    assert [beat.state for beat in beats] == ["idle", "idle"] and time.monotonic() - start < 10


def test_two_jobs_one_after_the_other_and_only_one_at_a_time(talk, model, tmp_path):
    talk.send(generate(tmp_path / "one", model, "one"))
    talk.hear(protocol.Progress)
    talk.send(generate(tmp_path / "two", model, "two"))
    busy = talk.hear(*END)
    assert (busy.job, busy.code) == ("two", "busy") and busy.fix
    result = talk.hear(*END)
    assert result == protocol.Result(job="one", folder=str(tmp_path / "one" / "result"))
    talk.send(generate(tmp_path / "two", model, "two"))
    assert talk.hear(*END).folder == str(tmp_path / "two" / "result")


def test_cancel_ends_the_running_job_alone_and_the_engine_takes_the_next(talk, model, tmp_path):
    talk.send(generate(tmp_path / "one", model, "one", n_steps=100000))
    while talk.hear(protocol.Progress).phase != "train":
        pass
    talk.send(Cancel(job="another"))
    talk.send(Cancel(job="one"))
    assert talk.hear(*END).code == CANCELLED
    talk.send(generate(tmp_path / "two", model, "two"))
    assert isinstance(talk.hear(*END), protocol.Result)


def test_pause_shows_in_the_heartbeat_and_finish_now_ends_it_with_a_mesh(talk, model, tmp_path):
    talk.send(generate(tmp_path / "one", model, "one", n_steps=100000))
    while talk.hear(protocol.Progress).phase != "train":
        pass
    talk.send(Pause(job="one"))
    while talk.hear(protocol.Heartbeat).state != "paused":
        pass
    talk.send(Resume(job="one"))
    assert talk.hear(protocol.Progress).phase == "train"
    talk.send(FinishNow(job="one"))
    assert isinstance(talk.hear(*END), protocol.Result)
    assert json.loads((tmp_path / "one/result/result.json").read_text())["finished_early"] is True


def test_nonsense_is_answered_and_harms_nothing(talk, model, tmp_path):
    for line in (b"hello?\n", b"\n", b'{"type":"cancel"}\n', b"\xff\xfe\n", b'{"type":"telepathy"}\n'):
        talk.send(line)
    for _ in range(3):
        assert talk.hear(protocol.Warn).text.startswith("A command was not understood")
    talk.send(generate(tmp_path / "one", model, seed=-1))
    refused = talk.hear(*END)
    assert refused.code == "option" and "seed is -1" in refused.text
    talk.send(Generate(job="x", request=JobRequest(prompt="a mug"), out_dir="relative/folder"))
    assert "is not an absolute path" in talk.hear(*END).text
    talk.send(protocol.Shutdown())
    assert talk.hear(*END) is None


def program(*arguments, **kwargs):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-m", "engine", *arguments], env=environment, stdout=subprocess.PIPE, **kwargs)


def test_the_real_server_speaks_nothing_but_messages_on_stdout_and_ends_with_its_parent_s_pipe(model, tmp_path):
    with program("serve", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        talk = Talk(process.stdin, process.stdout)  # decodes every line, and fails on one that is no message
        assert talk.hear(protocol.Hello).pid == process.pid
        talk.send(generate(tmp_path / "one", model))
        assert isinstance(talk.hear(*END), protocol.Result)
        talk.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_kill_at_any_moment_then_resume_and_interrupt_finishes_with_a_mesh(model, tmp_path):
    folder = tmp_path / "job"
    words = ["generate", "a red mug", "--model", model, "--out", str(folder), "--json", *SMALL]
    with program(*words, "--training.n-steps", "100000", "--training.checkpoint-every-s", "1") as process:
        deadline = time.monotonic() + PATIENCE_S
        while not list(folder.glob("checkpoints/*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    (checkpoint,) = list(folder.glob("checkpoints/*.safetensors"))[-1:]
    killed_at = int(checkpoint.stem.removeprefix("step-"))
    assert not (folder / "result").exists()
    with program("generate", "--resume", "--out", str(folder), "--json") as process:
        talk = Talk(process.stdin, process.stdout)
        while (event := talk.hear(protocol.Progress, *END)).phase != "train":
            pass
        assert event.step > killed_at
        process.send_signal(signal.SIGINT)
        assert isinstance(talk.hear(*END), protocol.Result)
        assert process.wait(PATIENCE_S) == 0
    info = json.loads((folder / "result/result.json").read_text())
    assert info["finished_early"] is True and info["steps_done"] > killed_at
