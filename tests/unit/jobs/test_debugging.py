"""--debug: waits where debugpy is there, says how to get it where it is not."""

import sys
import types

import pytest

from engine.cli import main


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
