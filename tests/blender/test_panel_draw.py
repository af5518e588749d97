"""The panel drawn into a recorder in every state: no exception, only icons, properties and operators that exist."""

from types import SimpleNamespace

import bpy
import pytest

ICONS = {item.identifier for item in bpy.types.UILayout.bl_rna.functions["prop"].parameters["icon"].enum_items}


class Recorder:
    """A layout that writes down what is drawn. `has_textbox` as in Blender 5.2."""

    def __init__(self, has_textbox: bool = False, calls: list | None = None) -> None:
        self.calls: list = [] if calls is None else calls
        self._has_textbox = has_textbox

    def __getattr__(self, name: str):
        if name.startswith("_") or (name == "textbox" and not self._has_textbox):
            raise AttributeError(name)
        if name in {"column", "row", "box", "split"}:
            return lambda **_: Recorder(self._has_textbox, self.calls)

        def record(*args, **kwargs):
            self.calls.append((name, args, kwargs))

        return record

    def texts(self) -> str:
        return "\n".join(str(kwargs.get("text", "")) for _, _, kwargs in self.calls)


def draw(has_textbox: bool = False) -> Recorder:
    recorder = Recorder(has_textbox)
    bpy.types.DREAMFUSION_PT_main.draw(SimpleNamespace(layout=recorder), bpy.context)
    for name, args, kwargs in recorder.calls:
        if name in {"prop", "textbox"}:
            assert hasattr(args[0], args[1]), args
        if name == "operator":
            assert args[0].partition(".")[2] in dir(bpy.ops.dreamfusion), args
        assert kwargs.get("icon", "NONE") in ICONS, kwargs
    return recorder


@pytest.fixture
def in_state(addon, monkeypatch):
    """Puts a state on show as if a job were in it."""
    runtime, job_state, messages = addon("ui.runtime"), addon("core.job_state"), addon("core.protocol").messages

    def set_state(**values):
        progress = messages.Progress(job="j", phase="train", step=120, of=300, seconds_per_step=0.21, eta_s=38)
        state = job_state.applied(job_state.started("j", "a red mug", "/jobs/j"), progress)
        monkeypatch.setattr(runtime._runtime, "session", SimpleNamespace(state=job_state.replace(state, **values), shutdown=lambda: None))

    return set_state


def test_before_set_up_the_button_says_why_and_how(addon):
    addon("ui.preferences").forget_cache()
    text = draw().texts()
    assert "The engine is not set up" in text and "preferences" in text


def test_without_a_prompt_the_button_asks_for_one_and_with_one_it_generates(addon, monkeypatch):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", "/usr/bin/python3")
    addon("ui.preferences").forget_cache()
    assert "Write a prompt first" in draw().texts()
    bpy.context.scene.dreamfusion.prompt = "a red mug"
    assert "Generate" in draw().texts().splitlines()


@pytest.mark.parametrize("has_textbox", [False, True])
def test_prompt_field_fits_the_blender_version(has_textbox):
    kinds = [name for name, args, _ in draw(has_textbox).calls if args[1:] == ("prompt",)]
    assert kinds == ["textbox" if has_textbox else "prop"]


def test_while_running_bar_pace_and_buttons_show(in_state):
    in_state()
    recorder = draw()
    assert "Shaping 120/300 · 38 s left" in recorder.texts() and "0.21 s per step" in recorder.texts()
    assert [args[0] for name, args, _ in recorder.calls if name == "operator"] == [
        "dreamfusion.pause",
        "dreamfusion.finish_now",
        "dreamfusion.cancel",
    ]
    (factor,) = [kwargs["factor"] for name, _, kwargs in recorder.calls if name == "progress"]
    assert factor == pytest.approx(0.4)


@pytest.mark.parametrize("status", ["IDLE", "STARTING", "RUNNING", "PAUSED", "FINISHING", "CANCELLING", "DONE", "FAILED", "CANCELLED"])
def test_every_state_draws_and_every_poll_answers(in_state, addon, status):
    Status = addon("core.job_state").Status
    in_state(
        status=Status[status],
        warnings=("The prompt names two props; the first is used.",),
        problem=addon("core.problem").Problem("It failed.", "Do this."),
    )
    draw()
    polls = {name: getattr(bpy.ops.dreamfusion, name).poll() for name in ("generate", "cancel", "finish_now", "pause")}
    is_active = status in {"STARTING", "RUNNING", "PAUSED", "FINISHING", "CANCELLING"}
    assert polls == {
        "generate": not is_active,
        "cancel": status in {"STARTING", "RUNNING", "PAUSED", "FINISHING"},
        "finish_now": status in {"RUNNING", "PAUSED"},
        "pause": status in {"RUNNING", "PAUSED"},
    }


def test_a_failure_shows_sentence_and_fix(in_state, addon):
    problem = addon("core.problem").Problem("The engine was killed by the system.", "Take a smaller preset.")
    in_state(status=addon("core.job_state").Status.FAILED, problem=problem)
    text = draw().texts().replace("\n", " ")
    assert "The engine was killed by the system. Take a smaller preset." in text


def test_a_preview_picture_shows_its_newest_content(addon, tmp_path):
    import numpy as np

    from tests.blender_results import write_png

    preview = addon("bl.preview").PanelPreview()
    write_png(tmp_path / "p.png", np.full((8, 8, 3), 255, np.uint8))
    preview.show(str(tmp_path / "missing.png"), "0")
    assert preview.icon_id == 0
    preview.show(str(tmp_path / "p.png"), "1")
    assert preview._pictures["1"].image_size[:] == (8, 8)
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, :, 0] = 255  # the top row is red
    write_png(tmp_path / "p.png", pixels)
    preview.show(str(tmp_path / "p.png"), "2")
    assert list(preview._pictures) == ["2"] and preview._pictures["2"].image_size[:] == (4, 4)
    shown = np.array(preview._pictures["2"].image_pixels_float).reshape(4, 4, 4)
    assert shown[3, 0, 0] == 1.0 and shown[0, 0, 0] == 0.0, "rows go up"
    (tmp_path / "p.png").write_bytes(b"half a pict")
    preview.show(str(tmp_path / "p.png"), "3")
    assert list(preview._pictures) == ["2"], "what cannot be read keeps the last picture"
    assert len(bpy.data.images) == 0
    preview.close()
    assert preview.icon_id == 0
