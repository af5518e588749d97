"""Reference pictures from other sides: the list, what reaches the job, and what a job's settings bring back."""

from types import SimpleNamespace

import bpy
import pytest

from tests.blender.test_panel_draw import Recorder, draw


@pytest.fixture
def settings():
    return bpy.context.scene.dreamfusion


def test_pictures_from_other_sides_reach_the_job_with_their_numbers(settings, asked, picture):
    front, left, back = picture(), picture(), picture()
    settings.reference_image = bpy.data.images.load(front)
    bpy.ops.dreamfusion.reference_add(filepath=left, azimuth_deg=75, elevation_deg=20, weight=0.5)
    bpy.ops.dreamfusion.reference_add(filepath=back)
    entry = asked("generate", prompt="a chair")
    assert entry.request.reference_image == front
    views = [(view.image, view.azimuth_deg, view.elevation_deg, view.weight) for view in entry.request.further_views]
    assert views == [(left, 75, 20, 0.5), (back, 90, 0, 1)], "a side nobody has shown yet is proposed"
    assert asked("generate", prompt="a chair", reference_image=left).request.further_views == (), "they are of the scene's picture"
    assert settings.further_index == 1
    bpy.ops.dreamfusion.reference_remove()
    assert [view.image.filepath for view in settings.further_views] == [left] and settings.further_index == 0


def test_a_list_that_cannot_be_used_is_refused_with_a_sentence(settings, asked, picture):
    with pytest.raises(RuntimeError, match="Choose the picture from the front first"):
        bpy.ops.dreamfusion.reference_add(filepath=picture())
    settings.reference_path = picture()
    with pytest.raises(RuntimeError, match="no picture that can be a reference"):
        bpy.ops.dreamfusion.reference_add(filepath="/pictures/chair.tif")
    settings.further_views.add()
    with pytest.raises(RuntimeError, match="Reference picture 2 is empty. Choose an image for it, or remove it"):
        asked("generate", prompt="a chair")
    settings.further_views[0].path = picture()
    settings.reference_path = ""
    with pytest.raises(RuntimeError, match="none from the front"):
        asked("generate", prompt="a chair")


def test_settings_of_a_job_bring_its_pictures_back(addon, settings, picture):
    messages = addon("core.protocol").messages
    views = (messages.FurtherView(image=picture(), azimuth_deg=-90.0, elevation_deg=10.0, weight=2.0),)
    request = messages.JobRequest(prompt="a mug", reference_image=picture(), further_views=views, overrides={"surface.colors": "source"})
    settings.further_views.add()
    assert addon("ui.loading").load_request(settings, request) == []
    assert addon("ui.reference_files").further_views(settings) == views
    assert "surface.colors" not in settings.options, "that was said of the mesh of that job"


def test_the_panel_shows_the_list_and_the_chosen_pictures_numbers_once_there_is_a_first_one(settings, picture):
    assert "dreamfusion.reference_add" not in draw("DREAMFUSION_PT_reference").operators()
    settings.reference_path = picture()
    assert {"dreamfusion.reference_add", "dreamfusion.reference_remove"} <= set(draw("DREAMFUSION_PT_reference").operators())
    bpy.ops.dreamfusion.reference_add(filepath=picture(), azimuth_deg=-90)
    shown = [args[1] for name, args, _ in draw("DREAMFUSION_PT_reference").calls if name == "prop"]
    assert shown[-4:] == ["image", "azimuth_deg", "elevation_deg", "weight"]
    layout = Recorder()
    for view in (settings.further_views[0], settings.further_views.add()):
        bpy.types.DREAMFUSION_UL_views.draw_item(SimpleNamespace(), bpy.context, layout, settings, view, 0, settings, "further_index", 0, 0)
    assert layout.texts().splitlines()[1] == "-90°" and "No image" in layout.texts()
