"""--debug: waits where debugpy is there, says how to get it where it is not."""

import json
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest

from engine.cli import main

ROOT = Path(__file__).resolve().parents[3]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Editor:
    """As much of an editor as attaches: the Debug Adapter Protocol's first three requests."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._stream = self._socket.makefile("rwb")
        self._sent = 0

    def ask(self, command, arguments):
        self._sent += 1
        body = json.dumps({"seq": self._sent, "type": "request", "command": command, "arguments": arguments}).encode()
        self._stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._stream.flush()

    def wait_for(self, kind, name):
        """The next message that is this response or event."""
        while True:
            length = 0
            while header := self._stream.readline().strip():
                length = int(header.partition(b":")[2])
            message = json.loads(self._stream.read(length))
            if (message["type"], message.get("command" if kind == "response" else "event")) == (kind, name):
                return message

    def close(self):
        self._stream.close()
        self._socket.close()


@pytest.fixture
def waiting():
    """The engine's server with the real debugpy: the process, and its port when it listens."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "serve", "--debug", str(port)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield process, port
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_the_server_waits_for_an_editor_and_serves_once_it_is_there(waiting):
    pytest.importorskip("debugpy", reason="debugpy is not installed: requirements/extras.txt")
    process, port = waiting
    lines = iter(process.stderr.readline, "")
    assert any(line.strip() == f"Waiting for a debugger on 127.0.0.1:{port}." for line in lines)
    editor = Editor(port)
    editor.ask("initialize", {"adapterID": "python", "clientID": "test", "pathFormat": "path"})
    assert editor.wait_for("response", "initialize")["success"]
    editor.ask("attach", {"justMyCode": False})
    editor.wait_for("event", "initialized")
    editor.ask("configurationDone", {})
    assert editor.wait_for("response", "attach")["success"]
    assert json.loads(process.stdout.readline())["type"] == "hello"
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    editor.close()


def test_nothing_is_served_before_an_editor_is_there(waiting):
    pytest.importorskip("debugpy", reason="debugpy is not installed: requirements/extras.txt")
    process, port = waiting
    assert any(line.startswith("Waiting") for line in iter(process.stderr.readline, ""))
    process.stdin.close()  # a server that runs would say hello and end
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.kill()
    assert process.stdout.read() == ""


@pytest.mark.parametrize("command", [["generate", "a red mug"], ["serve"]])
def test_without_the_package_it_says_how_to_get_it(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "debugpy", None)
    assert main([*command, "--debug", "5678"]) == 2
    assert "--debug needs the package debugpy, which this Python lacks. Run: python -m pip install debugpy" in capsys.readouterr().err


def test_a_port_that_is_none_is_a_sentence(capsys):
    assert main(["serve", "--debug", "70000"]) == 2
    assert "debug is 70000, but must lie in 1..65535" in capsys.readouterr().err


def test_it_listens_on_this_machine_alone_before_the_command_runs(monkeypatch, capsys):
    calls = []
    stand_in = types.ModuleType("debugpy")
    stand_in.listen = calls.append
    stand_in.wait_for_client = lambda: calls.append("waited")
    monkeypatch.setitem(sys.modules, "debugpy", stand_in)
    assert main(["generate", "--debug", "5678"]) == 2  # the prompt is missing: the command ran
    assert calls == [("127.0.0.1", 5678), "waited"]
    assert "Waiting for a debugger on 127.0.0.1:5678." in capsys.readouterr().err


def test_a_port_in_use_is_a_sentence(monkeypatch, capsys):
    def listen(_address):
        raise RuntimeError("Address already in use")

    stand_in = types.ModuleType("debugpy")
    stand_in.listen = listen
    monkeypatch.setitem(sys.modules, "debugpy", stand_in)
    assert main(["serve", "--debug", "5678"]) == 2
    assert "Port 5678 cannot be listened on: Address already in use. Use another" in capsys.readouterr().err
