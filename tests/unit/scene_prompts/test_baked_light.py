import pytest

from engine.guidance.model_table import models
from engine.scene.baked_light import baked_light
from engine.scene.scene_config import LightConfig


@pytest.mark.parametrize(
    ("light", "knows_unlit", "has_reference", "expected"),
    [
        (LightConfig(), True, False, "no"),
        (LightConfig(), False, False, "some"),
        (LightConfig(textureless_ratio=0.2, lambertian_ratio=0.8), False, False, "no"),
        (LightConfig(textureless_ratio=0.2, lambertian_ratio=0.0), False, False, "yes"),
        (LightConfig(lambertian_ratio=(0.0, 0.0, 0.5, 0.6)), False, False, "some"),
        (LightConfig(textureless_ratio=0.0, lambertian_ratio=(0.0, 0.9, 1.0, 1.0)), False, False, "some"),
        (LightConfig(lambertian_ratio=(0.0, 0.0, 200.0, 0.0, 250.0, 0.6)), False, False, "some"),
        (LightConfig(), True, True, "some"),
        (LightConfig(textureless_ratio=0.0, lambertian_ratio=0.0), False, True, "yes"),
    ],
)
def test_light_is_baked_where_bare_colour_is_judged_as_an_ordinary_picture(light, knows_unlit, has_reference, expected):
    assert baked_light(light, 300, knows_unlit=knows_unlit, has_reference=has_reference) == expected


def test_only_a_model_with_words_for_unlit_pictures_keeps_them_apart():
    assert {name for name, model in models().items() if "albedo" in model.shading_words} == {"toybox"}
