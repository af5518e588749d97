"""What a run of any kind holds and how it moves: settings, random draws, teacher, optimizer, restarts, checkpoints.

`Trainer` adds a field, `SurfaceTrainer` a surface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.config import JobConfig
from engine.errors import UserError
from engine.fields.field import RadianceField
from engine.scene.cameras import Cameras
from engine.schedule import scheduled
from engine.training.adan import Adan
from engine.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from engine.training.collapse import diverged_error
from engine.training.losses import is_finite

# Enough for a steady gradient, few enough to cost a tenth of a step.
SMOOTH_PLACES = 8192
# What a restart after a collapse changes: smaller steps, nothing that pushes the object away.
GENTLER_RATE = 0.5


class Teacher(Protocol):
    """What pulls renders towards the prompt: a diffusion model, or an oracle in tests."""

    def loss(self, images: Tensor, cameras: Cameras, shading: str, step: int, n_steps: int, generator: torch.Generator) -> Tensor:
        """Scalar whose gradient flows into `images` [B, H, W, 3]."""


@runtime_checkable
class LearningTeacher(Teacher, Protocol):
    """A teacher that trains something of its own in `loss`, which a checkpoint must hold."""

    def begin(self, generator: torch.Generator) -> None:
        """Start anew; called before the first step and after a collapse."""

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Parts of a checkpoint by name; may be none."""

    def restore(self, parts: Mapping[str, dict[str, Tensor]]) -> None:
        """Continue from a checkpoint's parts, of which there may be more and its own may be missing."""


def _adam(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    # DreamFusion-like fields need a short memory of the squared gradient: it falls a hundredfold over a run.
    # Fused: one pass over a dense grid instead of ten, 1.3 ms a step instead of 10 on one core.
    # AdamW is Adam with weight decay beside the gradient, like Adan's; a group without any gets Adam to the last bit.
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.0, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {"adam": _adam, "adan": Adan}


@dataclass(frozen=True)
class StepReport:
    """What a step saw, as scalars. Values stay on the device until somebody looks.

    box_opacity: mean opacity of the views as a share of what the whole box would cover. largest_density: per world unit.
    left_out: share of the samples that render.max-samples left out, None without a limit.
    """

    loss: Tensor
    guidance_loss: Tensor
    box_opacity: Tensor
    largest_density: Tensor
    left_out: Tensor | None = None


class RunState(ABC):
    """Everything that changes during a run but what is trained, which a kind of run adds."""

    optimizer: torch.optim.Optimizer

    def __init__(self, config: JobConfig, seed: int, device: torch.device, teacher: Teacher) -> None:
        """Not ready yet: whoever inherits calls `_begin` when its own parts are there."""
        self.config = config
        self.device = device
        self.teacher = teacher
        self.generator = torch.Generator().manual_seed(seed)  # cameras, lights, backgrounds: the same on every device
        self.device_generator = torch.Generator(device=device).manual_seed(seed)  # noise, timesteps, places
        self.step = 0
        self.restarts = 0
        self.restart_reason = ""

    @abstractmethod
    def train_step(self) -> StepReport:
        """One optimizer update. Raises DivergedError."""

    @abstractmethod
    def _make(self) -> None:
        """What is trained, new, with its average and its optimizer."""

    @abstractmethod
    def _set_level(self) -> None:
        """Open as many levels of what is trained as this step has."""

    @abstractmethod
    def _parts(self) -> dict[str, dict[str, Tensor]]:
        """What is trained, as parts of a checkpoint."""

    def _meta(self) -> dict[str, Any]:
        """What else `_load` must know."""
        return {}

    @abstractmethod
    def _load(self, checkpoint: Checkpoint) -> None:
        """Inverse of `_parts` and `_meta`. Raises KeyError, RuntimeError or ValueError for parts of something else."""

    def _begin(self) -> None:
        self.step = 0
        self._make()
        if isinstance(self.teacher, LearningTeacher):
            self.teacher.begin(self.generator)

    @property
    def n_steps(self) -> int:
        return self.config.training.n_steps

    def at(self, value: float | tuple[float, ...]) -> float:
        """A scheduled setting at this step."""
        return scheduled(value, self.step, self.n_steps)

    def restart(self, reason: str) -> None:
        """Begin again after a collapse, gently, with other random draws."""
        self.restarts += 1
        self.restart_reason = reason
        self._begin()

    def views(self, step: int) -> tuple[int, int]:
        """Batch size and picture size in pixels at `step`."""
        cfg = self.config
        size = 8 * round(scheduled(cfg.render.size_px, step, self.n_steps) / 8)
        return max(1, round(scheduled(cfg.training.batch_size, step, self.n_steps))), max(16, size)

    def _grid_variation(self, field: RadianceField, positions: Tensor) -> Tensor:
        """Total variation of a field's grid at some of the places [M, 3] that this step looked at.

        Not at places all over the box: where no other loss pulls, Adam would make a whole step of the smallest difference.
        """
        chosen = torch.randint(len(positions), (SMOOTH_PLACES,), generator=self.device_generator, device=self.device)
        return field.grid_variation(positions[chosen].detach())

    def _descend(self, loss: Tensor) -> None:
        """One step of the optimizer down this loss. Raises DivergedError."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._check(loss, parameters)  # before the optimizer, which would keep a NaN for ever
        cfg = self.config.optimizer
        rate = self.at(cfg.learning_rate) * min(1.0, (self.step + 1) / (cfg.warm_up_steps + 1)) * GENTLER_RATE**self.restarts
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        if cfg.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, cfg.max_grad_norm)
        self.optimizer.step()

    def _check(self, loss: Tensor, parameters: list[Tensor]) -> None:
        if self.device.type == "cpu" or self.step % self.config.training.check_every == 0:  # a wait for the GPU
            gradients = [p.grad for p in parameters if p.grad is not None]
            total = torch.stack(list(torch._foreach_norm(gradients))).sum() if gradients else loss
            if not is_finite(loss, total):
                raise diverged_error("the gradient", self.step)

    def checkpoint(self) -> Checkpoint:
        """All that the next step depends on."""
        parts = {
            **self._parts(),
            "optimizer": optimizer_tensors(self.optimizer),
            "generators": {"host": self.generator.get_state(), "device": self.device_generator.get_state()},
        }
        if isinstance(self.teacher, LearningTeacher):
            parts |= self.teacher.state()
        meta = {"step": self.step, "restarts": self.restarts, "restart_reason": self.restart_reason, "device": self.device.type}
        return Checkpoint(parts, meta | self._meta())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue exactly where `checkpoint` was taken. Raises UserError."""
        parts, meta = checkpoint.parts, checkpoint.meta
        try:
            self._load(checkpoint)
            restore_optimizer(self.optimizer, parts["optimizer"])
            if isinstance(self.teacher, LearningTeacher):
                self.teacher.restore(parts)
            if not meta.get("new_seed"):  # else this run's own draws, not those of the run it goes on from
                self.generator.set_state(parts["generators"]["host"])
                if meta["device"] == self.device.type:
                    self.device_generator.set_state(parts["generators"]["device"])
            self.step, self.restarts, self.restart_reason = meta["step"], meta["restarts"], meta["restart_reason"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError("The checkpoint does not fit this job's settings.", "Start again in another folder.", "checkpoint") from error
        self._set_level()
