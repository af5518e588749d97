"""A whole job from nothing but a picture, on the weights that ship."""

import json

from benchmarks.classifier import load_classifier
from benchmarks.pictures import AZIMUTH_DEG, ELEVATION_DEG, SIZE_PX, draw_picture
from benchmarks.score import read_mesh, score, views
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.tracer import render_buffers

SHAPE = 50_000_000
SHORT = ["--training.n-steps", "80", "--training.batch-size", "2", "--mesh.resolution", "48", "--output.turntable-frames", "2"]


def test_a_picture_becomes_the_very_prop_with_no_further_setting(generate, tmp_path):
    draw_picture("bottle", "green", SHAPE, tmp_path / "bottle.png")
    place_of_camera = ["--reference.azimuth-deg", str(AZIMUTH_DEG), "--reference.elevation-deg", str(ELEVATION_DEG)]
    run = generate("--model", "toybox-image", "--image", str(tmp_path / "bottle.png"), small=False, last=[*place_of_camera, *SHORT])
    assert run.code == 0, run.err
    assert not run.of("warning"), "every setting is right by default"
    assert json.loads((run.folder / "job.json").read_text())["config"]["light"]["textureless_ratio"] == 0
    exact = render_buffers(place(KINDS["bottle"].build(Variation(SHAPE))), views(), SIZE_PX, SIZE_PX, supersample=1)
    got = score(read_mesh(run.folder / "result"), "bottle", "green", load_classifier(), [exact])
    assert got.iou > 0.5, got
    assert got.delta_e < 15, got
