"""The models page: drawn in every state, and the real engine fetching, adding, checking and deleting through the operators."""

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
TAESD_COMMIT = "614f76814bbe30edbe2e627ace1c2234c81a2c0e"


class Recorder:
    """A layout that writes down what is drawn; what is not in Blender's layout is an error."""

    def __init__(self, calls=None):
        self.calls = [] if calls is None else calls

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        known = bpy.types.UILayout.bl_rna
        assert name in known.functions or name in known.properties, name
        if name in {"column", "row", "box", "split"}:
            return lambda **_: Recorder(self.calls)

        def record(*args, **kwargs):
            icons = {item.identifier for item in known.functions["prop"].parameters["icon"].enum_items}
            assert kwargs.get("icon", "NONE") in icons, kwargs
            target = SimpleNamespace()
            self.calls.append((name, args, kwargs, target))
            return target if name == "operator" else None

        return record

    def texts(self):
        return "\n".join(str(kwargs.get("text", "")) for _, _, kwargs, _ in self.calls)

    def operators(self):
        return [(args[0], vars(target).get("model")) for name, args, _, target in self.calls if name == "operator"]


@pytest.fixture
def models(addon, tmp_path, monkeypatch):
    """The module under test with an empty models folder; nothing is known but what ships."""
    module = addon("ui.models")
    bpy.context.preferences.addons[module.ADDON_PACKAGE].preferences.models_folder = str(tmp_path / "models")
    for name in ("XDG_CACHE_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    module._cache_path().unlink(missing_ok=True)
    module._known.__init__()
    yield module
    addon("ui.tasks").shutdown()
    module._known.__init__()
    bpy.context.preferences.addons[module.ADDON_PACKAGE].preferences.models_folder = ""


@pytest.fixture
def draw_page(addon, models):
    def draw(model="toybox", helper="taesd"):
        models.sync_list()
        window = bpy.context.window_manager.dreamfusion
        window.model_index = [item.name for item in window.models].index(model)
        window.helper_index = [item.name for item in window.helpers].index(helper)
        layout = Recorder()
        addon("ui.models_page").draw_page(layout, bpy.context)
        return layout

    return draw


@pytest.fixture
def online(addon, monkeypatch):
    """As if the user had allowed Blender to go online."""
    app = SimpleNamespace(online_access=True, online_access_override=False, background=True, timers=bpy.app.timers)
    fake = SimpleNamespace(**{name: getattr(bpy, name) for name in ("types", "props", "ops", "utils", "path", "context")}, app=app)
    for name in ("ui.models", "ui.models_page"):
        monkeypatch.setattr(addon(name), "bpy", fake)


def test_before_the_engine_is_asked_the_table_that_ships_is_shown(draw_page, models):
    assert [item.name for item in bpy.context.window_manager.dreamfusion.models] == []
    layout = draw_page("sd21-base")
    text = layout.texts().replace("\n", " ")
    assert "Stable Diffusion 2.1 base" in text and "License: CreativeML Open RAIL++-M" in text and "8 GB VRAM" in text and "2.6 GB" in text
    assert ("dreamfusion.model_download", "sd21-base") in layout.operators()
    names = [name for name, *_ in models.model_items()]
    assert names[:5] == ["toybox", "sd21-base", "sd21", "sd15", "sd14"] and {"sdxl", "deepfloyd", "zero123-xl", "mvdream"} < set(names)
    assert models.model_items() is models.model_items(), "Blender's menus need the very same strings"
    assert models.find_row("toybox").installed and models.missing_model("toybox") is None and models.missing_model("sd15").id == "sd15"


@pytest.mark.parametrize(("kind", "names"), [("models", ("toybox", "sd15")), ("helpers", ("taesd", "normal-sd21"))])
def test_the_lists_draw_each_line_and_an_unknown_one(addon, models, kind, names):
    draw_item = getattr(addon("ui.models_page"), f"DREAMFUSION_UL_{kind}").draw_item
    for name in (*names, "gone"):
        layout = Recorder()
        draw_item(None, bpy.context, layout, None, SimpleNamespace(name=name), 0, None, "", 0)
        assert (models.find_any_row(name).title if name != "gone" else name) in layout.texts()


def test_helpers_have_a_list_of_their_own_with_what_they_are_for(addon, draw_page, models):
    layout = draw_page("sd15", "depth-sd15")
    window = bpy.context.window_manager.dreamfusion
    assert [item.name for item in window.helpers] == [
        *("taesd", "taesdxl", "depth-sd15", "normal-sd15", "depth-sd21", "normal-sd21", "shap-e")
    ]
    lists = [args for name, args, *_ in layout.calls if name == "template_list"]
    assert [(args[0], args[3], args[5]) for args in lists] == [
        ("DREAMFUSION_UL_models", "models", "model_index"),
        ("DREAMFUSION_UL_helpers", "helpers", "helper_index"),
    ]
    text = layout.texts().replace("\n", " ")
    assert (
        "For Stable Diffusion 1.5, Stable Diffusion 1.4" in text
        and "Name: depth-sd15" in text
        and "723 MB" not in text
        and "0.7 GB" in text
    )
    assert ("dreamfusion.model_download", "depth-sd15") in layout.operators() and (
        "dreamfusion.model_remove",
        "depth-sd15",
    ) in layout.operators()
    assert ("dreamfusion.choose_model", "depth-sd15") not in layout.operators(), "no job has a helper as its model"
    assert "For any model" in draw_page("sd15", "shap-e").texts()
    assert not {"taesd", "shap-e"} & {name for name, *_ in models.model_items()} and models.missing_model("taesd") is None
    menu = Recorder()
    addon("ui.models_page").DREAMFUSION_MT_models.draw(SimpleNamespace(layout=menu), bpy.context)
    assert ("dreamfusion.choose_model", "taesd") not in menu.operators()


def test_gated_and_withheld_ones_say_what_to_do(draw_page):
    assert "Its owner gives it to those who accepted the license; the download says where." in draw_page("deepfloyd").texts().replace(
        "\n", " "
    )
    layout = draw_page("sd15", "normal-sd21")
    text = layout.texts().replace("\n", " ")
    assert "holds the weights as a pickle, which can run code. Use depth-sd21, or normal-sd15" in text and "cannot be fetched" in text
    assert ("dreamfusion.model_download", "normal-sd21") not in layout.operators()


def test_offline_the_page_says_so_and_offers_the_button(draw_page, models):
    assert not bpy.app.online_access, "the module's default"
    layout = draw_page("sd15")
    assert layout.texts().count("Blender may not go online.") == 1 == draw_page("toybox").texts().count("Blender may not go online.")
    assert ("extensions.userpref_allow_online", None) in layout.operators()
    with pytest.raises(RuntimeError, match="poll"):
        bpy.ops.dreamfusion.model_download(model="sd15")


def test_without_an_engine_every_operator_says_what_is_missing(models):
    for name in ("models_refresh", "model_download", "model_check", "model_remove", "model_add"):
        assert not getattr(bpy.ops.dreamfusion, name).poll(), name
    assert not bpy.ops.dreamfusion.model_cancel.poll()


def test_a_running_download_shows_its_bar_and_cancel_and_a_failure_its_fix(draw_page, models, addon, monkeypatch):
    task_process = addon("core.task_process")
    running = task_process.TaskState(phase="download", done=120e6, of=2130e6, unit="bytes")
    monkeypatch.setitem(addon("ui.tasks")._states, models.WORK_TASK, running)
    models._known.work = "sd15"
    layout = draw_page("sd15")
    assert layout.texts().count("120 of 2,130 MB") == 1
    assert ("dreamfusion.model_cancel", None) in layout.operators() and ("dreamfusion.model_download", "sd15") not in layout.operators()
    assert "120 of 2,130 MB" in draw_page("toybox").texts(), "also while another model is looked at"
    models._known.work = "taesd"
    assert draw_page("sd15", "taesd").texts().count("of 2,130 MB") == draw_page("sd15", "shap-e").texts().count("of 2,130 MB") == 1
    failed = task_process.TaskState(task_process.TaskStatus.FAILED, text="The disk is full.", fix="Make room.")
    monkeypatch.setitem(addon("ui.tasks")._states, models.WORK_TASK, failed)
    assert "The disk is full. Make room." in draw_page("sd15").texts()


def test_the_menu_chooses_and_the_panel_offers_the_download(addon, models):
    layout = Recorder()
    addon("ui.models_page").DREAMFUSION_MT_models.draw(SimpleNamespace(layout=layout), bpy.context)
    assert ("dreamfusion.choose_model", "sd15") in layout.operators() and ("dreamfusion.models_page", None) in layout.operators()
    assert bpy.ops.dreamfusion.choose_model(model="sd15") == {"FINISHED"}
    settings = bpy.context.scene.dreamfusion
    assert settings.model == "sd15"
    layout = Recorder()
    addon("ui.models_page").draw_choice(layout, settings)
    assert ("dreamfusion.model_download", "sd15") in layout.operators() and "Stable Diffusion 1.5" in layout.texts()
    settings.model = "/a/folder"
    layout = Recorder()
    addon("ui.models_page").draw_choice(layout, settings)
    assert "/a/folder" in layout.texts() and ("dreamfusion.model_download", "sd15") not in layout.operators()


@pytest.fixture
def engine(engine_python, addon, models, monkeypatch):
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", engine_python)
    addon("ui.preferences").forget_cache()
    yield models
    monkeypatch.delenv("DREAMFUSION_ENGINE_PYTHON")
    addon("ui.preferences").forget_cache()


@pytest.fixture
def small_hub(monkeypatch, tmp_path):
    """A hub on this machine with sd15's first copy: Toybox under its name, since that is a real model and at hand. And TAESD's: its VAE."""
    spec = importlib.util.spec_from_file_location("fake_hub", ROOT / "tests" / "unit" / "models" / "fake_hub.py")
    fake_hub = importlib.util.module_from_spec(spec)
    sys.modules["fake_hub"] = fake_hub  # dataclasses look their module up
    spec.loader.exec_module(fake_hub)
    with fake_hub.FakeHub() as hub:
        hub.repos["stable-diffusion-v1-5/stable-diffusion-v1-5"] = fake_hub.Repo(ROOT / "engine" / "toybox" / "weights", commit=COMMIT)
        hub.repos["madebyollin/taesd"] = fake_hub.Repo(ROOT / "engine" / "toybox" / "weights" / "vae", commit=TAESD_COMMIT)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield hub


def test_download_check_and_delete(engine, online, small_hub, draw_page, tmp_path):
    assert bpy.ops.dreamfusion.models_refresh() == {"FINISHED"}
    assert engine.find_row("toybox").origin == "shipped" and not engine.find_row("sd15").installed
    assert bpy.ops.dreamfusion.model_download(model="sd15") == {"FINISHED"}
    row = engine.find_row("sd15")
    assert row.installed and row.origin == "downloaded" and row.can_remove and Path(row.folder) == tmp_path / "models" / "sd15"
    engine._known.__init__()
    assert engine.find_row("sd15").installed, "kept for the next session"
    assert ("dreamfusion.model_check", "sd15") in draw_page("sd15").operators()
    assert bpy.ops.dreamfusion.model_check(model="sd15") == {"FINISHED"}
    weights = tmp_path / "models" / "sd15" / "vae" / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1)
    with pytest.raises(RuntimeError, match=r"Model sd15 is damaged: vae/diffusion_pytorch_model.safetensors has .* download sd15"):
        bpy.ops.dreamfusion.model_check(model="sd15")
    assert bpy.ops.dreamfusion.model_remove(model="sd15") == {"FINISHED"}
    assert not engine.find_row("sd15").installed and not (tmp_path / "models" / "sd15").exists()


def test_a_helper_is_downloaded_checked_and_deleted_by_the_same_buttons(engine, online, small_hub, draw_page, tmp_path):
    assert ("dreamfusion.model_download", "taesd") in draw_page("toybox", "taesd").operators()
    assert bpy.ops.dreamfusion.model_download(model="taesd") == {"FINISHED"}
    row = engine.find_any_row("taesd")
    assert (
        row.is_helper and row.installed and row.can_remove and Path(row.folder) == tmp_path / "models" / "taesd" and row.size_bytes > 1000
    )
    engine._known.__init__()
    assert engine.find_any_row("taesd").installed, "kept for the next session"
    layout = draw_page("toybox", "taesd")
    assert ("dreamfusion.model_check", "taesd") in layout.operators() and str(tmp_path / "models" / "taesd") in layout.texts()
    assert bpy.ops.dreamfusion.model_check(model="taesd") == {"FINISHED"}
    (tmp_path / "models" / "taesd" / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="Model taesd is damaged: config.json has .* download taesd"):
        bpy.ops.dreamfusion.model_check(model="taesd")
    assert bpy.ops.dreamfusion.model_remove(model="taesd") == {"FINISHED"}
    assert not engine.find_any_row("taesd").installed and not (tmp_path / "models" / "taesd").exists()


def test_a_withheld_helper_is_refused_by_a_script_too(engine, online, small_hub):
    with pytest.raises(RuntimeError, match="normal-sd21.* cannot be fetched. .* pickle, which can run code. Use depth-sd21"):
        bpy.ops.dreamfusion.model_download(model="normal-sd21")


def test_a_copy_that_is_gone_ends_as_a_sentence(engine, online, small_hub):
    small_hub.repos.clear()
    with pytest.raises(RuntimeError, match=r"Model sd15 cannot be had from its sources: .* is no longer on the hub"):
        bpy.ops.dreamfusion.model_download(model="sd15")
    assert not engine.find_row("sd15").installed


def test_a_local_folder_gets_a_name_and_loses_it_again(engine, tmp_path):
    folder = Path(shutil.copytree(ROOT / "engine" / "toybox" / "weights", tmp_path / "My Style"))
    assert bpy.ops.dreamfusion.model_add(filepath=str(folder), name="my-style") == {"FINISHED"}
    row = engine.find_row("my-style")
    assert row.installed and row.origin == "added" and row.state_text == "local folder" and row.title == "My Style"
    assert bpy.ops.dreamfusion.model_remove(model="my-style") == {"FINISHED"}
    assert engine.find_row("my-style") is None and (folder / "unet").is_dir()


def test_a_job_looks_for_models_in_the_same_folder(engine, addon, monkeypatch, tmp_path):
    environments = []

    def launch(_command, _log_path, environ):
        environments.append(environ)
        raise OSError("seen enough")

    monkeypatch.setattr(addon("core.engine_process"), "EngineProcess", launch)
    with pytest.raises(RuntimeError, match="seen enough"):
        bpy.ops.dreamfusion.generate(prompt="a red mug", out_dir=str(tmp_path / "job"))
    assert environments[0]["DREAMFUSION_MODELS"] == str(tmp_path / "models")


def test_a_cancelled_download_goes_on_from_there(engine, online, small_hub, addon, tmp_path):
    weights = "unet/diffusion_pytorch_model.safetensors"
    repo = next(iter(small_hub.repos.values()))
    repo.stall[weights] = 500_000
    tasks = addon("ui.tasks")
    tasks.start(engine.WORK_TASK, engine._task(bpy.context, "download", "sd15"))
    before = sum(path.stat().st_size for part in ("tokenizer", "text_encoder") for path in (repo.folder / part).glob("*"))
    deadline = time.monotonic() + 60
    while tasks.state(engine.WORK_TASK).done < before + 300_000 and time.monotonic() < deadline:
        tasks.pump()
        time.sleep(0.05)
    bpy.ops.dreamfusion.model_cancel()
    end = tasks.wait(engine.WORK_TASK)
    assert end.status.value == "cancelled" and not (tmp_path / "models" / "sd15").exists()
    bpy.ops.dreamfusion.models_refresh()
    assert engine.find_row("sd15").partial_bytes >= before + 300_000
    repo.stall.clear()
    small_hub.served.clear()
    assert bpy.ops.dreamfusion.model_download(model="sd15") == {"FINISHED"}
    assert [first for name, first in small_hub.served if name == weights][0] >= 300_000
