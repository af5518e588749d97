"""Losses against closed forms, optimizers against the written algorithm."""

import math

import pytest
import torch
from torch import nn

from engine.training.adan import Adan
from engine.training.ema import Ema
from engine.training.losses import entropy_loss, opacity_loss, orientation_loss, smoothness_loss, tv_loss


@pytest.mark.parametrize("o", [0.0, 0.3, 1.0])
def test_opacity_loss_of_an_even_picture(o):
    assert opacity_loss(torch.full((2, 4, 3), o)).item() == pytest.approx(math.sqrt(o * o + 0.01) - 0.1, abs=1e-6)


def test_entropy_is_log_two_at_one_half_and_nothing_where_covered_or_not():
    assert entropy_loss(torch.full((1, 2, 2), 0.5)).item() == pytest.approx(math.log(2), rel=1e-5)
    assert entropy_loss(torch.tensor([[[0.0, 1.0]]])).item() < 0.01


def test_entropy_has_a_finite_gradient_at_the_ends():
    opacity = torch.tensor([[[0.0, 1.0, 0.5]]], requires_grad=True)
    entropy_loss(opacity).backward()
    assert opacity.grad.isfinite().all()


def test_orientation_counts_only_what_faces_away_weighted_by_visibility():
    normals = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0]])
    directions = torch.tensor([[0.0, 0, 1]]).expand(3, 3)
    weights = torch.tensor([0.5, 0.25, 0.25])
    assert orientation_loss(weights, normals, directions, n_rays=2).item() == pytest.approx(0.5 / 2)


def test_orientation_pulls_normals_and_never_weights():
    weights = torch.tensor([0.5], requires_grad=True)
    normals = torch.tensor([[0.0, 0.6, 0.8]], requires_grad=True)
    orientation_loss(weights, normals, torch.tensor([[0.0, 0, 1]]), 1).backward()
    assert weights.grad is None and normals.grad.abs().sum() > 0


def test_tv_of_a_ramp_is_its_slope_squared():
    ramp = torch.arange(5.0).expand(1, 4, 5) * 0.1
    assert tv_loss(ramp).item() == pytest.approx(0.01, rel=1e-4)


def test_smoothness_counts_steps_and_not_how_steep_they_are():
    ramp, cliff = torch.linspace(0, 1, 11), (torch.arange(11) > 4).float()
    both = [smoothness_loss(values[:-1], values[1:]).item() for values in (ramp, cliff)]
    assert both == pytest.approx([0.1, 0.1])
    fur = (torch.arange(11) % 2).float()
    assert smoothness_loss(fur[:-1], fur[1:]).item() == pytest.approx(1.0)


def test_losses_mean_the_same_at_every_resolution_and_batch():
    small = (torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    big = small.repeat(3, 1, 1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    for loss in (opacity_loss, entropy_loss):
        assert loss(big).item() == pytest.approx(loss(small).item(), rel=1e-5)


def adan_by_hand(gradients, p, lr, b1, b2, b3, eps, decay):
    """Algorithm 1 of 2208.06677 for one number, betas as keep rates."""
    m = v = n = 0.0
    last = gradients[0]
    for k, g in enumerate(gradients, start=1):
        d = g - last
        last = g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (g + b2 * d) ** 2
        update = (m / (1 - b1**k) + b2 * v / (1 - b2**k)) / (math.sqrt(n / (1 - b3**k)) + eps)
        p = (p - lr * update) / (1 + lr * decay)
    return p


def test_adan_does_what_its_paper_says():
    gradients = [1.0, -0.5, 0.25, 2.0, 2.0]
    p = nn.Parameter(torch.tensor([0.7]))
    optimizer = Adan([p], lr=0.1, weight_decay=0.02)
    for g in gradients:
        p.grad = torch.tensor([g])
        optimizer.step()
    assert p.item() == pytest.approx(adan_by_hand(gradients, 0.7, 0.1, 0.98, 0.92, 0.99, 1e-8, 0.02), rel=1e-5)


def test_adan_finds_the_bottom_of_a_valley():
    p = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Adan([p], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        (p * torch.tensor([1.0, 20.0])).square().sum().backward()
        optimizer.step()
    assert p.abs().max() < 0.1


def test_ema_forgets_the_start_quickly_and_then_follows_slowly():
    module = nn.Linear(1, 1, bias=False)
    ema = Ema(module, decay=0.9)
    ema.module.weight.fill_(100.0)
    with torch.no_grad():
        module.weight.fill_(1.0)
    average = 100.0
    for step in range(30):
        ema.update(module, step)
        keep = min(0.9, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * 1.0
    assert ema.module.weight.item() == pytest.approx(average, rel=1e-4)
    assert abs(average - 1.0) < 1e-2  # 30 steps of plain 0.9 would leave 4.2


def test_ema_has_no_gradient_and_copies_buffers():
    module = nn.BatchNorm1d(2)
    ema = Ema(module, 0.9)
    module.running_mean.fill_(5.0)
    ema.update(module, 0)
    assert torch.equal(ema.module.running_mean, module.running_mean)
    assert not any(p.requires_grad for p in ema.module.parameters())
    assert all(p.requires_grad for p in module.parameters())
