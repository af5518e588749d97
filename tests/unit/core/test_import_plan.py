"""The plan of an import survives being written down, and refuses what it was never given."""

import json

import pytest

from blender_dreamfusion.core.import_plan import ImportPlan

FULL = ImportPlan(
    location=(1.0, 2.0, 3.5),
    height_m=0.5,
    scene_name="Scene",
    file_count=3,
    collection="Props",
    replace_object="a-red-mug",
    into_object="chair",
    only_texture=True,
    shading="AUTO",
    sharp_angle_deg=25.0,
    roughness=0.3,
    quads=True,
    quad_faces=900,
    lods=(0.5, 0.1),
    mark_asset=True,
    catalog="Props/Kitchen",
    tags=("red", "mug"),
    author="Ada",
    licence="CC0-1.0",
)


def test_a_plan_comes_back_from_json_text_unchanged():
    assert all(value != default for value, default in zip(FULL.to_json().values(), ImportPlan().to_json().values())), "every field is tried"
    assert ImportPlan.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_missing_fields_take_their_default_and_unknown_ones_are_left_alone():
    assert ImportPlan.from_json({"height_m": 2, "of_a_newer_version": [1]}) == ImportPlan(height_m=2.0)


@pytest.mark.parametrize(
    "data",
    [
        {"height_m": "tall"},
        {"height_m": 0},
        {"height_m": float("nan")},
        {"location": [0, 0]},
        {"location": 5},
        {"lods": [[1]]},
        {"quads": 1},
        {"shading": "SHINY"},
        {"file_count": True},
    ],
)
def test_values_of_another_kind_are_refused(data):
    with pytest.raises(ValueError, match="of an import plan"):
        ImportPlan.from_json(data)
