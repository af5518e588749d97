"""Every way to come to nothing is provoked, seen within 50 steps of its onset, answered and told."""

import pytest
import torch

from engine.config import make_config
from engine.errors import UserError
from engine.rendering.march import box_share
from engine.scene.cameras import orbit_cameras
from engine.training.collapse import EMPTY_BELOW, EXPLODED_ABOVE, FULL_ABOVE, GRACE_STEPS, WINDOW, CollapseWatch, DivergedError
from engine.training.control import Control
from engine.training.loop import Hooks, train
from engine.training.trainer import Trainer

torch.set_num_threads(1)
SETTINGS = {
    "training.n_steps": "300",
    "training.batch_size": "1",
    "training.preview_every_s": "0",
    "render.size_px": "16",
    "render.n_samples": "16",
    "render.background": "solid",
    "render.background_color": "#000000",
    "render.occupancy_resolution": "16",
    "field.finest_resolution": "8",
    "field.n_levels": "1",
    "optimizer.learning_rate": "0.05",
    "optimizer.warm_up_steps": "0",
    "light.textureless_ratio": "0",
    "light.lambertian_ratio": "0",
    "loss.lambda_smooth": "0",
    "loss.lambda_opacity": "0",
    "loss.lambda_entropy": "0",
}


class WantsNothing:
    """The background alone, from step 60 of each attempt on; before, whatever is there."""

    def loss(self, images, cameras, shading, step, n_steps, generator):
        return (images - images.detach()[:, :1, :1]).square().sum() * (100.0 if step >= 60 else 0.0)


class WantsEverything:
    """White everywhere, before a background that is black."""

    def loss(self, images, cameras, shading, step, n_steps, generator):
        return images.sum() * (-1.0 if step >= 60 else 0.0)


class Spoilt:
    """A gradient that is no number at step 60."""

    def loss(self, images, cameras, shading, step, n_steps, generator):
        return images.sum() * (float("nan") if step == 60 else 0.0)


class Observed(Trainer):
    """Keeps every step's report."""

    reports: list = []

    def _begin(self):
        super()._begin()
        self.reports = []

    def train_step(self):
        report = super().train_step()
        self.reports.append(report)
        return report


def run(teacher, **settings):
    """Train until the first warning: the steps done by then, each step's report, and the warning; then the run is let go."""
    told = []
    trainer = Observed(make_config("draft", SETTINGS | settings), 0, torch.device("cpu"), teacher)

    def warn(text):
        told.append((text, list(trainer.reports)))
        control.finish()

    control = Control()
    hooks = Hooks(progress=lambda *a: None, preview=lambda s: None, checkpoint=lambda: None, warn=warn)
    train(trainer, control, hooks, seed=7)
    ((text, reports),) = told
    return text, reports, trainer


def onset(reports, is_bad):
    """The first step from which on all are bad."""
    bad = [is_bad(report) for report in reports]
    return len(bad) - bad[::-1].index(False) if False in bad else 0


def test_an_empty_field_is_seen_within_50_steps():
    text, reports, trainer = run(WantsNothing())
    first = onset(reports, lambda report: report.box_opacity < EMPTY_BELOW)
    assert WINDOW <= len(reports) - first <= 50 and first > 60
    assert text == f"The object came out empty (step {len(reports)}). Starting again with gentler settings."
    assert trainer.restarts == 1 and trainer.step == 0 and trainer.restart_reason.startswith("The object came out empty")


def test_a_full_box_is_seen_within_50_steps_also_from_far_away():
    far = {"camera.radius": "5,5", "render.n_samples": "48", "render.size_px": "32"}
    text, reports, _ = run(WantsEverything(), **far, **{"field.blob_radius": "1", "optimizer.learning_rate": "0.2"})
    first = onset(reports, lambda report: report.box_opacity > FULL_ABOVE)
    assert len(reports) - first <= 50 and first > 60
    assert text.startswith("The object came out full")


def test_an_exploding_density_is_seen_within_50_steps():
    explosive = {"field.activation": "exp", "field.density_scale": "100", "optimizer.learning_rate": "0.1", "camera.radius": "2,2"}
    text, reports, _ = run(WantsEverything(), **explosive)
    first = onset(reports, lambda report: report.largest_density > EXPLODED_ABOVE)
    assert len(reports) - first <= 50
    assert text.startswith(("The object came out exploded", "The object came out full"))


def test_a_gradient_that_is_no_number_is_seen_at_once():
    text, reports, _ = run(Spoilt())
    assert len(reports) == 60 and text == "Step 60: the gradient is not finite. Starting again with gentler settings."


def test_the_back_off_halves_the_rate_and_drops_what_pushes_the_object_away():
    rates = []
    for restarts in (0, 1, 2):
        trainer = Trainer(make_config("draft", SETTINGS | {"loss.lambda_opacity": "5"}), 0, torch.device("cpu"), Spoilt())
        for _ in range(restarts):
            trainer.restart("test")
        report = trainer.train_step()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        assert (float(report.loss) > 0) == (restarts == 0), "the loss against haze"
    assert rates[1] == pytest.approx(rates[0] / 2) and rates[2] == pytest.approx(rates[0] / 4)


def test_without_an_attempt_left_the_job_ends_with_a_sentence():
    with pytest.raises(UserError, match=r"came out empty \(step \d+\), also with gentler settings. Use another seed, for example --seed 8"):
        run(WantsNothing(), **{"training.restarts": "0"})
    with pytest.raises(DivergedError, match="Step 60: the gradient is not finite. Use a smaller --optimizer.learning-rate"):
        run(Spoilt(), **{"training.restarts": "0"})


def watched(opacities, densities=None, n_steps=1000, first_step=GRACE_STEPS):
    watch = CollapseWatch(n_steps)
    densities = [10.0] * len(opacities) if densities is None else densities
    for step, (opacity, density) in enumerate(zip(opacities, densities), first_step):
        watch.see(step, torch.tensor(opacity), torch.tensor(density))
    return watch.verdict()


def test_one_odd_view_is_no_collapse_and_a_thin_thing_is_none():
    assert watched([0.0] * WINDOW) == "empty" and watched([0.99] * WINDOW) == "full"
    assert watched([0.3] * WINDOW, [1e9] * WINDOW) == "exploded"
    assert watched([0.3] * WINDOW, [float("inf")] * WINDOW) == "exploded"
    assert watched([0.0] * (WINDOW - 1) + [0.2]) == watched([0.0] * (WINDOW - 1)) == watched([0.02] * WINDOW) == ""
    assert watched([0.3] * 5 + [0.0] * WINDOW) == "empty", "only the last steps count"


def test_at_the_beginning_a_field_may_be_anything():
    assert watched([0.0] * WINDOW, first_step=0) == "" and watched([0.0] * (WINDOW + GRACE_STEPS), first_step=0) == "empty"


def test_the_boxs_share_of_the_picture_falls_with_the_distance():
    def share(radius):
        return float(box_share(orbit_cameras(*(torch.tensor([v]) for v in (0.0, 0.0, radius, 40.0))), 64))

    assert share(2.75) == 1.0
    half = 1.0 / 7.0 / torch.tan(torch.deg2rad(torch.tensor(20.0))).item()  # its near face, 7 away, as a share of the half picture
    assert share(8.0) == pytest.approx(half**2, abs=0.02)
