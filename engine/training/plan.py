"""What a job will take, said before it starts: sizes that are known, and a rate that is measured here on one batch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from engine.guidance.denoiser import Denoiser
from engine.guidance.memory import weight_bytes
from engine.scene.sampling import sample_cameras
from engine.training.run_state import RunState


@dataclass(frozen=True)
class Plan:
    """Attributes:
    n_steps: steps that are left.
    n_views: views of the batch that was measured, the first one's.
    weight_bytes: of the model's parts that stay for the run.
    model_s: seconds that the model takes for this batch, with the way back to the picture.
    peak_bytes: most GPU memory during that, weights included; 0 on a CPU.
    total_bytes: of the GPU; 0 on a CPU.
    run_s: seconds that the model will take for all batches that are left.
    vram: the level that was used.
    """

    n_steps: int
    n_views: int
    weight_bytes: int
    model_s: float
    peak_bytes: int
    total_bytes: int
    run_s: float
    vram: str

    def __str__(self) -> str:
        memory = f"{self.weight_bytes / 1e6:,.0f} MB of weights"
        if self.total_bytes:
            memory += f", {self.peak_bytes / 1e9:.1f} of the GPU's {self.total_bytes / 1e9:.1f} GB while it works (--vram {self.vram})"
        minutes, seconds = divmod(round(self.run_s), 60)
        views = "1 view" if self.n_views == 1 else f"{self.n_views} views"
        return (
            f"{self.n_steps} steps. The model: {memory}, {self.model_s:.2g} s for {views}, measured here, "
            f"so {minutes}:{seconds:02d} of the run. Rendering and the mesh come on top."
        )


def make_plan(trainer: RunState, denoiser: Denoiser, first_step: int) -> Plan:
    """Measure the teacher on one batch of random pictures. Draws from a generator of its own, so the run stays what it is."""
    n_views, _ = trainer.views(0)
    on_gpu = trainer.device.type == "cuda"
    peak_bytes = total_bytes = 0
    if on_gpu:
        _judge(trainer, n_views)  # the first call chooses kernels and is no measure
        torch.cuda.reset_peak_memory_stats(trainer.device)
    seconds = _judge(trainer, n_views)
    if on_gpu:
        peak_bytes = torch.cuda.max_memory_allocated(trainer.device)
        total_bytes = torch.cuda.mem_get_info(trainer.device)[1]
    n_left = sum(trainer.views(step)[0] for step in range(first_step, trainer.n_steps))
    return Plan(
        n_steps=trainer.n_steps - first_step,
        n_views=n_views,
        weight_bytes=sum(weight_bytes(denoiser).values()),
        model_s=seconds,
        peak_bytes=peak_bytes,
        total_bytes=total_bytes,
        run_s=seconds * n_left / n_views,
        vram=trainer.config.model.vram,
    )


def _judge(trainer: RunState, n_views: int) -> float:
    """Seconds of one opinion on a batch, with its gradient."""
    _, size = trainer.views(0)
    generator = torch.Generator().manual_seed(0)
    cameras = sample_cameras(trainer.config.camera, n_views, 0, trainer.n_steps, generator=generator).to(trainer.device)
    images = torch.rand(n_views, size, size, 3, generator=generator).to(trainer.device).requires_grad_()
    start = time.monotonic()
    loss = trainer.teacher.loss(images, cameras, "albedo", 0, trainer.n_steps, generator)
    loss.backward()
    loss.item()  # waits for the GPU
    return time.monotonic() - start
