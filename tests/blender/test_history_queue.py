"""History and queue in Blender: an engine that makes a box of every prompt stands in for the real one, everything else is real."""

import json
import stat
import sys
import time
from pathlib import Path

import bpy
import pytest

from tests.blender.test_panel_draw import draw
from tests.blender_results import ROOT, write_box_result

ENGINE = ROOT / "tests" / "unit" / "core" / "box_engine.py"


@pytest.fixture(autouse=True)
def box_engine(tmp_path, monkeypatch, addon):
    """The box engine as the engine's Python, and a jobs folder of this test's own."""
    result = write_box_result(tmp_path / "box")
    program = tmp_path / "python-box"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -u "{ENGINE}" "{result}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", str(program))
    preferences = addon("ui.preferences")
    preferences.forget_cache()
    (tmp_path / "jobs").mkdir()
    monkeypatch.setattr(preferences, "jobs_folder", lambda _context: tmp_path / "jobs")
    yield
    history = addon("ui.history")
    history.unregister_extra()
    history.register_extra()


@pytest.fixture
def runtime(addon):
    return addon("ui.runtime")


@pytest.fixture
def entry(addon, tmp_path):
    """A waiting job by its prompt."""

    def make(prompt: str, **request):
        job = addon("core.protocol").messages.JobRequest(prompt=prompt, **request)
        folder = tmp_path / "jobs" / prompt.replace(" ", "-")
        return addon("core.queue").QueueEntry(job, str(folder), addon("ui.runtime").current_plan(bpy.context))

    return make


def drive(runtime, reached=lambda: False, timeout_s: float = 20.0) -> None:
    """What the timer does in a window, until `reached` or until nothing is left to do."""
    deadline = time.monotonic() + timeout_s
    while runtime.is_busy() and not reached():
        assert time.monotonic() < deadline, runtime.state()
        runtime.pump()
        time.sleep(0.01)


def shown(addon) -> list[str]:
    return [f"{item.prompt}: {item.state.value}" for item in addon("ui.history").wait_until_read()]


def commands_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "commands.log").read_text().splitlines()]


def make_unfinished(runtime, entry, prompt: str = "a slow mug", **request) -> Path:
    """A job whose engine was killed."""
    made = entry(prompt, **request)
    runtime.enqueue(made)
    drive(runtime, lambda: runtime.state().step > 0)
    runtime.release_engine()
    drive(runtime)
    return Path(made.folder)


# --- the queue ---


def test_jobs_run_one_after_the_other_also_after_one_that_failed(runtime, entry):
    for prompt in ("a mug", "it fails", "a bowl", "it dies", "a jar"):
        runtime.enqueue(entry(prompt))
    assert [item.request.prompt for item in runtime.queue().entries] == ["it fails", "a bowl", "it dies", "a jar"]
    drive(runtime)
    assert sorted(obj.name for obj in bpy.data.objects) == ["a-bowl", "a-jar", "a-mug"]
    assert runtime.queue().running is None and not runtime.queue().entries
    assert "It came to nothing. Use seed 1." == str(runtime.failure_of(entry("it fails").folder))
    assert "exit code 7" in str(runtime.failure_of(entry("it dies").folder))
    assert runtime.failure_of(entry("a bowl").folder) is None


def test_a_full_disk_holds_the_line_and_nothing_is_lost(runtime, entry):
    for prompt in ("a mug", "it full", "a bowl"):
        runtime.enqueue(entry(prompt))
    drive(runtime)
    assert [item.request.prompt for item in runtime.queue().entries] == ["it full", "a bowl"]
    assert "No space left" in str(runtime.held()) and "history" in runtime.held().fix
    drawn = draw("DREAMFUSION_PT_queue")
    assert "The queue waits" in drawn.texts() and "dreamfusion.queue_go_on" in drawn.operators()
    bpy.context.window_manager.dreamfusion.queue_index = 0
    bpy.ops.dreamfusion.queue_remove()
    bpy.ops.dreamfusion.queue_go_on()
    drive(runtime)
    assert sorted(obj.name for obj in bpy.data.objects) == ["a-bowl", "a-mug"]


def test_an_engine_that_does_not_start_holds_all_variations(runtime, entry, monkeypatch, addon, tmp_path):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", str(tmp_path / "nowhere"))
    addon("ui.preferences").forget_cache()
    for prompt in ("a mug", "a bowl"):
        runtime.enqueue(entry(prompt))
    drive(runtime)
    assert [item.request.prompt for item in runtime.queue().entries] == ["a mug", "a bowl"]
    assert runtime.held().code == "start" and not bpy.data.objects


def test_the_line_can_be_put_in_another_order_while_a_job_runs(runtime, entry, addon):
    runtime.enqueue(entry("a slow mug"))
    for prompt in ("a bowl", "a jar", "a cup"):
        runtime.enqueue(entry(prompt))
    window = bpy.context.window_manager.dreamfusion
    addon("ui.queue").show_rows()
    assert len(bpy.context.window_manager.dreamfusion_queue.rows) == 3
    window.queue_index = 2
    bpy.ops.dreamfusion.queue_move(by=-1)
    bpy.ops.dreamfusion.queue_move(by=-1)
    assert [item.request.prompt for item in runtime.queue().entries] == ["a cup", "a bowl", "a jar"] and window.queue_index == 0
    bpy.ops.dreamfusion.queue_move(by=1)
    window.queue_index = 2
    bpy.ops.dreamfusion.queue_remove()
    assert len(bpy.context.window_manager.dreamfusion_queue.rows) == 2 and window.queue_index == 1
    drawn = draw("DREAMFUSION_PT_queue")
    assert {"dreamfusion.queue_move", "dreamfusion.queue_remove"} <= set(drawn.operators())
    drive(runtime, lambda: runtime.state().step > 0)
    bpy.ops.dreamfusion.finish_now()
    drive(runtime)
    dates = [Path(item.folder).name for item in sorted(addon("ui.history").wait_until_read(), key=lambda item: item.created)]
    assert set(dates) == {"a-slow-mug", "a-bowl", "a-cup"}
    assert len(bpy.data.objects) == 3


def test_cancel_ends_the_running_job_only(runtime, entry):
    runtime.enqueue(entry("a slow mug"))
    runtime.enqueue(entry("a bowl"))
    drive(runtime, lambda: runtime.state().step > 0)
    bpy.ops.dreamfusion.cancel()
    drive(runtime)
    assert [obj.name for obj in bpy.data.objects] == ["a-bowl"]


def test_the_line_survives_a_blender_that_is_closed_and_nothing_starts_by_itself(runtime, entry, addon, tmp_path):
    runtime.open_queue(tmp_path / "queue")
    for prompt in ("a slow mug", "a bowl", "a jar"):
        runtime.enqueue(entry(prompt))
    drive(runtime, lambda: runtime.state().step > 0)
    runtime.shutdown()

    runtime.open_queue(tmp_path / "queue")
    assert [item.request.prompt for item in runtime.queue().left] == ["a slow mug", "a bowl", "a jar"]
    runtime.pump()
    assert not runtime.is_busy() and runtime.session() is None
    drawn = draw()
    assert "3 jobs were waiting" in drawn.texts().replace("\n", " ")
    assert {"dreamfusion.queue_continue", "dreamfusion.queue_discard"} <= set(drawn.operators())

    bpy.ops.wm.read_homefile(app_template="", use_empty=True)  # their files are not open here
    bpy.ops.dreamfusion.queue_continue()
    drive(runtime, lambda: runtime.state().step > 0)
    assert commands_of(tmp_path / "jobs" / "a-slow-mug")[-1]["resume"] is True
    bpy.ops.dreamfusion.finish_now()
    drive(runtime)
    assert sorted(obj.name for obj in bpy.data.objects) == ["a-bowl", "a-jar", "a-slow-mug"]
    runtime.shutdown()
    runtime.open_queue(tmp_path / "queue")
    assert not runtime.queue().left, "what is done is not asked about again"


def test_discarding_what_was_left_forgets_it_but_not_the_history(runtime, entry, addon, tmp_path):
    runtime.open_queue(tmp_path / "queue")
    for prompt in ("a slow mug", "a bowl"):
        runtime.enqueue(entry(prompt))
    drive(runtime, lambda: runtime.state().step > 0)
    runtime.shutdown()
    runtime.open_queue(tmp_path / "queue")
    bpy.ops.dreamfusion.queue_discard()
    runtime.shutdown()
    runtime.open_queue(tmp_path / "queue")
    assert not runtime.queue().left
    assert shown(addon) == ["a slow mug: Unfinished"]


def test_variations_are_jobs_of_their_own_and_the_background_waits_for_all(addon):
    assert bpy.ops.dreamfusion.generate(prompt="a mug", seed=5, n_variations=3) == {"FINISHED"}
    assert sorted(obj["dreamfusion_seed"] for obj in bpy.data.objects) == [5, 6, 7]
    assert len(shown(addon)) == 3


def test_a_blender_without_a_window_leaves_the_lines_of_others_alone(runtime, entry, tmp_path, addon):
    """A farm or a script must not take over what an artist's Blender is to run."""
    bpy.ops.dreamfusion.generate(prompt="a mug")
    assert runtime.queue().store is None
    assert not (runtime.data_folder() / "queue").exists()


# --- the history ---


def test_every_job_is_in_the_list_newest_first_and_can_be_searched(runtime, entry, addon):
    for prompt in ("a mug", "it fails", "a bowl"):
        runtime.enqueue(entry(prompt))
    drive(runtime)
    make_unfinished(runtime, entry)
    assert sorted(shown(addon)) == ["a bowl: Done", "a mug: Done", "a slow mug: Unfinished", "it fails: Unfinished"]
    group = bpy.context.window_manager.dreamfusion_history
    assert len(group.rows) == 4
    group.search = "mug done"
    assert len(group.rows) == 1 and addon("ui.history").chosen(bpy.context).prompt == "a mug"
    drawn = draw("DREAMFUSION_PT_history")
    assert {"dreamfusion.history_import", "dreamfusion.history_more", "dreamfusion.history_delete"} <= set(drawn.operators())
    assert "Draft, seed 0" in drawn.texts()
    group.search = "slow"
    drawn = draw("DREAMFUSION_PT_history")
    assert "dreamfusion.history_continue" in drawn.operators() and "Unfinished" in drawn.texts()
    group.search = "nothing like it"
    assert "No job found" in draw("DREAMFUSION_PT_history").texts()


def test_the_panel_of_a_machine_without_jobs_says_so(addon):
    addon("ui.history").wait_until_read()
    assert "No jobs yet" in draw("DREAMFUSION_PT_history").texts()


def test_a_job_that_ends_shows_in_the_history_without_a_click(runtime, entry, addon):
    history = addon("ui.history")
    history.wait_until_read()
    runtime.enqueue(entry("a mug"))
    drive(runtime)
    deadline = time.monotonic() + 5
    while not history.entries() and time.monotonic() < deadline:
        history.collect()
        time.sleep(0.01)
    assert [item.state.value for item in history.entries()] == ["Done"]


def test_import_again_brings_the_object_back_and_refuses_what_has_no_result(runtime, entry):
    runtime.enqueue(entry("a mug"))
    drive(runtime)
    bpy.data.objects.remove(bpy.data.objects["a-mug"])
    bpy.ops.dreamfusion.history_import(folder=entry("a mug").folder)
    assert [obj["dreamfusion_prompt"] for obj in bpy.data.objects] == ["a mug"]
    folder = make_unfinished(runtime, entry)
    with pytest.raises(RuntimeError, match="has no result yet. Continue it first"):
        bpy.ops.dreamfusion.history_import(folder=str(folder))
    with pytest.raises(RuntimeError, match="There is no job in"):
        bpy.ops.dreamfusion.history_import(folder=str(folder.parent))
    with pytest.raises(RuntimeError, match="Choose a job in the history first"):
        bpy.ops.dreamfusion.history_import()


def test_generate_again_is_the_same_request_in_a_folder_of_its_own(runtime, entry, tmp_path, addon):
    runtime.enqueue(entry("a mug", seed=9, overrides={"training.n_steps": "50"}))
    drive(runtime)
    bpy.context.scene.dreamfusion.prompt, bpy.context.scene.dreamfusion.seed = "something else", 1
    assert bpy.ops.dreamfusion.history_again(folder=entry("a mug").folder) == {"FINISHED"}
    folders = sorted((tmp_path / "jobs").iterdir())
    assert len(folders) == 2
    first, second = (commands_of(folder)[0]["request"] for folder in folders)
    assert first == second
    assert len(bpy.data.objects) == 2


def test_continue_resumes_in_the_jobs_own_folder(runtime, entry, tmp_path):
    folder = make_unfinished(runtime, entry, seed=3)
    runtime.shutdown()
    bpy.context.window_manager.dreamfusion.history_index = 0
    started = commands_of(folder)[0]
    (folder / "result").mkdir()
    (folder / "result" / "result.json").write_text("{}")
    with pytest.raises(RuntimeError, match="This job is done. Use More Steps"):
        bpy.ops.dreamfusion.history_continue(folder=str(folder))
    (folder / "result" / "result.json").unlink()
    (folder / "result").rmdir()
    body = json.loads((folder / "job.json").read_text())
    body["request"]["prompt"] = started["request"]["prompt"] = "a mug"  # no longer slow, so that it ends
    (folder / "job.json").write_text(json.dumps(body))
    assert bpy.ops.dreamfusion.history_continue(folder=str(folder)) == {"FINISHED"}
    again = commands_of(folder)[-1]
    assert again["resume"] is True and again["request"] == started["request"]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [folder.name]


def test_a_job_that_broke_off_can_be_continued_right_where_its_end_is_told(runtime, entry, addon):
    folder = make_unfinished(runtime, entry)
    addon("ui.history").wait_until_read()
    drawn = draw("DREAMFUSION_PT_main")
    assert "Continue Job" in drawn.texts() and "dreamfusion.history_continue" in drawn.operators()
    runtime.enqueue(entry("a mug"))
    drive(runtime)
    addon("ui.history").wait_until_read()
    assert "Continue Job" not in draw("DREAMFUSION_PT_main").texts(), "the last one is done"
    assert folder.is_dir()


def test_more_steps_make_a_new_job_that_goes_on_from_the_old_one(runtime, entry, tmp_path):
    runtime.enqueue(entry("a mug"))
    drive(runtime)
    folder = Path(entry("a mug").folder)
    assert bpy.ops.dreamfusion.history_more(folder=str(folder), n_steps=900) == {"FINISHED"}
    (new,) = [path for path in (tmp_path / "jobs").iterdir() if path != folder]
    request = commands_of(new)[0]["request"]
    assert request["start_from"] == str(folder) and request["overrides"]["training.n_steps"] == "900"
    with pytest.raises(RuntimeError, match="not done. Continue it instead"):
        bpy.ops.dreamfusion.history_more(folder=str(make_unfinished(runtime, entry)))


def test_load_puts_every_setting_into_the_panel(runtime, entry):
    overrides = {"training.n_steps": "77", "guidance.guidance_scale": "12.5", "from.the_future": "1"}
    runtime.enqueue(entry("a mug", seed=9, preset="standard", negative="blurry", overrides=overrides))
    drive(runtime)
    settings = bpy.context.scene.dreamfusion
    settings.prompt, settings.new_seed_each_time, settings.n_variations = "other", True, 4
    settings.options.add().name = "render.size_px"
    bpy.ops.dreamfusion.history_load(folder=entry("a mug").folder)
    assert (settings.prompt, settings.negative, settings.preset, settings.seed) == ("a mug", "blurry", "STANDARD", 9)
    assert (settings.new_seed_each_time, settings.n_variations, settings.guidance_scale) == (False, 1, 12.5)
    assert {item.name: item.value for item in settings.options} == {"training.n_steps": "77"}


def test_delete_takes_the_job_and_leaves_the_object(runtime, entry, addon, tmp_path):
    runtime.enqueue(entry("a mug"))
    drive(runtime)
    folder = Path(entry("a mug").folder)
    (folder / "commands.log").unlink()
    bpy.ops.dreamfusion.history_delete(folder=str(folder))
    assert not folder.exists()
    assert bpy.data.images["a-mug_albedo"].packed_file is not None and "a-mug" in bpy.data.objects
    assert shown(addon) == []


def test_delete_refuses_a_running_job_and_what_is_no_job_of_ours(runtime, entry, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "job.json").write_text('{"request": {"prompt": "a mug"}}')
    with pytest.raises(RuntimeError, match="no folder inside the jobs folder"):
        bpy.ops.dreamfusion.history_delete(folder=str(outside))
    assert (outside / "job.json").is_file()
    runtime.enqueue(entry("a slow mug"))
    drive(runtime, lambda: runtime.state().step > 0)
    with pytest.raises(RuntimeError, match="This job runs or waits"):
        bpy.ops.dreamfusion.history_delete(folder=entry("a slow mug").folder)
    with pytest.raises(RuntimeError, match="runs or waits already"):
        bpy.ops.dreamfusion.history_continue(folder=entry("a slow mug").folder)


def test_a_saved_file_tells_nothing_about_the_jobs(runtime, entry, addon, tmp_path):
    runtime.enqueue(entry("a secret mug"))
    runtime.enqueue(entry("a slow secret bowl"))
    drive(runtime, lambda: runtime.state().step > 0 and len(bpy.data.objects) == 1)
    for obj in list(bpy.data.objects):
        bpy.data.objects.remove(obj)
    bpy.ops.outliner.orphans_purge(do_recursive=True)
    runtime.enqueue(entry("a third secret"))
    shown(addon)
    addon("ui.queue").show_rows()
    path = tmp_path / "a.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path), compress=False)
    assert b"secret" not in path.read_bytes()


def test_asking_a_thousand_jobs_does_not_hold_blender(addon, tmp_path):
    for number in range(1000):
        folder = tmp_path / "jobs" / f"{number}"
        folder.mkdir()
        body = {"request": {"prompt": f"mug {number}"}, "created": "2026-11-01T12:00:00+00:00"}
        (folder / "job.json").write_text(json.dumps(body))
    history = addon("ui.history")
    history.read_again()
    longest, is_done = 0.0, False
    while not is_done:
        begun = time.thread_time()
        is_done = history.collect()
        longest = max(longest, time.thread_time() - begun)
        time.sleep(0.005)
    assert longest < 0.05
    assert len(bpy.context.window_manager.dreamfusion_history.rows) == history.MAX_ROWS
    drawn = draw("DREAMFUSION_PT_history")
    assert f"The newest {history.MAX_ROWS} of 1,000" in drawn.texts()
    begun = time.thread_time()
    bpy.context.window_manager.dreamfusion_history.search = "mug 77"
    assert time.thread_time() - begun < 0.05
    assert len(bpy.context.window_manager.dreamfusion_history.rows) == 19


def test_list_rows_draw_whatever_index_blender_asks_for(runtime, entry, addon):
    runtime.enqueue(entry("a slow mug"))
    runtime.enqueue(entry("a bowl"))
    drive(runtime, lambda: runtime.state().step > 0)
    shown(addon)
    from tests.blender.test_panel_draw import Recorder

    for name in ("DREAMFUSION_UL_history", "DREAMFUSION_UL_queue"):
        for index in (0, 99):
            recorder = Recorder()
            getattr(bpy.types, name).draw_item(None, bpy.context, recorder, None, None, 0, None, "", index)
            assert bool(recorder.calls) == (index == 0)
