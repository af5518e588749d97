"""Engine options and presets in Blender; and that what a caller of Generate leaves out comes from the scene."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from tests.blender_results import write_png


@pytest.fixture
def settings():
    return bpy.context.scene.dreamfusion


@pytest.fixture
def stored(settings):
    return lambda: {item.name: item.value for item in settings.options}


@pytest.fixture
def requests(addon, monkeypatch, tmp_path):
    """Generate as far as the queue: what would have been run."""
    monkeypatch.setenv("DREAMFUSION_ENGINE_PYTHON", "/usr/bin/python3")
    runtime = addon("ui.runtime")
    entries = []
    monkeypatch.setattr(runtime, "enqueue", entries.append)
    preferences = addon("ui.preferences")
    monkeypatch.setattr(preferences, "jobs_folder", lambda _context: tmp_path / "jobs")

    def generate(**arguments):
        entries.clear()
        bpy.ops.dreamfusion.generate(**arguments)
        return list(entries)

    return generate


# Engine options


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("training__n_steps", 77, "77"),
        ("field__density_scale", 2.5, "2.5"),
        ("guidance__rms", 0.001, "0.001"),
        ("mesh__inset", False, "false"),
        ("field__encoding", "hash", "hash"),
        ("camera__elevation_deg", (-5.0, 40.0), "-5,40"),
        ("render__size_px", "0, 32, 1, 64", "0,32,1,64"),
        ("output__formats", "glb,obj", "glb,obj"),
        ("output__formats", "", ""),
    ],
)
def test_a_widget_stores_its_text_and_shows_it_again(settings, stored, attribute, value, text):
    setattr(settings.engine, attribute, value)
    assert stored() == {attribute.replace("__", "."): text}
    shown = getattr(settings.engine, attribute)
    if isinstance(value, tuple):
        assert tuple(shown) == value
    elif isinstance(value, float):
        assert shown == pytest.approx(value)
    else:
        assert shown == (text if attribute == "render__size_px" else value)


def test_every_option_shows_the_presets_value_while_nothing_is_stored(settings, addon):
    engine_options = addon("core.engine_options")
    for preset in ("DRAFT", "STANDARD", "HIGH"):
        settings.preset = preset
        for option in engine_options.engine_options().values():
            shown = getattr(settings.engine, option.attribute)
            text = option.values[preset.lower()]
            if option.kind == "pair":
                assert tuple(shown) == pytest.approx(engine_options.numbers(text))
            elif option.kind in ("int", "float"):
                assert shown == pytest.approx(float(text)), option.key
            else:
                assert str(shown).lower() == text, option.key
    assert len(settings.options) == 0


def test_setting_the_presets_own_value_stores_nothing_and_a_reset_brings_it_back(settings, stored):
    settings.engine.training__n_steps = 300
    assert stored() == {}
    settings.engine.training__n_steps = 9
    settings.engine.mesh__smoothing = 1
    bpy.ops.dreamfusion.reset_options(key="training.n_steps")
    assert stored() == {"mesh.smoothing": "1"} and settings.engine.training__n_steps == 300
    settings.engine.render__size_px = "64"
    settings.engine.render__size_px = "  "
    assert stored() == {"mesh.smoothing": "1"}, "an emptied field takes the preset's value"
    bpy.ops.dreamfusion.reset_options()
    assert stored() == {}


def test_a_changed_option_stays_when_the_preset_changes(settings):
    settings.engine.training__n_steps = 9
    settings.preset = "HIGH"
    assert settings.engine.training__n_steps == 9 and settings.engine.render__n_samples == 96


def test_widgets_have_the_engines_words_as_tooltip_and_its_ranges(settings, addon):
    properties = settings.engine.bl_rna.properties
    for option in addon("core.engine_options").engine_options().values():
        assert properties[option.attribute].description == option.help.rstrip(".")
    assert (properties["mesh__resolution"].hard_min, properties["mesh__resolution"].hard_max) == (8, 512)


def test_options_are_saved_with_the_scene(settings, tmp_path):
    settings.engine.training__n_steps = 9
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a.blend"))
    bpy.ops.wm.read_homefile(app_template="", use_empty=True)
    assert bpy.context.scene.dreamfusion.engine.training__n_steps == 300
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "a.blend"))
    assert bpy.context.scene.dreamfusion.engine.training__n_steps == 9


def test_search_shows_the_hits_only_and_reset_appears_where_something_changed(settings):
    from tests.blender.test_panel_draw import draw

    def shown() -> set[str]:
        return {args[1] for name, args, _ in draw("DREAMFUSION_PT_advanced").calls if name == "prop"}

    assert {"training__n_steps", "mesh__resolution"} < shown()
    assert "dreamfusion.reset_options" not in draw("DREAMFUSION_PT_advanced").operators()
    bpy.context.window_manager.dreamfusion.option_search = "taubin"
    try:
        assert shown() == {"option_search", "mesh__smoothing"}
    finally:
        bpy.context.window_manager.dreamfusion.option_search = ""
    settings.engine.mesh__smoothing = 1
    settings.engine.training__n_steps = 1500
    assert "Reset All (2 changed)" in draw("DREAMFUSION_PT_advanced").texts()
    settings.preset = "STANDARD"  # which has 1500 steps by itself
    assert "Reset All (1 changed)" in draw("DREAMFUSION_PT_advanced").texts()


# Presets


def preset_files() -> dict[str, str]:
    return {path.stem: str(path) for folder in bpy.utils.preset_paths("dreamfusion") for path in Path(folder).glob("*.py")}


def load(name: str) -> None:
    bpy.ops.script.execute_preset(filepath=preset_files()[name], menu_idname="DREAMFUSION_PT_presets")


def test_shipped_presets_are_found_inside_the_extension_and_set_the_quality(settings, stored):
    assert set(preset_files()) == {"Draft", "Standard", "High"}
    assert all("user_default" in path for path in preset_files().values()), "not copied"
    settings.prompt, settings.engine.training__n_steps = "a red mug", 9
    for name in ("High", "Standard", "Draft"):
        load(name)
        assert settings.preset == name.upper() and stored() == {}
    assert settings.prompt == "a red mug", "a preset says how, not what"


def test_settings_kept_as_a_preset_come_back(settings, stored):
    settings.preset, settings.negative, settings.guidance_scale = "HIGH", "blurry", 12.5
    settings.engine.training__n_steps = 9
    settings.engine.render__size_px = "0,32,1,64"
    settings.importing.quads = True
    bpy.ops.dreamfusion.add_preset(name="My Way")
    try:
        assert Path(preset_files()["My_Way"]).is_relative_to(bpy.utils.user_resource("SCRIPTS"))
        bpy.ops.wm.read_homefile(app_template="", use_empty=True)
        fresh = bpy.context.scene.dreamfusion
        fresh.engine.mesh__smoothing = 1
        load("My_Way")
        assert (fresh.preset, fresh.negative, fresh.guidance_scale, fresh.importing.quads) == ("HIGH", "blurry", 12.5, True)
        assert {item.name: item.value for item in fresh.options} == {"training.n_steps": "9", "render.size_px": "0,32,1,64"}
    finally:
        bpy.ops.dreamfusion.add_preset(name="My Way", remove_name=True)
    assert "My_Way" not in preset_files()


def test_a_shipped_preset_cannot_be_overwritten_by_one_of_the_same_name():
    bpy.ops.dreamfusion.add_preset(name="Draft")
    assert "user_default" in preset_files()["Draft"]


def test_a_preset_holds_every_setting_but_those_that_say_what_to_make(settings, addon):
    presets = addon("ui.presets")
    all_settings = {prop.identifier for prop in settings.bl_rna.properties} - {"rna_type", "name"}
    assert {
        value.removeprefix("bpy.context.scene.dreamfusion.") for value in presets.preset_values()
    } == all_settings - presets.NOT_IN_PRESETS
    assert presets.NOT_IN_PRESETS <= all_settings, "nothing stale is left out"


def test_presets_leave_blenders_list_with_the_extension(addon):
    addon("ui.presets").unregister_extra()
    try:
        assert preset_files() == {}
    finally:
        addon("ui.presets").register_extra()


# Generate: what is left out comes from the scene


def test_the_scenes_settings_are_used_where_an_argument_is_left_out(settings, requests):
    settings.prompt, settings.negative, settings.model = "a blue\nchair", "blurry", "/models/mine"
    settings.preset, settings.seed, settings.guidance_scale = "STANDARD", 5, 7.5
    settings.engine.mesh__smoothing = 1
    (entry,) = requests()
    request = entry.request
    assert (request.prompt, request.negative, request.model) == ("a blue chair", "blurry", "/models/mine")
    assert (request.preset, request.seed) == ("standard", 5)
    assert request.overrides == {"mesh.smoothing": "1", "guidance.guidance_scale": "7.5"}


def test_arguments_win_over_the_scene(settings, requests):
    settings.prompt, settings.negative, settings.model, settings.seed = "a blue chair", "blurry", "sd15", 5
    settings.guidance_scale, settings.n_variations, settings.new_seed_each_time = 7.5, 3, True
    settings.engine.mesh__smoothing = 1
    settings.engine.training__n_steps = 10
    (entry,) = requests(
        prompt="a red mug", negative="", model="toybox", preset="HIGH", seed=1, guidance_scale=0.0, n_variations=1,
        settings="training.n_steps=20", height_m=0.3,
    )  # fmt: skip
    request = entry.request
    assert (request.prompt, request.negative, request.model, request.preset, request.seed) == ("a red mug", "", "toybox", "high", 1)
    assert request.overrides == {"mesh.smoothing": "1", "guidance.guidance_scale": "0", "training.n_steps": "20"}
    assert entry.plan.height_m == pytest.approx(0.3) and settings.seed == 5


def test_a_start_that_shap_e_draws_is_asked_for_and_comes_back_into_the_panel(settings, requests, addon):
    settings.prompt = "a red mug"
    assert requests()[0].request.start_mesh == ""
    settings.drawn_start = True
    (entry,) = requests()
    assert entry.request.start_mesh == "shap-e"
    assert requests(start_mesh="")[0].request.start_mesh == "" and requests(start_mesh="/a.glb")[0].request.start_mesh == "/a.glb"
    assert requests(start_from="/jobs/a")[0].request.start_mesh == "", "a job goes on from one thing"
    settings.drawn_start = False
    addon("ui.loading").load_request(settings, entry.request)
    assert settings.drawn_start
    addon("ui.loading").load_request(settings, replace(entry.request, start_mesh="/a.glb"))
    assert not settings.drawn_start


def test_a_schedule_of_the_guidance_scale_wins_over_the_number_of_the_panel(settings, requests):
    settings.prompt, settings.guidance_scale = "a red mug", 7.5
    settings.engine.guidance__guidance_scale = "0,4,1,8"
    (entry,) = requests()
    assert entry.request.overrides == {"guidance.guidance_scale": "0,4,1,8"}


def test_a_jobs_own_schedule_comes_back_into_the_panel(settings, addon):
    request = addon("core.protocol").messages.JobRequest(prompt="a mug", overrides={"guidance.guidance-scale": "0,4,1,8"})
    addon("ui.loading").load_request(settings, request)
    assert settings.engine.guidance__guidance_scale == "0,4,1,8" and settings.guidance_scale == 0
    addon("ui.loading").load_request(settings, replace(request, overrides={"guidance.guidance_scale": "7"}))
    assert len(settings.options) == 0 and settings.guidance_scale == 7


def test_variations_are_jobs_with_the_next_seeds_in_folders_of_their_own(settings, requests, addon):
    settings.prompt, settings.seed, settings.n_variations = "a red mug", addon("ui.properties").MAX_SEED, 3
    entries = requests()
    assert [entry.request.seed for entry in entries] == [addon("ui.properties").MAX_SEED, 0, 1]
    assert len({entry.folder for entry in entries}) == 3
    with pytest.raises(RuntimeError, match="One job folder holds one job"):
        requests(out_dir="/tmp/one")


def test_a_new_seed_each_time_is_shown_and_used(settings, requests):
    settings.prompt, settings.new_seed_each_time = "a red mug", True
    seeds = set()
    for _ in range(3):
        (entry,) = requests()
        assert entry.request.seed == settings.seed
        seeds.add(entry.request.seed)
    assert len(seeds) == 3


@pytest.mark.parametrize("wrong", [{"prompt": " "}, {"prompt": "a mug", "settings": "steps"}])
def test_a_refusal_changes_nothing(settings, requests, wrong):
    settings.new_seed_each_time = True
    settings.seed = 4
    with pytest.raises(RuntimeError):
        requests(**wrong)
    assert settings.seed == 4


# Reference image


@pytest.fixture
def picture(tmp_path) -> Path:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (255, 0, 0)
    write_png(tmp_path / "chair.png", pixels)
    return tmp_path / "chair.png"


def test_a_dropped_file_becomes_the_reference_of_the_next_job(settings, requests, picture):
    assert bpy.ops.dreamfusion.set_reference(filepath=str(picture)) == {"FINISHED"}
    assert settings.reference_image.filepath == str(picture)
    (entry,) = requests(prompt="a chair")
    assert entry.request.reference_image == str(picture), "the file itself, not a copy"
    settings.reference_image = None
    assert requests(prompt="a chair")[0].request.reference_image == ""


def test_a_path_is_enough_and_an_argument_wins(settings, requests, picture, tmp_path):
    settings.reference_path = str(picture)
    assert requests(prompt="a chair")[0].request.reference_image == str(picture)
    other = tmp_path / "other.png"
    other.write_bytes(picture.read_bytes())
    assert requests(prompt="a chair", reference_image=str(other))[0].request.reference_image == str(other)
    assert requests(prompt="a chair", reference_image="")[0].request.reference_image == ""


@pytest.mark.parametrize("kind", ["generated", "packed", "changed", "other format"])
def test_an_image_without_a_file_the_engine_reads_is_written_as_png(settings, requests, picture, tmp_path, kind):
    if kind == "generated":
        image = bpy.data.images.new("Painted Thing", 8, 8)
        image.pixels = [1.0, 0.0, 0.0, 1.0] * 64
    else:
        image = bpy.data.images.load(str(picture))
        if kind == "packed":
            image.pack()
            picture.unlink()
        elif kind == "changed":
            image.pixels = [1.0, 0.0, 0.0, 1.0] * 64
        else:
            image.file_format = "BMP"
            image.save(filepath=str(tmp_path / "chair.bmp"))
            image = bpy.data.images.load(str(tmp_path / "chair.bmp"))
    settings.reference_image = image
    n_images = len(bpy.data.images)
    written = Path(requests(prompt="a chair")[0].request.reference_image)
    assert written.suffix == ".png" and written.read_bytes().startswith(b"\x89PNG") and written != picture
    assert len(bpy.data.images) == n_images and settings.reference_image == image
    back = bpy.data.images.load(str(written))
    assert tuple(back.size) == (8, 8) and tuple(back.pixels[-4:]) == pytest.approx((1, 0, 0, 1), abs=0.01)
    assert requests(prompt="a chair")[0].request.reference_image == str(written), "the same content, the same file"


def test_what_cannot_be_a_reference_is_refused_with_the_way_out(settings, requests, tmp_path):
    with pytest.raises(RuntimeError, match="Use a PNG, JPEG or WebP file"):
        bpy.ops.dreamfusion.set_reference(filepath=str(tmp_path / "model.obj"))
    settings.reference_path = str(tmp_path / "gone.png")
    with pytest.raises(RuntimeError, match="is not there. Choose another one"):
        requests(prompt="a chair")
    settings.reference_image = bpy.data.images.new("Result", 8, 8)
    settings.reference_image.source = "MOVIE"
    with pytest.raises(RuntimeError, match="cannot be used: it is no still picture"):
        requests(prompt="a chair")


def test_pictures_may_be_dropped_on_the_3d_view_and_nowhere_else():
    handler = bpy.types.DREAMFUSION_FH_reference
    assert handler.bl_import_operator == "dreamfusion.set_reference" and ".webp" in handler.bl_file_extensions
    answers = {kind: handler.poll_drop(SimpleNamespace(area=SimpleNamespace(type=kind))) for kind in ("VIEW_3D", "IMAGE_EDITOR")}
    assert answers == {"VIEW_3D": True, "IMAGE_EDITOR": False}
    assert handler.poll_drop(SimpleNamespace(area=None)) is False
