"""The panel's table of engine options: the same as the engine's own, with labels, ranges and faults; and what a job will take."""

import subprocess
import sys

import pytest

from blender_dreamfusion.core.engine_options import TABLE_PATH, engine_options, fault, found, groups, largest, mean, sizes, value_of
from blender_dreamfusion.core.estimates import Record, expected, rounded
from engine.config import make_config
from engine.errors import UserError

# About what a row of the advanced table has room for, beside a value and the reset button.
MAX_LABEL = 22


def test_the_shipped_table_is_what_the_engine_says():
    answer = subprocess.run([sys.executable, "-m", "engine", "options", "--json"], capture_output=True, text=True, check=True).stdout
    assert TABLE_PATH.read_text(encoding="utf-8") == answer, f"write it anew: python -m engine options --json > {TABLE_PATH}"


def test_options_are_listed_for_people_too():
    answer = subprocess.run([sys.executable, "-m", "engine", "options"], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in answer.splitlines() if line.startswith("--training.n-steps ")]
    assert "300 | 1500 | 6000" in line and "Steps of the run" in line


def test_the_table_has_a_kind_of_every_sort_and_all_groups():
    assert {option.kind for option in engine_options().values()} == {"bool", "int", "float", "word", "pair", "schedule", "text"}
    assert groups()[0] == "camera" and {"field", "guidance", "training", "mesh", "output"} < set(groups())


def test_labels_are_short_words_with_units():
    options = engine_options()
    assert (options["training.n_steps"].label, options["camera.roll_deg"].label) == ("Steps", "Roll (°)")
    assert (options["camera.fov_y_deg"].label, options["loss.lambda_tv"].label) == ("FOV Y (°)", "TV")
    assert max(len(option.label) for option in options.values()) <= MAX_LABEL
    assert all(option.help for option in options.values())


@pytest.mark.parametrize("key", [option.key for option in engine_options().values() if option.low is not None])
def test_ranges_are_those_the_engine_checks(key):
    option = engine_options()[key]
    assert option.low is not None and option.high is not None
    for outside in (option.low - 1, option.high * 2 + 1):
        text = f"{outside:.0f},{outside:.0f}" if option.kind == "pair" else f"{outside:.0f}" if option.kind == "int" else f"{outside}"
        with pytest.raises(UserError):
            make_config("draft", {key: text})
        assert "must lie in" in fault(option, text)
    assert fault(option, option.values["draft"]) == ""


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("training.n_steps", "many", "Steps must be a number"),
        ("training.n_steps", "1,2", "must be one number"),
        ("render.size_px", "0,32,1", "step,value,step,value"),
        ("render.size_px", "0,32,1,9000", "must lie in 16 to 512"),
        ("render.size_px", "0,32,1,64", ""),
        ("camera.elevation_deg", "1", "must be two numbers"),
        ("output.formats", "anything", ""),
    ],
)
def test_faults_of_form_are_named(key, text, words):
    answer = fault(engine_options()[key], text)
    assert words in answer and bool(words) == bool(answer)


def test_search_looks_at_names_labels_and_descriptions():
    options = engine_options().values()
    assert {option.key for option in found("STEPS run", options)} >= {"training.n_steps"}
    assert found("marching cubes lattice", options) == [engine_options()["mesh.resolution"]]
    assert len(found("", options)) == len(options) and found("xyzzy", options) == []


def test_a_changed_value_wins_over_the_presets():
    assert value_of("training.n_steps", "DRAFT", {}) == "300"
    assert sizes("HIGH", {})["picture_px"] == 128
    assert sizes("draft", {"training.n_steps": "7", "mesh.texture_size": "rubbish"})["steps"] == 7
    assert sizes("draft", {"mesh.texture_size": "rubbish"})["texture_px"] == 0


def test_largest_and_mean_of_schedules():
    assert largest("0,32,0.35,32,0.35,48,0.65,48,0.65,64") == 64 and largest("5") == 5 and largest("?") == 0
    assert mean("0,0,1,10") == 5 and mean("3", power=2) == 9 and mean("0,2,0.5,2,0.5,4") == 3 and mean("?") == 0
    assert mean("0.5,0,1,10") == 2.5 and mean("0,4,100,4") == 4


def test_without_a_finished_job_the_time_is_a_guess_and_says_so():
    draft, high = (expected([], preset, {}, model="toybox") for preset in ("DRAFT", "HIGH"))
    assert str(draft) == "about 2 min (guess)" and high.seconds > 5 * draft.seconds
    assert expected([], "draft", {}, model="sd15").seconds > 10 * draft.seconds
    assert expected([], "high", {}, model="toybox", device="cuda:1").seconds < high.seconds / 4


def test_finished_jobs_of_the_preset_tell_the_time():
    records = [Record("draft", 100.0), Record("draft", 400.0), Record("draft", 200.0), Record("high", 9.0)]
    assert expected(records, "DRAFT", {}, model="toybox").seconds == pytest.approx(200)
    assert str(expected(records, "DRAFT", {}, model="toybox")) == "about 3 min"


def test_a_run_with_other_settings_or_ended_early_is_scaled():
    short = Record("draft", 60.0, n_steps=100)
    assert expected([short], "draft", {}, model="toybox").seconds > 90
    assert expected([Record("draft", 100.0)], "draft", {"training.n_steps": "600"}, model="toybox").seconds > 150
    tiny = Record("draft", 26.0, overrides={"training.n_steps": "3"})
    assert expected([tiny], "draft", {}, model="toybox").seconds > 90


def test_another_preset_tells_when_nothing_better_does_but_another_model_or_device_does_not():
    fast = [Record("draft", 60.0)]
    assert not expected(fast, "HIGH", {}, model="toybox").is_guess
    assert expected(fast, "HIGH", {}, model="toybox").seconds < expected([], "HIGH", {}, model="toybox").seconds
    assert expected(fast, "draft", {}, model="sd15").is_guess
    assert expected(fast, "draft", {}, model="toybox", device="cuda").is_guess
    assert expected([Record("of another version", 5.0)], "draft", {}, model="toybox").is_guess
    assert expected([*fast, Record("draft", 30.0, device="cuda")], "draft", {}, model="toybox").seconds == pytest.approx(30)


def test_only_the_latest_jobs_count():
    slow, fast = [Record("draft", 1000.0)] * 9, [Record("draft", 100.0)] * 5
    assert expected([*slow, *fast], "draft", {}, model="toybox").seconds == pytest.approx(100)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "10 s"), (84, "1 min 20 s"), (140, "2 min"), (3700, "1 h"), (5000, "1 h 25 min"), (30000, "8 h")]
)
def test_estimates_are_rounded(seconds, text):
    assert rounded(seconds) == text
