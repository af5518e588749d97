"""The training step and its loop, under teachers whose right answer is known."""

import dataclasses
import threading
import time

import pytest
import torch

from engine.config import make_config
from engine.errors import UserError
from engine.guidance.oracle import OracleDenoiser
from engine.protocol import SetView
from engine.scene.cameras import camera_rays, orbit_cameras
from engine.scene.view_prompts import ViewPrompts
from engine.scene.view_weights import VIEWS
from engine.training.collapse import DivergedError
from engine.training.control import Control
from engine.training.loop import CancelledError, Hooks, train
from engine.training.run_state import OPTIMIZERS
from engine.training.teacher import DiffusionTeacher, make_guidance
from engine.training.trainer import Trainer

torch.set_num_threads(1)
CPU = torch.device("cpu")
SMALL = {
    "training.n_steps": "6",
    "training.batch_size": "2",
    "render.size_px": "16",
    "render.n_samples": "24",
    "render.occupancy_resolution": "16",
    "field.finest_resolution": "16",
    "field.n_levels": "2",
    "training.preview_every_s": "0",
}
RED = torch.tensor([0.9, 0.1, 0.1])


def sphere_mask(cameras, size, radius=0.5):
    """[B, H, W] bool: which pixels see a ball round the origin."""
    rays_o, rays_d = camera_rays(cameras, size, size)
    return (torch.linalg.cross(rays_d, rays_o).norm(dim=-1) < radius).view(len(cameras), size, size)


class BallTeacher:
    """Wants a red ball of radius 0.5; leaves the background as it is."""

    def loss(self, images, cameras, shading, step, n_steps, generator):
        mask = sphere_mask(cameras, images.shape[1])[..., None]
        # Outside the ball the background must show: what little the field adds there is pulled back to it.
        target = torch.where(mask, RED, images.detach()[:, :1, :1])
        return (images - target).square().sum() / len(images)


class NoTeacher:
    def loss(self, images, cameras, shading, step, n_steps, generator):
        return images.sum() * 0.0


def trainer_of(teacher=None, seed=0, **overrides):
    settings = SMALL | {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return Trainer(make_config("draft", settings), seed, CPU, teacher or BallTeacher())


def quiet_hooks(log=None):
    log = [] if log is None else log
    return Hooks(
        progress=lambda *a: log.append(("progress", *a)),
        preview=lambda seconds_per_step: log.append(("preview", seconds_per_step)),
        checkpoint=lambda: log.append(("checkpoint",)),
        warn=lambda text: log.append(("warn", text)),
    )


def test_a_teacher_that_wants_a_red_ball_gets_one():
    trainer = trainer_of(
        training__n_steps=120, render__size_px=32, field__finest_resolution=32, light__textureless_ratio=0, light__lambertian_ratio=0,
        render__n_samples=48,
    )  # fmt: skip
    train(trainer, Control(), quiet_hooks())
    cameras = orbit_cameras(
        torch.tensor([10.0, 130.0, -100.0]), torch.tensor([0.0, 40.0, 10.0]), torch.full((3,), 2.9), torch.full((3,), 40.0)
    )
    out = trainer.picture(cameras, 32, 32)
    mask, seen = sphere_mask(cameras, 32), out.opacity > 0.5
    assert (mask & seen).sum() / (mask | seen).sum() > 0.85
    inside = sphere_mask(cameras, 32, 0.4)
    assert (out.image[inside].mean(0) - RED).abs().max() < 0.1


def losses(trainer, n):
    return [float(trainer.train_step().loss) for _ in range(n)]


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    first, again, other = (losses(trainer_of(seed=s), 3) for s in (0, 0, 1))
    assert first == again != other


def test_a_run_does_not_depend_on_the_global_generator_nor_change_it():
    before = torch.random.get_rng_state()
    losses(trainer_of(), 2)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("optimizer", ["adam", "adan"])
def test_a_resumed_run_is_the_run_itself(optimizer):
    whole = trainer_of(optimizer__method=optimizer, field__encoding="hash", render__background="mixed")
    losses(whole, 3)
    checkpoint = whole.checkpoint()
    checkpoint = dataclasses.replace(checkpoint, parts={p: {n: v.clone() for n, v in t.items()} for p, t in checkpoint.parts.items()})
    resumed = trainer_of(optimizer__method=optimizer, field__encoding="hash", render__background="mixed", seed=5)
    resumed.restore(checkpoint)
    assert resumed.step == 3
    assert losses(whole, 3) == losses(resumed, 3)
    for name, value in whole.ema.module.state_dict().items():
        assert torch.equal(value, resumed.ema.module.state_dict()[name]), name


def test_a_checkpoint_of_another_field_is_refused():
    checkpoint = trainer_of().checkpoint()
    with pytest.raises(UserError, match="does not fit this job's settings"):
        trainer_of(field__finest_resolution=32).restore(checkpoint)


def test_pictures_change_nothing():
    one, other = trainer_of(), trainer_of()
    cameras = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([2.9]), torch.tensor([40.0]))
    one.train_step(), other.train_step()
    first = one.picture(cameras, 16, 24)
    assert first.image.shape == (1, 16, 24, 3)
    assert torch.equal(first.image, one.picture(cameras, 16, 24).image)
    assert losses(one, 2) == losses(other, 2)


def test_size_batch_and_levels_follow_their_schedules():
    trainer = trainer_of(training__batch_size="0,4,1,1", render__size_px="0,16,1,64", training__max_level="0,0.5,1,1")
    assert trainer.views(0) == (4, 16) and trainer.views(5) == (1, 64)
    trainer.train_step()
    assert trainer.field.max_level == 0.5 == trainer.ema.module.max_level
    losses(trainer, 5)
    assert trainer.field.max_level == 1.0 == trainer.ema.module.max_level


def test_a_smaller_rate_moves_less_and_warm_up_starts_slowly():
    def moved(**settings):
        trainer = trainer_of(**settings)
        before = [p.detach().clone() for p in trainer.field.parameters()]
        trainer.train_step()
        return sum(float((p.detach() - q).abs().sum()) for p, q in zip(trainer.field.parameters(), before))

    fast = moved(optimizer__learning_rate=0.01, optimizer__warm_up_steps=0)
    assert moved(optimizer__learning_rate=0.001, optimizer__warm_up_steps=0) == pytest.approx(fast / 10, rel=0.01)
    assert moved(optimizer__learning_rate=0.01, optimizer__warm_up_steps=9) == pytest.approx(fast / 10, rel=0.01)


@pytest.mark.parametrize("name", ["lambda_opacity", "lambda_entropy", "lambda_orientation", "lambda_tv", "lambda_smooth", "lambda_grid_tv"])
def test_every_loss_weight_has_an_effect(name):
    lit = {"light__textureless_ratio": 0.5, "light__lambertian_ratio": 0.5}
    none = dict.fromkeys(("loss__lambda_opacity", "loss__lambda_entropy", "loss__lambda_smooth"), 0)
    plain = trainer_of(NoTeacher(), **lit, **none).train_step()
    weighted = trainer_of(NoTeacher(), **lit, **none | {f"loss__{name}": 10}).train_step()
    assert float(plain.loss) == 0 and float(weighted.loss) > 0


@pytest.mark.parametrize("encoding", ["dense", "hash"])
def test_a_weight_on_the_grids_variation_makes_it_smoother(encoding):
    def roughness(weight):
        none = dict.fromkeys(("loss__lambda_opacity", "loss__lambda_entropy", "loss__lambda_smooth", "optimizer__warm_up_steps"), 0)
        settings = {"field__encoding": encoding, "training__n_steps": 20, "training__max_level": 1, "optimizer__learning_rate": 0.004}
        trainer = trainer_of(loss__lambda_grid_tv=weight, **settings, **none)
        losses(trainer, 20)
        places = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) - 0.5
        return trainer.field.grid_variation(places).item()

    assert 0 < roughness(1e3) < 0.3 * roughness(0)


@pytest.mark.parametrize("optimizer", ["adam", "adan"])
@pytest.mark.parametrize("encoding", ["dense", "hash"])
def test_weight_decay_shrinks_the_grid_by_its_share_of_the_rate_and_nothing_else(encoding, optimizer):
    none = dict.fromkeys(("loss__lambda_opacity", "loss__lambda_entropy", "loss__lambda_smooth", "optimizer__warm_up_steps"), 0)
    trainer = trainer_of(
        NoTeacher(), field__encoding=encoding, field__hidden_width=8, field__level_rate=1, training__max_level=1,
        optimizer__method=optimizer, optimizer__learning_rate=0.01, optimizer__weight_decay=2, **none,
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in trainer.field.named_parameters()}
    trainer.train_step()  # all gradients are zero
    kept = 1 - 0.1 * 2 if optimizer == "adam" else 1 / (1 + 0.1 * 2)  # a grid's rate is ten times the base rate
    for name, p in trainer.field.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (kept if name.startswith("encoding") else 1))


def test_adam_without_weight_decay_is_adam_to_the_last_bit():
    values = [torch.randn(100, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    theirs, ours = values[0].clone(), values[0].clone()
    optimizers = [
        torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.99), eps=1e-15, fused=True),
        OPTIMIZERS["adam"]([{"params": [ours]}], 0.05),
    ]
    for grad in values[1:]:
        theirs.grad, ours.grad = grad.clone(), grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(theirs, ours) and not torch.equal(theirs, values[0])


def test_a_fixed_number_of_samples_trains_alike_and_too_few_are_told_once():
    settings = {"training__check_every": 1, "loss__lambda_smooth": 0, "render__background": "solid"}  # nothing drawn per sample
    fields = []
    for number in (0, 20_000):
        trainer, log = trainer_of(render__max_samples=number, **settings), []
        train(trainer, Control(), quiet_hooks(log))
        assert not any(entry[0] == "warn" for entry in log)
        fields.append([p.detach() for p in trainer.field.parameters()])
    for exact, fixed in zip(*fields):
        torch.testing.assert_close(fixed, exact, rtol=1e-3, atol=1e-4)
    log = []
    train(trainer_of(render__max_samples=500, **settings), Control(), quiet_hooks(log))
    (told,) = [entry[1] for entry in log if entry[0] == "warn"]
    assert "% of a step's samples do not fit into render.max-samples" in told


@pytest.mark.parametrize("background", ["random", "learned", "mixed", "solid"])
def test_every_background_trains(background):
    assert float(trainer_of(render__background=background).train_step().loss) > 0


def test_a_gradient_that_is_not_finite_stops_before_the_optimizer():
    class Nan(BallTeacher):
        def loss(self, images, *rest):
            return super().loss(images, *rest) * float("nan")

    trainer = trainer_of(Nan())
    before = [p.clone() for p in trainer.field.parameters()]
    with pytest.raises(DivergedError, match="Step 0: the gradient is not finite"):
        trainer.train_step()
    assert all(torch.equal(p, q) for p, q in zip(trainer.field.parameters(), before))


def test_clay_darkens_the_textureless_surface_and_not_what_is_behind_it():
    class Looks(BallTeacher):
        def loss(self, images, *rest):
            self.images = images.detach()
            return super().loss(images, *rest)

    def seen(clay):
        teacher = Looks()
        trainer_of(
            teacher, light__textureless_ratio=1, light__lambertian_ratio=0, light__clay=clay, light__ambient_ratio="1,1"
        ).train_step()
        return teacher.images

    white, clay = seen(1.0), seen(0.5)
    assert torch.allclose(white[:, 0, 0], clay[:, 0, 0], atol=1e-5)
    assert (white[:, 8, 8].amax(-1) > clay[:, 8, 8].amax(-1) + 0.1).all()


class LooksAt(BallTeacher):
    """Keeps what it was shown."""

    def loss(self, images, cameras, shading, *rest):
        self.images, self.shading = images.detach(), shading
        return super().loss(images, cameras, shading, *rest)


def test_a_solid_background_is_the_colour_that_was_asked_for():
    teacher = LooksAt()
    trainer_of(teacher, render__background="solid", render__background_color="#336600", camera__radius="4,4").train_step()
    torch.testing.assert_close(teacher.images[:, 0, 0], torch.tensor([[0.2, 0.4, 0.0]] * 2), atol=0.03, rtol=0)


def test_normal_steps_show_the_direction_of_the_surface():
    teacher = LooksAt()
    settings = {"light__normal_ratio": 1, "light__textureless_ratio": 0, "light__lambertian_ratio": 0}
    front = {"camera__azimuth_deg": "0,0", "camera__elevation_deg": "0,0"}
    trainer = trainer_of(teacher, render__size_px=32, field__blob_density=30, **settings, **front)
    report = trainer.train_step()
    assert teacher.shading == "normal" and float(report.loss) > 0
    middle = teacher.images[:, 15:17, 15:17].mean(dim=(0, 1, 2))  # a ball from the front, -Y: the normal is (0, -1, 0)
    assert middle.tolist() == pytest.approx([0.5, 0.0, 0.5], abs=0.08)
    assert (teacher.images[:, 16, 19, 0] > 0.6).all() and (teacher.images[:, 16, 12, 0] < 0.4).all()


class DarkTeacher:
    """Wants to see the background alone."""

    def loss(self, images, cameras, *rest):
        return 50 * (images - images.detach()[:, :1, :1]).square().sum()


def test_a_run_that_comes_to_nothing_starts_again_once_and_then_says_so():
    log = []
    settings = {"loss__lambda_opacity": 50, "training__check_every": 5, "optimizer__learning_rate": 0.1, "optimizer__warm_up_steps": 0}
    trainer = trainer_of(DarkTeacher(), training__n_steps=60, **settings)
    with pytest.raises(UserError, match=r"came out empty \(step \d+\), also with gentler settings. Use another seed, for example --seed 8"):
        train(trainer, Control(), quiet_hooks(log), seed=7)
    assert sum(entry[0] == "warn" for entry in log) == 1
    assert trainer.restarts == 1


def test_diverging_once_is_mended_by_a_restart():
    class NanOnce(BallTeacher):
        done = False

        def loss(self, images, *rest):
            factor = 1.0 if self.done else float("nan")
            self.done = True
            return super().loss(images, *rest) * factor

    trainer, log = trainer_of(NanOnce()), []
    train(trainer, Control(), quiet_hooks(log))
    assert trainer.step == trainer.n_steps and trainer.restarts == 1
    assert sum(entry[0] == "warn" for entry in log) == 1


def test_progress_counts_every_step_and_the_time_left_falls_to_nothing():
    log = []
    train(trainer_of(), Control(), quiet_hooks(log))
    steps = [entry for entry in log if entry[0] == "progress"]
    assert [entry[1] for entry in steps] == [1, 2, 3, 4, 5, 6] and all(entry[2] == 6 for entry in steps)
    assert all(entry[3] > 0 for entry in steps) and steps[-1][4] == 0 and steps[0][4] > 0


def test_finish_stops_with_what_is_there_and_cancel_leaves_a_checkpoint():
    class Asks(Control):
        def __init__(self, ask):
            super().__init__()
            self.left, self.ask = 2, ask

        def wait_if_paused(self):
            self.left -= 1
            if self.left < 0:
                getattr(self, self.ask)()
            return super().wait_if_paused()

    trainer = trainer_of(training__n_steps=50)
    train(trainer, Asks("finish"), quiet_hooks())
    assert trainer.step == 3
    log = []
    with pytest.raises(CancelledError):
        train(trainer_of(training__n_steps=50), Asks("cancel"), quiet_hooks(log))
    assert log[-1] == ("checkpoint",)


def test_a_paused_run_waits_and_goes_on():
    control, trainer = Control(), trainer_of()
    control.pause()
    thread = threading.Thread(target=train, args=(trainer, control, quiet_hooks()))
    thread.start()
    time.sleep(0.2)
    assert trainer.step == 0 and control.paused
    control.resume()
    thread.join(20)
    assert trainer.step == 6 and not thread.is_alive()


def test_cancel_and_finish_wake_a_paused_run_and_pause_does_not_come_after_them():
    for ask in ("cancel", "finish"):
        control = Control()
        control.pause()
        getattr(control, ask)()
        assert not control.paused
        control.pause()
        assert not control.paused


def test_pictures_may_be_made_after_every_step_and_when_the_view_of_a_paused_run_changes():
    control, log, trainer = Control(), [], trainer_of()
    control.pause()
    thread = threading.Thread(target=train, args=(trainer, control, quiet_hooks(log)))
    thread.start()
    control.set_view(SetView(job="a", camera_to_world=(1.0,) * 16, window=(1.0,) * 4))
    deadline = time.monotonic() + 20
    while not log and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log[0] == ("preview", 0.0) and trainer.step == 0
    control.view_changed()
    control.resume()
    thread.join(20)
    shown = [entry for entry in log if entry[0] == "preview" and entry[1] > 0]
    assert len(shown) == trainer.step == 6


def test_checkpoints_come_by_the_clock():
    log = []
    trainer = trainer_of(training__checkpoint_every_s=1, training__n_steps=3)
    real = trainer.train_step
    trainer.train_step = lambda: (time.sleep(0.6), real())[1]
    train(trainer, Control(), quiet_hooks(log))
    assert log.count(("checkpoint",)) == 1


def oracle_teacher(**settings):
    size = 16
    grid = torch.linspace(-1, 1, size)
    disc = ((grid[:, None] ** 2 + grid[None] ** 2) < 0.36)[..., None]
    picture = torch.where(disc, RED, torch.full((3,), 0.5))[None]
    config = dataclasses.replace(make_config("draft", {}).guidance, **settings)
    denoiser = OracleDenoiser(picture)
    prompts = ViewPrompts("a ball", "", denoiser.embed, view_words={view: view for view in VIEWS}, shading_words={})
    return DiffusionTeacher(denoiser, prompts, config), picture


@pytest.mark.parametrize("method", ["sds", "image-target"])
def test_the_exact_score_of_one_picture_paints_that_picture(method):
    teacher, picture = oracle_teacher(method=method, guidance_scale=1.0)
    images = torch.full((2, 16, 16, 3), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([images], lr=0.05)
    cameras = orbit_cameras(torch.tensor([0.0, 90.0]), torch.zeros(2), torch.full((2,), 2.9), torch.full((2,), 40.0))
    generator = torch.Generator().manual_seed(0)
    for step in range(100):
        optimizer.zero_grad()
        teacher.loss(images, cameras, "albedo", step, 100, generator).backward()
        optimizer.step()
    assert (images - picture).abs().mean() < 0.02


def test_zero_scale_takes_the_methods_own_and_a_number_is_taken():
    config = make_config("draft", {}).guidance
    own = make_guidance(dataclasses.replace(config, method="sds"), 0, 10)
    assert own.guidance_scale == 100.0 and own.timestep_weight == "sigma"
    scheduled = dataclasses.replace(config, guidance_scale=(0.0, 10.0, 1.0, 20.0), timestep_weight="sds", n_ddim_steps=3)
    later = make_guidance(scheduled, 9, 10)
    assert (later.guidance_scale, later.timestep_weight, later.n_ddim_steps) == (20.0, "sds", 3)
