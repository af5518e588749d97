"""Names, states, texts: pure functions of core."""

import io
from datetime import datetime
from pathlib import Path

import pytest

from blender_dreamfusion.core import install_engine, job_state, naming, settings
from blender_dreamfusion.core.job_state import JobState, Status
from blender_dreamfusion.core.problem import Problem, exit_problem, fix_in_blender
from blender_dreamfusion.core.protocol import messages
from blender_dreamfusion.core.terminal import TerminalProgress, progress_line


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red mug", "a-red-mug"),
        ("  A RED,\nmug!! ", "a-red-mug"),
        ("ein blauer Käfer", "ein-blauer-käfer"),
        ("🍔🍔", "asset"),
        ("", "asset"),
        ("../../etc/passwd", "etc-passwd"),
    ],
)
def test_slug_keeps_letters_and_digits_of_any_script(prompt, expected):
    assert naming.slug(prompt) == expected


def test_slug_never_cuts_inside_a_character_and_leaves_room_for_suffixes():
    name = naming.slug("ü" * 100)
    assert name == "ü" * (naming.STEM_BYTES // 2)
    assert len((name + "_roughness").encode()) <= 63


def test_job_folders_of_one_second_do_not_collide(tmp_path):
    now = datetime(2026, 11, 1, 12, 0, 5)
    first = naming.new_job_folder(tmp_path, "a red mug", now)
    assert first.name == "20261101-120005_a-red-mug"
    first.mkdir()
    assert naming.new_job_folder(tmp_path, "a red mug", now).name == "20261101-120005_a-red-mug_2"


def running(**values) -> JobState:
    state = job_state.started("j", "a red mug", "/jobs/1")
    progress = messages.Progress(job="j", phase="train", step=30, of=300, seconds_per_step=0.25, eta_s=67.5)
    return job_state.applied(state, progress)._replace(**values)


def test_progress_moves_starting_to_running_but_does_not_undo_a_pause():
    assert running().status is Status.RUNNING
    paused = job_state.requested(running(), Status.PAUSED)
    late = job_state.applied(paused, messages.Progress(job="j", phase="train", step=31, of=300))
    assert (late.status, late.step) == (Status.PAUSED, 31)


def test_events_of_other_jobs_and_events_after_the_end_change_nothing():
    state = running()
    assert job_state.applied(state, messages.Result(job="other", folder="/r")) is state
    done = job_state.applied(state, messages.Result(job="j", folder="/r"))
    assert job_state.applied(done, messages.Failed(job="j", code="x", text="late")) is done


def test_a_result_that_overtakes_cancel_is_kept():
    cancelling = job_state.requested(running(), Status.CANCELLING)
    assert job_state.applied(cancelling, messages.Result(job="j", folder="/r")).status is Status.DONE


def test_a_death_while_cancelling_is_a_cancel():
    cancelling = job_state.requested(running(), Status.CANCELLING)
    assert job_state.failed(cancelling, Problem("killed")).status is Status.CANCELLED


@pytest.mark.parametrize("status", [Status.PAUSED, Status.FINISHING, Status.CANCELLING, Status.RUNNING])
def test_nothing_can_be_asked_of_a_job_that_ended(status):
    done = job_state.applied(running(), messages.Result(job="j", folder="/r"))
    assert job_state.requested(done, status) is done


def test_repeated_warnings_show_once():
    state = running()
    for _ in range(3):
        state = job_state.applied(state, messages.Warn(job="j", text="few steps"))
    assert state.warnings == ("few steps",)


def test_headline_tells_phase_step_and_time_left():
    assert job_state.headline(running()) == "Shaping 30/300 · 1 min 8 s left"
    assert job_state.headline(running(status=Status.CANCELLING)) == "Cancelling"
    assert job_state.headline(running(phase="mesh", of=0, eta_s=-1.0)) == "Making the mesh"


@pytest.mark.parametrize(
    ("on_the_command_line", "in_blender"),
    [
        ("Use --seed 0.", "Use seed 0."),
        ("Make room or give access, then continue with --resume.", "Make room or give access, then continue it in the history."),
        ("Try again with --resume.", "Continue it in the history."),
        ("Continue it with --resume.", "Continue it in the history."),
        ("Make room, or use another --out.", "Make room, or use another jobs folder."),
        ("Use a smaller --training.batch-size or --device cpu.", "Use a smaller training.batch_size or device cpu."),
        ("Take the preset draft.", "Take the preset draft."),
    ],
)
def test_fixes_of_the_engine_are_told_in_blenders_words(on_the_command_line, in_blender):
    assert fix_in_blender(on_the_command_line) == in_blender


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (119.6, "2 min"), (7500, "2 h 5 min")])
def test_durations_are_rounded_words(seconds, words):
    assert job_state.duration(seconds) == words


def test_terminal_line_has_bar_pace_and_time():
    line = progress_line(running(), 12.0)
    assert "[###........................." in line
    assert "0.25 s/step" in line and line.endswith("12 s so far")


def test_terminal_without_a_tty_writes_a_line_per_phase_only():
    stream = io.StringIO()
    progress = TerminalProgress(stream)
    for step in range(50):
        progress.show(running(step=step))
    progress.show(running(phase="mesh", of=0))
    assert len(stream.getvalue().splitlines()) == 2
    assert "\r" not in stream.getvalue()


def test_exit_of_a_killed_engine_names_memory_and_others_quote_the_log(tmp_path):
    log = tmp_path / "engine.log"
    log.write_text("first\nRuntimeError: no such device\n\n")
    assert "memory" in exit_problem(-9, log).text
    assert exit_problem(1, log).text == "The engine ended unexpectedly (exit code 1): RuntimeError: no such device."
    assert exit_problem(1, tmp_path / "missing").text == "The engine ended unexpectedly (exit code 1)."


def test_engine_python_comes_from_the_environment_then_the_preference_then_the_own_folder(tmp_path):
    variable = {settings.ENGINE_PYTHON_VARIABLE: "/env/python"}
    assert settings.find_engine_python("/pref/python", tmp_path, variable) == Path("/env/python")
    assert settings.find_engine_python("/pref/python", tmp_path, {}) == Path("/pref/python")
    assert settings.find_engine_python("", tmp_path, {}) is None
    assert settings.find_engine_python("env/bin/python", tmp_path, {}) == Path.cwd() / "env/bin/python", "the engine runs elsewhere"
    assert settings.find_engine_python("sh", tmp_path, {}).is_absolute()
    python = install_engine.venv_python(tmp_path)
    python.parent.mkdir(parents=True)
    python.touch()
    assert settings.find_engine_python("", tmp_path, {}) is None, "a set-up that was broken off"
    install_engine.write_state(tmp_path, {"phases": {}, "is_complete": True})
    assert settings.find_engine_python("", tmp_path, {}) == python


def test_request_is_built_as_typed_and_bad_words_are_sentences():
    overrides = settings.parse_overrides("training.n_steps=5 mesh.resolution=32")
    values = {"negative": "", "model": "toybox", "preset": "DRAFT", "seed": 3, "overrides": overrides}
    request = settings.job_request(prompt=" a red\nmug\n", **values)
    assert (request.prompt, request.preset, request.seed) == ("a red mug", "draft", 3)
    assert request.overrides == {"training.n_steps": "5", "mesh.resolution": "32"}
    with pytest.raises(ValueError, match="The prompt is empty"):
        settings.job_request(prompt="  ", **values)
    with pytest.raises(ValueError, match="'steps' is not a setting. Write settings as name=value"):
        settings.parse_overrides("steps")
