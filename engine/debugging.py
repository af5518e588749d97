"""Waits for a debugger on this machine to attach (debugpy, an optional package), for `generate` and `serve`."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from engine.errors import UserError, check_range

HOST = "127.0.0.1"  # whoever attaches can run anything


def wait_for_debugger(port: int, say: Callable[[str], None]) -> None:
    """Listen on `port` of this machine alone and return when a debugger is there. Raises UserError, code "option" or "setup"."""
    check_range("debug", port, 1, 65535)
    try:
        debugpy = importlib.import_module("debugpy")
    except ImportError as error:
        raise UserError(
            "--debug needs the package debugpy, which this Python lacks.", "Run: python -m pip install debugpy", "setup"
        ) from error
    try:
        debugpy.listen((HOST, port))
    except (OSError, RuntimeError) as error:
        raise UserError(f"Port {port} cannot be listened on: {error}.", "Use another, for example --debug 5679.", "option") from error
    say(f"Waiting for a debugger on {HOST}:{port}.")
    debugpy.wait_for_client()
