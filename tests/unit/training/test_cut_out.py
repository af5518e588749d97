"""An object cut out of a busy picture by a model: a real run of onnxruntime on a small network that knows red."""

import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from engine.config import check_request
from engine.errors import UserError
from engine.protocol import JobRequest
from engine.scene import cut_out as room
from engine.scene.cut_out import cut_out, pure_colors
from engine.scene.reference_view import prepare_picture
from tests.tiny_onnx import color_finder

SIZE = (300, 240)
BALL = (90, 50, 210, 170)
RED = (225, 40, 35)


@pytest.fixture(autouse=True)
def nothing_kept():
    room._kept_answer.cache_clear()


@pytest.fixture
def runtime():
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: requirements/extras.txt")


@pytest.fixture
def finder(tmp_path):
    """Sure of what is redder than it is green and blue, as a U2-Net takes its picture."""
    return color_finder(tmp_path / "red.onnx", (3.0, -2.0, -2.0), -6.0)


def busy(tmp_path, name="photo.png", specks=True):
    """A red ball before stripes, boxes and noise, with a small red thing in a corner."""
    random = np.random.default_rng(0)
    image = PIL.Image.fromarray(random.integers(0, 90, (SIZE[1], SIZE[0], 3), dtype=np.uint8) + np.uint8([30, 90, 60]))
    draw = PIL.ImageDraw.Draw(image)
    for k in range(12):
        draw.rectangle((k * 25, 0, k * 25 + 9, SIZE[1]), fill=(40, 60 + 10 * k, 160))
    large = PIL.Image.new("L", (SIZE[0] * 4, SIZE[1] * 4))  # a soft edge
    PIL.ImageDraw.Draw(large).ellipse([4 * side for side in BALL], fill=255)
    image.paste(RED, (0, 0), large.resize(SIZE, PIL.Image.Resampling.BOX))
    if specks:
        draw.rectangle((280, 4, 288, 12), fill=RED)
    image.save(tmp_path / name)
    return tmp_path / name


def test_without_a_model_a_busy_picture_is_refused_and_the_model_is_named(tmp_path):
    with pytest.raises(UserError, match="is not plain, so .* transparent background, or a model .* --reference.cut-out-model FILE.onnx"):
        prepare_picture(busy(tmp_path))


def test_a_model_cuts_the_object_out_of_a_busy_picture(tmp_path, finder, runtime):
    pixels = prepare_picture(busy(tmp_path), finder)
    side = pixels.shape[0]
    alpha = pixels[..., 3]
    # A ball fills the frame but for the room round it, whatever else is red in the picture.
    y, x = np.mgrid[0:side, 0:side] + 0.5 - side / 2
    ball = np.hypot(x, y) < side / 2 / 1.25
    assert ((alpha > 0.5) & ball).sum() / ((alpha > 0.5) | ball).sum() > 0.95
    # Nothing of the green and blue behind the edge is in its color.
    seen = pixels[alpha > 0.2][:, :3]
    assert np.abs(seen - np.array(RED) / 255).max() < 0.12
    assert (alpha[:, :8] == 0).all() and (pixels[..., :3][alpha == 0] == 0).all()


def test_alpha_wins_over_the_model_and_nothing_is_run(tmp_path, monkeypatch):
    image = PIL.Image.open(busy(tmp_path)).convert("RGBA")
    alpha = PIL.Image.new("L", image.size)
    PIL.ImageDraw.Draw(alpha).rectangle((20, 20, 80, 80), fill=255)
    image.putalpha(alpha)
    image.save(tmp_path / "alpha.png")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with_model = prepare_picture(tmp_path / "alpha.png", tmp_path / "none.onnx")
    assert np.array_equal(with_model, prepare_picture(tmp_path / "alpha.png"))


def test_logits_and_open_sizes_mean_the_same(tmp_path, finder, runtime):
    picture = PIL.Image.open(busy(tmp_path))
    expected = np.asarray(PIL.Image.fromarray(cut_out(picture, finder)).resize((320, 320)))
    for name, how in (("logits", {"logits": True}), ("open", {"side": "side"})):
        other = color_finder(tmp_path / f"{name}.onnx", (3.0, -2.0, -2.0), -6.0, **how)
        mask = cut_out(picture, other)
        assert mask.shape == ((320, 320) if name == "logits" else (1024, 1024)) and mask.max() == 1
        assert np.abs(np.asarray(PIL.Image.fromarray(mask).resize((320, 320))) - expected).mean() < 0.01


def test_each_family_gets_its_picture_in_its_own_numbers(tmp_path, runtime):
    """A network that answers with its input's red, as a logit."""
    gray = PIL.Image.new("RGB", (32, 32), (64, 64, 64))
    gray.putpixel((0, 0), (255, 255, 255))
    wanted = {"isnet-general-use": (64 / 255 - 0.5) / 1.0, "isnet-anime": 64 / 255 - 0.485, "u2net": (64 / 255 - 0.485) / 0.229}
    for name, value in wanted.items():
        model = color_finder(tmp_path / f"{name}.onnx", (1.0, 0.0, 0.0), 0.0, side=32, logits=True)
        answer = room._answer(gray, model)
        expected = 1 / (1 + np.exp(-value))
        assert answer[16, 16] == pytest.approx(expected, abs=1e-4), name


def test_the_answer_is_computed_once_and_again_for_another_picture_or_model(tmp_path, finder, runtime, monkeypatch):
    asked = []
    original = room._answer
    monkeypatch.setattr(room, "_answer", lambda image, model: asked.append(model.name) or original(image, model))
    for specks in (True, True, False):
        cut_out(PIL.Image.open(busy(tmp_path, specks=specks)), finder)
    assert len(asked) == 2
    color_finder(finder, (3.0, -2.0, -2.0), -6.5, logits=True)
    cut_out(PIL.Image.open(busy(tmp_path)), finder)
    assert len(asked) == 3
    for k in range(room.KEPT + 2):
        cut_out(PIL.Image.new("RGB", (32, 32), (200 + k, 0, 0)), finder)
    assert room._kept_answer.cache_info().currsize == room.KEPT


def bad_model(kind, tmp_path):
    path = tmp_path / "model.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no network")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut short":
        path.write_bytes(color_finder(path, (3.0, -2.0, -2.0), -6.0).read_bytes()[:150])
    elif kind == "two inputs":
        color_finder(path, (3.0, -2.0, -2.0), -6.0, n_inputs=2)
    elif kind == "several masks":
        color_finder(path, (3.0, -2.0, -2.0), -6.0, n_masks=4)
    elif kind == "not finite":
        color_finder(path, (float("nan"), 0.0, 0.0), 0.0)
    return path


BAD = {
    "missing": "that is to cut out the object is not there. Name an .onnx file",
    "folder": "that is to cut out the object is a folder. Name an .onnx file",
    "text": "cannot cut out the object: Protobuf parsing failed. Use isnet-general-use.onnx",
    "empty": "cannot cut out the object: .*. Use isnet-general-use.onnx",
    "cut short": "cannot cut out the object: .*. Use isnet-general-use.onnx",
    "two inputs": r"cannot cut out the object: it takes picture \[1, 3, 320, 320\], input 2 .*, not one RGB picture.",
    "several masks": r"cannot cut out the object: it answers with \[1, 4, 320, 320\], not with one mask.",
    "not finite": "cannot cut out the object: its answer is not finite.",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_model_is_one_sentence_with_the_fix(kind, tmp_path, runtime):
    photo, model = busy(tmp_path), bad_model(kind, tmp_path)
    with pytest.raises(UserError, match=BAD[kind]) as caught:
        prepare_picture(photo, model)
    assert caught.value.code == "model" and str(model) in caught.value.text and "\n" not in caught.value.text


def test_a_picture_in_which_nothing_is_found_is_a_sentence(tmp_path, runtime):
    never = color_finder(tmp_path / "never.onnx", (0.0, 0.0, 0.0), -6.0)
    with pytest.raises(UserError, match="The model found no object in the picture. Give a closer picture or another model"):
        prepare_picture(busy(tmp_path), never)
    always = color_finder(tmp_path / "always.onnx", (0.0, 0.0, 0.0), 6.0)
    with pytest.raises(UserError, match="found no object in .*photo.png that stands out from its background"):
        prepare_picture(busy(tmp_path), always)


def test_without_onnxruntime_it_is_said_how_to_install_it_into_this_python(tmp_path, finder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    request = JobRequest(prompt="a red ball", reference_image=str(busy(tmp_path)), overrides={"reference.cut_out_model": str(finder)})
    with pytest.raises(UserError, match="needs the package onnxruntime, which the engine's Python cannot load") as caught:
        check_request(request)
    assert caught.value.code == "setup" and caught.value.fix == f'Run: "{sys.executable}" -m pip install onnxruntime'


def test_only_the_edge_takes_the_color_beside_it():
    colors = np.zeros((1, 12, 3), np.float32)
    colors[0, :3] = 1
    alpha = np.zeros((1, 12), np.float32)
    alpha[0, :3], alpha[0, 3] = 1, 0.5
    pure = pure_colors(colors, alpha)
    assert (pure[0, :7] == 1).all() and (pure[0, 8:] == 0).all()
    assert np.array_equal(pure_colors(colors, alpha / 2), colors)
