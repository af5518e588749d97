"""Every panel drawn into a recorder in every state: no exception, only icons, properties and operators that exist, no cut-off texts."""

from types import SimpleNamespace

import bpy
import pytest

from tests.blender_results import PACKAGE

ICONS = {item.identifier for item in bpy.types.UILayout.bl_rna.functions["prop"].parameters["icon"].enum_items}
LAYOUT = bpy.types.UILayout.bl_rna
# What fits into the default sidebar.
MAX_CHARS = 38
FULL_WIDTH = {"label", "operator", "progress"}


class Recorder:
    """A layout that writes down what is drawn. `has_textbox` as in Blender 5.2; `width` is the share of the sidebar it has."""

    def __init__(self, has_textbox: bool = False, calls: list | None = None) -> None:
        self.calls: list = [] if calls is None else calls
        self._has_textbox = has_textbox

    def __getattr__(self, name: str):
        if name.startswith("_") or (name == "textbox" and not self._has_textbox):
            raise AttributeError(name)
        assert name == "textbox" or name in LAYOUT.functions or name in LAYOUT.properties, f"UILayout has no {name}"
        if name in {"column", "row", "box", "split", "grid_flow", "column_flow"}:
            return lambda **_: Recorder(self._has_textbox, self.calls)
        if name == "panel":
            return lambda *_args, **_: (Recorder(self._has_textbox, self.calls), Recorder(self._has_textbox, self.calls))

        def record(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return SimpleNamespace() if name.startswith("operator") else None

        return record

    def texts(self) -> str:
        return "\n".join(str(kwargs.get("text", "")) for _, _, kwargs in self.calls)

    def operators(self) -> list[str]:
        return [args[0] for name, args, _ in self.calls if name == "operator"]


def our_panels() -> list[type]:
    return sorted((cls for cls in bpy.types.Panel.__subclasses__() if "dreamfusion" in cls.__module__), key=lambda cls: cls.__name__)


def draw(name: str = "DREAMFUSION_PT_main", has_textbox: bool = False) -> Recorder:
    recorder = Recorder(has_textbox)
    cls = getattr(bpy.types, name)
    panel = SimpleNamespace(layout=recorder)
    for part in ("draw_header", "draw_header_preset", "draw"):
        if part in vars(cls):
            getattr(cls, part)(panel, bpy.context)
    assert "A fault in the add-on" not in recorder.texts(), "a draw raised; see the output"
    for kind, args, kwargs in recorder.calls:
        if kind in {"prop", "prop_enum", "textbox", "prop_search", "template_ID", "template_ID_preview"}:
            assert hasattr(args[0], args[1]), args
            assert not kwargs.get("expand") or len(args[0].bl_rna.properties[args[1]].enum_items) <= 3, "their words would be cut off"
        if kind == "operator":
            category, _, operator = args[0].partition(".")
            assert operator in dir(getattr(bpy.ops, category)), args
        if kind == "popover":
            assert hasattr(bpy.types, kwargs["panel"])
        assert kwargs.get("icon", "NONE") in ICONS, kwargs
    return recorder


@pytest.fixture
def in_state(addon, monkeypatch):
    """Puts a state on show as if a job were in it."""
    runtime, job_state, messages = addon("ui.runtime"), addon("core.job_state"), addon("core.protocol").messages

    def set_state(**values):
        progress = messages.Progress(job="j", phase="train", step=120, of=300, seconds_per_step=0.21, eta_s=38)
        state = job_state.applied(job_state.started("j", "a red mug", "/jobs/j"), progress)
        monkeypatch.setattr(runtime._runtime, "session", SimpleNamespace(state=state._replace(**values), shutdown=lambda: None))

    return set_state


@pytest.fixture
def is_set_up(addon, monkeypatch):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", "/usr/bin/python3")
    addon("ui.preferences").forget_cache()


def test_before_set_up_the_button_says_why_and_another_mends_it(addon):
    addon("ui.preferences").forget_cache()
    recorder = draw()
    assert "Cannot generate: the engine is not set up" in recorder.texts()
    after = recorder.operators()[recorder.operators().index("dreamfusion.generate") + 1 :]
    assert after[0] == "preferences.addon_show"


def test_without_a_prompt_the_button_asks_for_one_and_with_one_it_generates(is_set_up):
    recorder = draw()
    assert "Cannot generate: no prompt" in recorder.texts() and "wm.context_set_string" in recorder.operators()
    bpy.context.scene.dreamfusion.prompt = "a red mug"
    assert "Generate" in draw().texts().splitlines()
    bpy.context.scene.dreamfusion.n_variations = 3
    assert "Generate 3 Variations" in draw().texts().splitlines()


def test_an_option_that_the_engine_would_refuse_is_named_and_can_be_reset(is_set_up):
    settings = bpy.context.scene.dreamfusion
    settings.prompt = "a red mug"
    settings.engine.render__size_px = "0,32,1"
    recorder = draw()
    assert "Cannot generate: a wrong option" in recorder.texts() and "Reset Size (px)" in recorder.texts()
    assert "Size (px) must be step,value,step,value" in recorder.texts().replace("\n", " ")
    assert "dreamfusion.reset_options" in recorder.operators()


def test_a_model_that_is_not_here_is_said_with_the_way_to_it(is_set_up):
    settings = bpy.context.scene.dreamfusion
    settings.prompt, settings.model = "a red mug", "sd21-base"
    recorder = draw()
    assert "Cannot generate: the model is not here" in recorder.texts() and "8 GB VRAM" in recorder.texts()
    assert recorder.operators()[1] == "dreamfusion.models_page", "Blender is offline here"


def test_a_start_by_shap_e_that_is_not_here_is_said_with_the_way_to_it(is_set_up, monkeypatch, addon):
    settings = bpy.context.scene.dreamfusion
    settings.prompt = "a red mug"
    recorder = draw("DREAMFUSION_PT_model")
    assert "drawn_start" in [args[1] for kind, args, _ in recorder.calls if kind == "prop"]
    assert "dreamfusion.model_download" not in recorder.operators()
    settings.drawn_start = True
    recorder = draw()
    assert "Cannot generate: Shap-E is not here" in recorder.texts() and recorder.operators()[1] == "dreamfusion.models_page"
    recorder = draw("DREAMFUSION_PT_model")
    assert "Download (1.3 GB)" in recorder.texts() and "dreamfusion.model_download" in recorder.operators()
    models = addon("ui.models")
    monkeypatch.setattr(models._known, "rows", tuple(row._replace(installed=True) for row in (*models.rows(), *models.helper_rows())))
    assert "Cannot generate" not in draw().texts()
    assert "dreamfusion.model_download" not in draw("DREAMFUSION_PT_model").operators()


def test_the_time_is_that_of_finished_jobs_where_there_are_some(addon, monkeypatch):
    record = addon("core.estimates").Record("draft", 300.0)
    monkeypatch.setattr(addon("ui.history"), "records", lambda: (record,))
    assert "About 5 min · no VRAM" in draw().texts()


def test_the_numbers_of_the_quality_stand_beneath_it(addon, monkeypatch):
    settings = bpy.context.scene.dreamfusion
    assert "300 steps · pictures of 64 px" in draw().texts() and "(guess)" in draw().texts()
    settings.preset = "HIGH"
    settings.engine.training__n_steps = 1234
    slow = next(line for line in draw().texts().splitlines() if "(guess)" in line)
    monkeypatch.setattr(addon("ui.setup"), "device", lambda: "cuda")
    assert slow not in draw().texts() and "(guess)" in draw().texts(), "a card is quicker"
    assert "1,234 steps · pictures of 128 px" in draw().texts()


@pytest.mark.parametrize("has_textbox", [False, True])
def test_prompt_field_fits_the_blender_version(has_textbox):
    kinds = [name for name, args, _ in draw(has_textbox=has_textbox).calls if args[1:] == ("prompt",)]
    assert kinds == ["textbox" if has_textbox else "prop"]


def test_while_running_bar_pace_and_buttons_show_and_another_job_can_wait(in_state, is_set_up):
    bpy.context.scene.dreamfusion.prompt = "a blue chair"
    in_state()
    recorder = draw()
    assert "Shaping 120/300 · 38 s left" in recorder.texts() and "0.21 s per step" in recorder.texts()
    assert "Add to Queue" in recorder.texts()
    assert recorder.operators() == ["dreamfusion.generate", "dreamfusion.pause", "dreamfusion.finish_now", "dreamfusion.cancel"]
    (factor,) = [kwargs["factor"] for name, _, kwargs in recorder.calls if name == "progress"]
    assert factor == pytest.approx(0.4)


@pytest.mark.parametrize("status", ["IDLE", "STARTING", "RUNNING", "PAUSED", "FINISHING", "CANCELLING", "DONE", "FAILED", "CANCELLED"])
def test_every_panel_draws_in_every_state_and_every_poll_answers(in_state, addon, status):
    Status = addon("core.job_state").Status
    in_state(
        status=Status[status],
        warnings=("The prompt names two props; the first is used.",),
        problem=addon("core.problem").Problem("It failed.", "Do this."),
    )
    for cls in our_panels():
        poll = getattr(cls, "poll", None)
        if poll is None or poll(bpy.context):
            draw(cls.__name__)
    polls = {name: getattr(bpy.ops.dreamfusion, name).poll() for name in ("generate", "cancel", "finish_now", "pause")}
    assert polls == {
        "generate": True,
        "cancel": status in {"STARTING", "RUNNING", "PAUSED", "FINISHING"},
        "finish_now": status in {"RUNNING", "PAUSED"},
        "pause": status in {"RUNNING", "PAUSED"},
    }


def test_every_operator_can_be_asked_whether_it_can_run():
    for name in dir(bpy.ops.dreamfusion):
        assert getattr(bpy.ops.dreamfusion, name).poll() in (True, False), name


def test_texts_of_our_own_fit_into_the_default_sidebar(in_state, is_set_up, addon):
    problem = addon("core.problem").Problem("The engine was killed by the system.", "Take a smaller preset.")
    in_state(status=addon("core.job_state").Status.FAILED, problem=problem, warnings=("A long warning that has to be wrapped somewhere.",))
    settings = bpy.context.scene.dreamfusion
    for preset in ("DRAFT", "STANDARD", "HIGH"):
        settings.preset = preset
        for name in ("main", "negative_seed", "model", "reference", "advanced"):
            for kind, _, kwargs in draw(f"DREAMFUSION_PT_{name}").calls:
                text = kwargs.get("text", "")
                assert kind not in FULL_WIDTH or len(text) <= MAX_CHARS - 3 * (kwargs.get("icon", "NONE") != "NONE"), text


def test_a_failure_shows_sentence_and_fix(in_state, addon):
    problem = addon("core.problem").Problem("The engine was killed by the system.", "Take a smaller preset.")
    in_state(status=addon("core.job_state").Status.FAILED, problem=problem)
    text = draw().texts().replace("\n", " ")
    assert "The engine was killed by the system. Take a smaller preset." in text


def test_no_exception_leaves_a_draw_or_a_poll_of_any_class(addon, capsys):
    """Whatever Blender hands over: here nothing at all."""
    addon("ui.drawing")._reported.clear()
    n_faults = 0
    for cls in addon("ui.addon").CLASSES:
        for name in ("draw", "draw_header", "draw_header_preset", "draw_item"):
            method = getattr(cls, name, None)
            if method is None or not getattr(method, "__module__", "").startswith(PACKAGE):
                continue
            recorder = Recorder()
            arguments = (None, recorder, None, None, 0, None, "") if name == "draw_item" else (None,)
            method(SimpleNamespace(layout=recorder), *arguments)
            n_faults += "A fault in the add-on" in recorder.texts()
        for name in ("poll", "poll_drop"):
            if name in vars(cls):
                assert getattr(cls, name)(None) in (True, False), cls
    assert n_faults > 10 and capsys.readouterr().err.count("Traceback") > 10, "faults did happen"


@pytest.mark.parametrize("rubbish", [None, 7, object()])
def test_broken_cached_data_is_a_line_in_the_panel_and_no_exception(addon, monkeypatch, capsys, rubbish):
    monkeypatch.setattr(addon("ui.runtime"), "state", lambda: rubbish)
    monkeypatch.setattr(addon("ui.readiness"), "changed_options", lambda _settings: rubbish)
    drawing = addon("ui.drawing")
    drawing._reported.clear()
    for _ in range(2):
        recorder = Recorder()
        bpy.types.DREAMFUSION_PT_main.draw(SimpleNamespace(layout=recorder), bpy.context)
        assert "A fault in the add-on" in recorder.texts()
    assert capsys.readouterr().err.count("Traceback") == 1, "told once, not with every frame"


def test_options_of_another_version_and_rubbish_values_are_drawn_and_left_out(addon):
    settings = bpy.context.scene.dreamfusion
    for key, value in (("no.such_option", "1"), ("training.n_steps", "many"), ("field.encoding", "??"), ("camera.radius", "x,y,z")):
        item = settings.options.add()
        item.name, item.value = key, value
    text = draw("DREAMFUSION_PT_advanced").texts()
    assert "Steps must be a number" in text and "Radius must be a number" in text
    assert settings.engine.training__n_steps == 0 and settings.engine.field__encoding == "dense"
    assert tuple(settings.engine.camera__radius) == (0.0, 0.0)
    assert "no.such_option" not in addon("ui.option_panels").changed_options(settings)


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
