"""Whole jobs with models that are prompted by pictures or that look at four views at once, and jobs with several pictures and maps."""

import json

import numpy as np
import PIL.Image
import pytest

from engine.config import make_config
from engine.errors import UserError
from engine.sample import SampleRequest, draw_samples
from engine.scene.reference_view import read_depth, read_normals
from tests.tiny_mvdream import build_tiny_mvdream
from tests.tiny_zero123 import build_tiny_zero123
from tests.unit.training.test_known_maps import tiny_estimator, tiny_marigold

LOOK = ("--output.inspect-every", "3")


@pytest.fixture(scope="module")
def zero123(tmp_path_factory):
    return str(build_tiny_zero123(tmp_path_factory.mktemp("models") / "zero123"))


@pytest.fixture(scope="module")
def mvdream(tmp_path_factory):
    return str(build_tiny_mvdream(tmp_path_factory.mktemp("models") / "mvdream"))


@pytest.fixture
def pictures(tmp_path):
    """front.png and side.png, and for each a depth and a normal map."""
    slope = np.broadcast_to(np.linspace(60, 200, 80), (60, 80))
    for name, color in (("front", (200, 20, 20)), ("side", (20, 20, 200))):
        image = PIL.Image.new("RGB", (80, 60), (250, 250, 250))
        image.paste(color, (20, 10, 60, 50))
        image.save(tmp_path / f"{name}.png")
        PIL.Image.fromarray((slope * 256).astype(np.uint16)).save(tmp_path / f"{name}-depth.png")
        PIL.Image.new("RGB", (80, 60), (128, 128, 255)).save(tmp_path / f"{name}-normal.png")
    return tmp_path


def vertices(run):
    return np.load(run.folder / "result/mesh.npz")["vertices"]


def test_zero123_makes_an_object_from_a_picture_without_words(generate, zero123, pictures):
    run = generate(
        "--image", str(pictures / "front.png"), last=["--model", zero123, "--preset", "zero123", "--training.n-steps", "4", *LOOK]
    )
    assert run.code == 0, run.err
    assert (run.folder / "previews/guidance-0000003.png").is_file()
    result = json.loads((run.folder / "result/result.json").read_text())
    assert result["guidance"] == "sds" and result["guidance_scale"] == 5 and result["slug"] == "front"
    assert (run.folder / "result/front.glb").is_file()


def test_several_pictures_each_make_a_difference_and_a_job_resumes_from_its_copies(generate, zero123, pictures, tmp_path, monkeypatch):
    front, side = str(pictures / "front.png"), f"{pictures / 'side.png'},azimuth=90,elevation=10,weight=0.5"
    one = generate("--image", front, folder=tmp_path / "one", last=["--model", zero123])
    with monkeypatch.context() as patch:
        patch.setattr("engine.jobs._mesh", lambda run, trainer: int("no mesh today"))
        assert generate("--image", front, "--image", side, last=["--model", zero123]).code == 1
    for name in ("front", "side"):
        (pictures / f"{name}.png").unlink()
    two = generate("--resume", small=False)
    assert (one.code, two.code) == (0, 0), one.err + two.err
    assert vertices(one).shape != vertices(two).shape or not np.array_equal(vertices(one), vertices(two))
    (view,) = json.loads((two.folder / "job.json").read_text())["request"]["further_views"]
    assert (view["azimuth_deg"], view["elevation_deg"], view["weight"]) == (90, 10, 0.5)
    assert (two.folder / "reference.png").is_file() and (two.folder / "reference-2.png").is_file()


def test_depth_and_normals_pull_and_are_kept(generate, pictures, tmp_path):
    plain = str(pictures / "front.png")
    pulls = ["--reference.lambda-depth", "1000", "--reference.lambda-normal", "1000"]
    mapped = f"{plain},depth={pictures / 'front-depth.png'},normal={pictures / 'front-normal.png'}"
    runs = [generate("a red mug", "--image", text, folder=tmp_path / name, last=pulls) for name, text in (("a", plain), ("b", mapped))]
    assert [run.code for run in runs] == [0, 0], runs[1].err
    a, b = (vertices(run) for run in runs)
    assert a.shape != b.shape or not np.array_equal(a, b)
    depth, normals = read_depth(tmp_path / "b/reference-depth.png"), read_normals(tmp_path / "b/reference-normal.png")
    assert depth[128, 80] < depth[128, 170] and np.abs(normals[128, 128] - [0.5, 0.5, 1]).max() < 0.01
    again = generate("--start-from", str(tmp_path / "b"), folder=tmp_path / "more", small=False)
    assert again.code == 0, again.err
    assert (tmp_path / "more/reference-depth.png").is_file()


def test_depth_is_estimated_where_no_map_is_given(generate, pictures, tmp_path):
    pulls = ["--reference.lambda-depth", "1000", "--reference.depth-model", str(tiny_estimator(tmp_path / "dpt"))]
    front = str(pictures / "front.png")
    plain = generate("a red mug", "--image", front, folder=tmp_path / "a")
    seen = generate("a red mug", "--image", front, folder=tmp_path / "b", last=pulls)
    assert (plain.code, seen.code) == (0, 0), seen.err
    assert vertices(plain).shape != vertices(seen).shape or not np.array_equal(vertices(plain), vertices(seen))
    lost = generate("a red mug", "--image", front, folder=tmp_path / "c", last=["--reference.depth-model", str(tmp_path / "none")])
    assert lost.code == 2 and "The depth model in" in lost.err and "Give --reference.depth-model a folder of Depth Anything" in lost.err


def test_normals_are_estimated_where_no_map_is_given(generate, pictures, tmp_path):
    pulls = ["--reference.lambda-normal", "1000"]
    front = str(pictures / "front.png")
    plain = generate("a red mug", "--image", front, folder=tmp_path / "a", last=pulls)
    model = ["--reference.normal-model", str(tiny_marigold(tmp_path / "normals"))]
    seen = generate("a red mug", "--image", front, folder=tmp_path / "b", last=[*pulls, *model])
    assert (plain.code, seen.code) == (0, 0), seen.err
    assert vertices(plain).shape != vertices(seen).shape or not np.array_equal(vertices(plain), vertices(seen))
    lost = generate("a red mug", "--image", front, folder=tmp_path / "c", last=[*pulls, "--reference.normal-model", str(tmp_path / "none")])
    assert lost.code == 2 and "The normal model in" in lost.err and "Give --reference.normal-model a folder of Marigold" in lost.err


def test_mvdream_makes_an_object_in_groups_of_four(generate, mvdream):
    settings = ["--preset", "mvdream", "--training.n-steps", "3", "--training.batch-size", "4"]
    run = generate("a red mug", last=["--model", mvdream, *settings, *LOOK])
    assert run.code == 0, run.err
    assert (run.folder / "previews/guidance-0000003.png").is_file()
    assert json.loads((run.folder / "result/result.json").read_text())["guidance_scale"] == 50


def test_presets_ask_for_what_their_models_need():
    mvdream = make_config("mvdream", {})
    assert mvdream.camera.views_per_group == 4 and mvdream.guidance.view_prompts == "off"
    assert make_config("draft", {}).camera.views_per_group == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["a red mug", "--model", "ZERO123"], "makes an object from a picture, and none was given. Give one with --image"),
        (["a red mug", "--model", "MVDREAM"], "looks at 4 views of one object at once, but camera.placement is stratified. Use --preset"),
        (
            ["a mug", "--model", "MVDREAM", "--camera.placement", "four-view", "--training.batch-size", "6"],
            "training.batch-size is 6, but camera.placement four-view draws views in groups of 4. Use --training.batch-size 4.",
        ),
        (["--image", "FRONT", "--model", "SD"], "A picture alone is not enough"),
        (["a mug", "--image", "FRONT", "--image", "SIDE"], "nothing says from where it was taken. Use --image side.png,azimuth=90"),
        (["a mug", "--image", "FRONT", "--image", "SIDE,azimuth=left"], "azimuth of the picture SIDE is 'left', but must be a number"),
        (["a mug", "--image", "FRONT", "--image", "SIDE,azimuth=270"], "azimuth of SIDE is 270, but must lie in -180..180"),
        (["a mug", "--image", "FRONT", "--image", "SIDE,azimuth=90,weight=-1"], "weight of SIDE is -1, but must lie in 0..1000"),
        (["a mug", "--image", "FRONT,azimuth=300"], "reference.azimuth-deg is 300, but must lie in -180..180"),
        (["a mug", "--image", "FRONT,depth=FLAT"], "is of one brightness where the object is"),
        (["a mug", "--image", "FRONT,normal=SQUARE"], "is 50 x 50 pixels, which is not the shape of its picture. Make it from the same"),
        (["a mug", "--image", "FRONT,depth=NONE"], "There is no picture NONE"),
        (["a mug", "--image", "FRONT,normal=MAP"], "has colors of the kind I;16, not RGB"),
    ],
)
def test_what_does_not_fit_is_a_sentence(generate, model, zero123, mvdream, pictures, words, error):
    PIL.Image.new("L", (80, 60), 90).save(pictures / "flat.png")
    PIL.Image.new("RGB", (50, 50), (128, 128, 255)).save(pictures / "square.png")
    names = {
        "ZERO123": zero123, "MVDREAM": mvdream, "SD": model, "MAP": str(pictures / "front-depth.png"),
        "FRONT": str(pictures / "front.png"), "SIDE": str(pictures / "side.png"), "FLAT": str(pictures / "flat.png"),
        "SQUARE": str(pictures / "square.png"), "NONE": str(pictures / "none.png"),
    }  # fmt: skip
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
        error = error.replace(name, path)
    run = generate(*words, small=False)
    assert run.code == 2 and error in run.err and run.err.count("\n") == 1, run.err
    assert not run.folder.exists()


def test_what_draws_views_of_an_object_draws_no_single_pictures(mvdream, zero123, tmp_path):
    for model in (mvdream, zero123):
        with pytest.raises(UserError, match="draws views of an object .* Choose a text-to-image model"):
            draw_samples(SampleRequest(prompt="a red mug", model=model), tmp_path, print)
