"""A whole draft step with Toybox: how long, where the time goes, and what the kernels and the number type of the model are worth.

    python -m benchmarks.step [--steps 60] [--threads 2] [--prompt "a red mug"] [--runs "as shipped;U-Net compiled"]

Runs of the same prompt and seed advance side by side, one step each in turn, from the first to the last step of a draft that is
shortened to `--steps`: what else the machine does meets all of them alike. Kernels off is DREAMFUSION_KERNELS=off. With one thread
the times are this process's own processor milliseconds, which other work on the machine changes little; with more, the wall's.
"U-Net compiled" is torch.compile, for which a C++ compiler must be there; its first step, told below the table, compiles, and so does
any step whose batch has another size.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cuda_ext import ops
from engine.config import JobConfig, make_config
from engine.guidance.denoiser import Denoiser
from engine.guidance.model_table import find_model, model_folder
from engine.guidance.precision import job_dtype
from engine.scene.view_prompts import ViewPrompts
from engine.training import trainer as training
from engine.training.teacher import DiffusionTeacher
from engine.training.trainer import Trainer

# name of the run: number type of the model, kernels
RUNS: dict[str, tuple[torch.dtype, bool]] = {
    "as shipped": (job_dtype(torch.device("cpu")), True),
    "kernels off": (job_dtype(torch.device("cpu")), False),
    "float32": (torch.float32, True),
    "float32, kernels off": (torch.float32, False),
    "U-Net compiled": (job_dtype(torch.device("cpu")), True),
}


class Clock:
    """Seconds of each part of a step. Parts are methods and functions, wrapped where they are; a part in a part counts once, inside."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.parts: dict[str, list[float]] = defaultdict(list)
        self._step: dict[str, float] = defaultdict(float)
        self._inside: list[float] = []

    def wrap(self, owner: Any, name: str, part: str) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            start = self.now()
            try:
                return inner(*args, **kwargs)
            finally:
                taken = self.now() - start
                self._step[part] += taken - self._inside.pop()
                if self._inside:
                    self._inside[-1] += taken

        setattr(owner, name, timed)

    def end_step(self) -> None:
        for part, seconds in self._step.items():
            self.parts[part].append(seconds)
        self._step.clear()


@contextmanager
def kernels(on: bool) -> Iterator[None]:
    before = ops.serves
    if not on:
        ops.serves = lambda _tensor: False  # type: ignore[assignment]
    try:
        yield
    finally:
        ops.serves = before


def make_run(prompt: str, config: JobConfig, dtype: torch.dtype, clock: Clock, *, is_compiled: bool) -> Callable[[], None]:
    """A draft of the prompt; each call is one step."""
    model = find_model("toybox")
    denoiser = Denoiser.load(model_folder(model), "cpu", dtype)
    if is_compiled:
        denoiser.network.compile()
    prompts = ViewPrompts(prompt, "", denoiser.embed, view_words=model.view_words, shading_words=model.shading_words, mode="interpolated")
    trainer = Trainer(config, 0, torch.device("cpu"), DiffusionTeacher(denoiser, prompts, config.guidance))
    for owner, name, part in (
        (trainer, "train_step", "rest"),
        (denoiser, "predict", "U-Net"),
        (denoiser, "encode", "VAE encode"),
        (denoiser, "decode", "VAE decode"),
        (trainer.occupancy, "update", "occupancy"),
        (trainer, "_smoothness", "smoothness"),
        (trainer.optimizer, "step", "optimizer"),
        (trainer.ema, "update", "EMA"),
    ):
        clock.wrap(owner, name, part)

    def step() -> None:
        trainer.train_step()
        clock.end_step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--runs", default=";".join(list(RUNS)[:-1]), help="with ; between, of: " + "; ".join(RUNS))
    arguments = parser.parse_args()
    names = arguments.runs.split(";")
    torch.set_num_threads(arguments.threads)
    config = make_config("draft", {"training.n_steps": str(arguments.steps)})
    now = time.process_time if arguments.threads == 1 else time.perf_counter
    clocks = {name: Clock(now) for name in names}
    render = Clock(now)
    render.wrap(training, "render", "render")
    render.wrap(torch.Tensor, "backward", "backward")
    runs = {name: make_run(arguments.prompt, config, RUNS[name][0], clocks[name], is_compiled=name == "U-Net compiled") for name in names}
    totals: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(arguments.steps):
        for name, step in runs.items():
            with kernels(RUNS[name][1]):
                start = now()
                step()
                totals[name].append(now() - start)
            render.end_step()
    for which, name in enumerate(names):
        for part in ("render", "backward"):
            clocks[name].parts[part] = render.parts[part][which :: len(names)]
    machine = f"{platform.machine()}, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}"
    print(f"torch {torch.__version__}, {machine}, the model as shipped in {job_dtype(torch.device('cpu'))}")
    print_table({name: clock.parts for name, clock in clocks.items()}, totals)
    print("\nslowest steps, ms: " + "; ".join(f"{name} {_slowest(values)}" for name, values in totals.items()))


def _slowest(seconds: list[float]) -> str:
    """The three slowest steps and their numbers."""
    ranked = sorted(range(len(seconds)), key=lambda step: -seconds[step])[:3]
    return ", ".join(f"{1e3 * seconds[step]:.0f} (step {step})" for step in ranked)


def print_table(parts: dict[str, dict[str, list[float]]], totals: dict[str, list[float]]) -> None:
    """Milliseconds a step, means over the run (resolution and occupancy change on the way), and ratios to the first run."""
    print(f"\n| ms per step | {' | '.join(totals)} |\n| --- |{' --- |' * len(totals)}")
    names = [part for part in next(iter(parts.values())) if part != "rest"]
    for part in names:
        print(f"| {part} | " + " | ".join(f"{1e3 * sum(parts[run][part]) / len(totals[run]):.1f}" for run in totals) + " |")
    means = {run: 1e3 * statistics.mean(values) for run, values in totals.items()}
    known = {run: sum(1e3 * sum(parts[run][part]) / len(totals[run]) for part in names) for run in totals}
    print("| rest | " + " | ".join(f"{means[run] - known[run]:.1f}" for run in totals) + " |")
    print("| **step** | " + " | ".join(f"**{means[run]:.1f}**" for run in totals) + " |")
    first = next(iter(totals.values()))
    ratios = {run: statistics.median(other / ours for other, ours in zip(values, first)) for run, values in totals.items()}
    print("| ratio, median over steps | " + " | ".join(f"{ratios[run]:.2f}" for run in totals) + " |")


if __name__ == "__main__":
    main()
