"""The picture that a run follows: what is taken, what is refused, and that the known side of the object becomes what it shows."""

import math
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import torch

from engine.config import check_request, make_config
from engine.protocol import JobRequest
from engine.scene.reference_view import FRAME, SIZE_PX, prepare_picture, read_picture, write_picture
from engine.training.reference import KnownView, known_camera
from engine.training.trainer import Trainer

torch.set_num_threads(1)
CPU = torch.device("cpu")
RED, BLUE = (230, 30, 30), (30, 60, 220)


def drawing(size=(200, 160), box=(60, 40, 140, 120), background=(255, 255, 255, 0)):
    """Left half red, right half blue, RGBA, in a box (left, top, right, bottom) before a background."""
    image = PIL.Image.new("RGBA", size, background)
    left, top, right, bottom = box
    image.paste(RED + (255,), box)
    image.paste(BLUE + (255,), ((left + right) // 2, top, right, bottom))
    return image


def saved(tmp_path, image, name="mug.png", **how):
    path = tmp_path / name
    image.save(path, **how)
    return path


def halves(pixels):
    """Mean colour of the left and right half of the object."""
    inside = pixels[..., 3] > 0.99
    half = SIZE_PX // 2
    return pixels[:, : half - 4][inside[:, : half - 4]][:, :3].mean(0), pixels[:, half + 4 :][inside[:, half + 4 :]][:, :3].mean(0)


def is_the_drawing(pixels, tolerance=0.01):
    left, right = halves(pixels)
    assert pixels.shape == (SIZE_PX, SIZE_PX, 4) and pixels.dtype == np.float32
    assert np.abs(left - np.array(RED) / 255).max() < tolerance and np.abs(right - np.array(BLUE) / 255).max() < tolerance
    # A square of half side a has its corners at a * sqrt 2: that is the frame's half side over FRAME.
    side = SIZE_PX / FRAME / math.sqrt(2)
    assert pixels[..., 3].sum() == pytest.approx(side**2, rel=0.05)
    rows, columns = np.nonzero(pixels[..., 3] > 0.5)
    assert abs(rows.mean() - (SIZE_PX - 1) / 2) < 1.5 and abs(columns.mean() - (SIZE_PX - 1) / 2) < 1.5


def test_a_picture_with_alpha_is_brought_into_the_frame(tmp_path):
    is_the_drawing(prepare_picture(saved(tmp_path, drawing())))


@pytest.mark.parametrize("box", [(0, 0, 80, 80), (120, 80, 200, 160), (10, 10, 34, 34)], ids=["corner", "other corner", "small"])
def test_where_the_object_stands_in_the_picture_and_how_large_makes_no_difference(tmp_path, box):
    is_the_drawing(prepare_picture(saved(tmp_path, drawing(box=box))))


@pytest.mark.parametrize(("name", "how"), [("a.png", {}), ("a.jpg", {"quality": 95}), ("a.webp", {"quality": 95})])
@pytest.mark.parametrize("background", [(255, 255, 255), (40, 40, 45), (120, 170, 90)])
def test_a_plain_background_is_removed(tmp_path, name, how, background):
    path = saved(tmp_path, drawing(background=background + (255,)).convert("RGB"), name, **how)
    is_the_drawing(prepare_picture(path), tolerance=0.06)


def test_a_wall_that_darkens_to_one_side_is_plain(tmp_path):
    wall = np.broadcast_to(np.linspace(235, 185, 200)[None, :, None], (160, 200, 3)).astype(np.uint8)
    image = PIL.Image.fromarray(wall)
    image.paste(drawing().convert("RGB").crop((60, 40, 140, 120)), (60, 40))
    is_the_drawing(prepare_picture(saved(tmp_path, image)))


def test_what_looks_like_the_background_but_lies_in_the_object_stays(tmp_path):
    image = drawing(background=(255, 255, 255, 255)).convert("RGB")
    image.paste((255, 255, 255), (90, 70, 110, 90))
    pixels = prepare_picture(saved(tmp_path, image))
    middle = pixels[SIZE_PX // 2, SIZE_PX // 2]
    assert middle[3] == 1 and middle[:3].min() > 0.99


def test_dust_on_the_wall_is_no_object(tmp_path):
    image = drawing(background=(255, 255, 255, 255)).convert("RGB")
    image.paste((0, 0, 0), (5, 5, 8, 8))
    is_the_drawing(prepare_picture(saved(tmp_path, image)))


def test_a_phone_s_turned_picture_is_stood_upright(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # stored turned left, to be shown turned right
    turned = drawing(background=(255, 255, 255, 255)).convert("RGB").transpose(PIL.Image.Transpose.ROTATE_90)
    is_the_drawing(prepare_picture(saved(tmp_path, turned, "a.jpg", quality=95, exif=exif)), tolerance=0.06)


@pytest.mark.parametrize("mode", ["P", "L", "LA", "1"])
def test_other_kinds_of_png_are_read(tmp_path, mode):
    image = drawing(background=(255, 255, 255, 255))
    if mode == "1":
        image = PIL.Image.new("1", (200, 160), 1)
        image.paste(0, (60, 40, 140, 120))
    pixels = prepare_picture(saved(tmp_path, image.convert(mode)))
    assert pixels[..., 3].sum() == pytest.approx((SIZE_PX / FRAME) ** 2 / 2, rel=0.05)


def test_a_large_picture_is_read_like_a_small_one(tmp_path):
    box = (600, 400, 1400, 1200)
    is_the_drawing(prepare_picture(saved(tmp_path, drawing((2000, 1600), box, (255, 255, 255, 255)).convert("RGB"))))


def test_alpha_that_hides_nothing_is_no_outline(tmp_path):
    image = drawing(background=(255, 255, 255, 255))
    image.putpixel((0, 0), (255, 255, 255, 0))
    is_the_drawing(prepare_picture(saved(tmp_path, image)))


def test_a_picture_of_the_largest_size_is_read(tmp_path):
    image = PIL.Image.new("L", (8192, 4000), 255)
    image.paste(0, (3000, 1000, 5000, 3000))
    pixels = prepare_picture(saved(tmp_path, image, compress_level=1))
    assert pixels[..., 3].sum() == pytest.approx((SIZE_PX / FRAME) ** 2 / 2, rel=0.05)


def test_a_prepared_picture_stays_as_it_is(tmp_path):
    first = prepare_picture(saved(tmp_path, drawing()))
    write_picture(tmp_path / "reference.png", first)
    assert np.abs(read_picture(tmp_path / "reference.png") - first).max() <= 0.5 / 255 + 1e-6
    is_the_drawing(prepare_picture(tmp_path / "reference.png"))


def huge_png(path, width, height):
    """A PNG whose header promises width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def bad_picture(kind, tmp_path):
    path = tmp_path / "mug.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("not a picture, but renamed to look like one")
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "truncated jpg":
        path = saved(tmp_path, drawing().convert("RGB"), "mug.jpg")
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "1 x 1":
        PIL.Image.new("RGB", (1, 1)).save(path)
    elif kind == "transparent":
        PIL.Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)
    elif kind == "one color":
        PIL.Image.new("RGB", (64, 64), (200, 200, 200)).save(path)
    elif kind == "busy":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(path)
    elif kind == "wide":
        PIL.Image.new("1", (20_000, 20)).save(path)
    elif kind == "a bomb":
        huge_png(path, 20_000, 20_000)
    elif kind == "a bigger bomb":
        huge_png(path, 10_000, 10_000)
    elif kind == "cmyk":
        path = saved(tmp_path, PIL.Image.new("CMYK", (64, 64)), "mug.jpg")
    elif kind == "16 bits":
        PIL.Image.fromarray(np.full((64, 64), 60000, np.uint16)).save(path)
    elif kind == "gif":
        path = saved(tmp_path, drawing(), "mug.gif")
    elif kind in ("moves", "moves webp"):
        frames = [drawing(), drawing(box=(0, 0, 80, 80))]
        path = tmp_path / ("mug.png" if kind == "moves" else "mug.webp")
        frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


BAD = {
    "missing": "There is no picture",
    "folder": "is a folder",
    "text": "is no picture, or none of PNG, JPG and WebP",
    "empty file": "is no picture, or none of PNG, JPG and WebP",
    "gif": "is no picture, or none of PNG, JPG and WebP",
    "truncated": "is damaged or was cut short",
    "truncated jpg": "is damaged or was cut short",
    "1 x 1": "is 1 x 1 pixels small, but needs 16 a side",
    "transparent": "is transparent all over",
    "one color": "stands out from its background. Give a picture with a transparent background.",
    "busy": "is not plain, so the object cannot be told from it. Give a picture with a transparent background, or a model",
    "wide": "is too large, at most 8,192 pixels a side",
    "a bomb": "is too large, at most 8,192 pixels a side",
    "a bigger bomb": "is too large, at most 8,192 pixels a side",
    "cmyk": "has colors of the kind CMYK, not RGB",
    "16 bits": "not RGB. Save it as RGB with 8 bits a channel.",
    "moves": "moves: it has 2 frames. Save one frame as PNG.",
    "moves webp": "moves: it has 2 frames. Save one frame as PNG.",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_one_sentence_with_the_fix_and_leaves_nothing(tmp_path, capfd, kind):
    from engine.cli import main

    path = bad_picture(kind, tmp_path)
    code = main(["generate", "a red mug", "--image", str(path), "--out", str(tmp_path / "job")])
    captured = capfd.readouterr()
    assert code == 2 and BAD[kind] in captured.err and str(path) in captured.err
    assert captured.err.startswith("Error: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("words", [[], [""], ["  "]])
def test_a_picture_without_words_is_refused(tmp_path, capsys, words):
    from engine.cli import main

    path = saved(tmp_path, drawing())
    assert main(["generate", *words, "--image", str(path), "--out", str(tmp_path / "job")]) == 2
    assert "A picture alone is not enough" in capsys.readouterr().err


def test_a_good_picture_passes_the_check_of_a_request(tmp_path):
    config = check_request(JobRequest(prompt="a mug", reference_image=str(saved(tmp_path, drawing()))))
    assert config == check_request(JobRequest(prompt="a mug"))


SMALL = {
    "training.n_steps": "120",
    "training.batch_size": "1",
    "render.size_px": "24",
    "render.n_samples": "32",
    "render.occupancy_resolution": "16",
    "field.finest_resolution": "32",
    "field.n_levels": "3",
    "light.textureless_ratio": "0",
    "light.lambertian_ratio": "0",
    "training.max_level": "1",
}


class NoTeacher:
    def loss(self, images, cameras, shading, step, n_steps, generator):
        return images.sum() * 0.0


def trainer_of(tmp_path, picture=True, n=0, **overrides):
    config = make_config("draft", SMALL | {key.replace("__", "."): str(value) for key, value in overrides.items()})
    views = []
    if picture:
        views = [KnownView(torch.from_numpy(prepare_picture(saved(tmp_path, drawing()))), config.reference, CPU)]
    trainer = Trainer(config, 0, CPU, NoTeacher(), views)
    for _ in range(n):
        trainer.train_step()
    return trainer


def errors(trainer, size=48):
    """PSNR of the known view over white, IoU of its outline."""
    (view,) = trainer.known_views
    out = trainer.picture(view.cameras, size, size)
    color, opacity = view.target(size)
    wanted = color + (1 - opacity[..., None])
    psnr = -10 * math.log10(float((out.image - wanted).square().mean()))
    seen, is_object = out.opacity > 0.5, opacity > 0.5
    return psnr, float((seen & is_object).sum() / (seen | is_object).sum())


@pytest.mark.parametrize("azimuth", [0, -120])
def test_the_known_view_is_rebuilt(tmp_path, azimuth):
    trainer = trainer_of(tmp_path, reference__azimuth_deg=azimuth, reference__elevation_deg=20)
    before = errors(trainer)
    for _ in range(120):
        trainer.train_step()
    psnr, iou = errors(trainer)
    assert before[0] < 15 and psnr > 22 and iou > 0.92


def test_each_pull_does_its_own(tmp_path):
    nothing = errors(trainer_of(tmp_path, n=40, reference__lambda_rgb=0, reference__lambda_mask=0))
    outline = errors(trainer_of(tmp_path, n=40, reference__lambda_rgb=0))
    both = errors(trainer_of(tmp_path, n=40))
    assert outline[1] > nothing[1] + 0.1 and both[0] > outline[0] + 3


def test_the_picture_is_looked_at_every_k_steps(tmp_path):
    looks = []
    trainer = trainer_of(tmp_path, reference__every=3)
    (view,) = trainer.known_views
    real = view.losses
    view.losses = lambda *a: (looks.append(trainer.step), real(*a))[1]
    for _ in range(7):
        trainer.train_step()
    assert looks == [0, 3, 6]


def test_without_a_picture_nothing_changes(tmp_path):
    """Seed for seed: settings of the picture have no effect, and a picture that pulls at nothing draws in vain only."""
    one, other = trainer_of(tmp_path, picture=False), trainer_of(tmp_path, picture=False, reference__lambda_rgb=1, reference__every=2)
    a, b = ([float(t.train_step().loss) for _ in range(3)] for t in (one, other))
    assert a == b and torch.equal(one.generator.get_state(), other.generator.get_state())
    for p, q in zip(one.field.parameters(), other.field.parameters()):
        assert torch.equal(p, q)


def test_the_known_camera_sees_the_object_in_the_size_that_was_asked_for():
    for fov in (10.0, 40.0, 90.0):
        config = make_config("draft", {"reference.fov_y_deg": str(fov), "reference.object_radius": "0.6"}).reference
        cameras = known_camera(config)
        # A point in the plane through the middle, 0.6 to the right, lands 1 / FRAME of the way to the edge.
        distance = float(cameras.positions.norm())
        assert 0.6 / distance / float(cameras.window[0, 1]) == pytest.approx(1 / FRAME, rel=1e-5)
        assert torch.allclose(cameras.positions[0], torch.tensor([0.0, -distance, 0.0]), atol=1e-5)
