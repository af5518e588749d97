"""The SDS step at the size of a large model: how long, what of it is U-Net and VAE, and how far that is from what the machine could do.

    python -m benchmarks.large_step [--model sd15] [--steps 20] [--measures all] [--preset high] [--batch 1]
    python -m benchmarks.large_step --device cpu --threads 2 --steps 3

The model is the real architecture with random weights (`large_models.py`), so nothing is fetched; field, renderer, guidance and
optimizer are the real ones. Each step is followed by the U-Net's call and the VAE's way there and back alone, on the very tensors that
this step gave them: what else the machine does meets both. The first step of a preset shortened to --steps is the first one timed; a whole
step before it warms up. The floor is counted work over measured rates, see `floor.py`. Random weights run as long as trained ones.
With one thread on a CPU the times are this process's own processor time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import Rates, encoder_work, latents_of, measure_rates, unet_work, wait
from benchmarks.large_models import ARCHITECTURES, Architecture, make_denoiser, make_tiny_vae, random_embeds, vae_dtype
from engine.config import JobConfig, make_config
from engine.errors import UserError
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import VramLevel
from engine.guidance.memory import save_memory
from engine.guidance.model_table import find_model
from engine.guidance.precision import job_dtype
from engine.scene.view_prompts import ViewPrompts
from engine.training.teacher import DiffusionTeacher
from engine.training.trainer import Trainer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Measure:
    """What a row changes against what ships with --vram high.

    compiler: backend of torch.compile for the U-Net, "" for none. "cudagraphs" records it and needs no compiler of C++.
    """

    vram: VramLevel = "high"
    other_unet_format: bool = False
    vae_channels_first: bool = False
    plain_attention: bool = False
    tiny_vae: bool = False
    dtype: torch.dtype | None = None
    compiler: str = ""


MEASURES: dict[str, Measure] = {
    "as shipped, --vram high": Measure(),
    "U-Net in the other memory format": Measure(other_unet_format=True),
    "VAE channels first": Measure(vae_channels_first=True),
    "plain attention": Measure(plain_attention=True),
    "TAESD": Measure(tiny_vae=True),
    "--vram normal": Measure(vram="normal"),
    "--vram low": Measure(vram="low"),
    "float32": Measure(dtype=torch.float32),
    "torch.compile": Measure(compiler="inductor"),
    "CUDA graphs": Measure(compiler="cudagraphs"),
}


class Seen:
    """A callable that remembers what it was given last, without its past in autograd."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.given = tuple(arg.detach() if isinstance(arg, Tensor) else arg for arg in args), kwargs
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class Timing:
    """Seconds of each step, of the U-Net alone and of the VAE alone, side by side. rows: noisy latents of a U-Net's call.

    first: the step that warmed up. peak_bytes: of the GPU; of the process on a CPU, rows before included.
    """

    rows: int = 0
    first: float = 0.0
    steps: list[float] = field(default_factory=list)
    unet: list[float] = field(default_factory=list)
    vae: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Of whole steps to U-Net and VAE alone."""
        return sum(self.steps) / (sum(self.unet) + sum(self.vae))


@dataclass(frozen=True)
class Bench:
    """What all rows of a table share. config: of the run, from whose first to last step each row goes. now: seconds."""

    architecture: Architecture
    config: JobConfig
    device: torch.device
    dtype: torch.dtype
    now: Callable[[], float] = time.perf_counter
    _rates: dict[torch.dtype, Rates] = field(default_factory=dict)

    def rates(self, dtype: torch.dtype) -> Rates:
        """The machine's, measured once for each type of numbers."""
        if dtype not in self._rates:
            self._rates[dtype] = measure_rates(self.device, dtype, self.now)
        return self._rates[dtype]

    def clocked(self, run: Callable[[], object]) -> float:
        """Seconds, all that was queued included."""
        wait(self.device)
        start = self.now()
        run()
        wait(self.device)
        return self.now() - start

    def teacher(self, denoiser: Denoiser) -> DiffusionTeacher:
        """A judge by random embeddings, as many as a prompt's views have."""
        words = find_model("sd15")  # the same of all models of free prompts
        prompts = ViewPrompts(
            "a red mug",
            "",
            lambda texts: random_embeds(self.architecture, len(texts), self.device),
            view_words=words.view_words,
            shading_words=words.shading_words,
            mode="interpolated",
        )
        return DiffusionTeacher(denoiser, prompts, self.config.guidance)


def make_model(bench: Bench, measure: Measure) -> tuple[Denoiser, Seen, Seen | None]:
    """The model as a row wants it, its U-Net, and what encodes pictures: None for a model of pixels. Raises UserError."""
    architecture, device, dtype = bench.architecture, bench.device, measure.dtype or bench.dtype
    denoiser: Any = make_denoiser(architecture, device, dtype)
    unet, vae = denoiser.parts["unet"], denoiser.parts.get("vae")
    if measure.tiny_vae:
        with tempfile.TemporaryDirectory() as folder:
            make_tiny_vae(architecture, "cpu", dtype).save_pretrained(folder)  # type: ignore[operator]
            denoiser.use_tiny_encoder(Path(folder), 1.0)
    save_memory(denoiser, measure.vram)
    if measure.other_unet_format:
        unet.to(memory_format=torch.channels_last if device.type == "cpu" else torch.contiguous_format)
    if measure.vae_channels_first and vae is not None:
        vae.to(memory_format=torch.contiguous_format)
    if measure.plain_attention:
        unet.set_attn_processor(plain_attention(architecture))
    if measure.compiler:
        unet.compile(backend=measure.compiler)
    denoiser._unet = seen_unet = Seen(unet)
    encoder = denoiser._tiny_vae if measure.tiny_vae else vae
    if encoder is None:
        return denoiser, seen_unet, None
    encoder.encode = seen_vae = Seen(encoder.encode)
    return denoiser, seen_unet, seen_vae


def plain_attention(architecture: Architecture) -> Any:
    """Scores, softmax and sum as three operators, all scores in memory."""
    from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnProcessor

    return AttnAddedKVProcessor() if architecture.kind == "deepfloyd" else AttnProcessor()


def run_steps(bench: Bench, measure: Measure) -> Timing:
    """All steps of a run, each beside U-Net and VAE alone. Raises UserError, or what torch raises where it has no compiler or memory."""
    denoiser, unet, vae = make_model(bench, measure)
    teacher, timing = bench.teacher(denoiser), Timing()

    def alone() -> tuple[float, float]:
        return bench.clocked(lambda: call_unet(unet)), bench.clocked(lambda: encode_and_back(vae)) if vae is not None else 0.0

    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    timing.first = bench.clocked(Trainer(bench.config, 0, bench.device, teacher).train_step)
    alone()
    trainer = Trainer(bench.config, 0, bench.device, teacher)
    for _ in range(bench.config.training.n_steps):
        timing.steps.append(bench.clocked(trainer.train_step))
        unet_s, vae_s = alone()
        timing.unet.append(unet_s)
        timing.vae.append(vae_s)
    timing.rows, timing.peak_bytes = len(unet.given[0][0]), peak_bytes(bench.device)
    return timing


@torch.no_grad()
def call_unet(unet: Seen) -> None:
    args, kwargs = unet.given
    unet.inner(*args, **kwargs)


def encode_and_back(vae: Seen) -> None:
    """Pictures to latents, and a gradient of ones back to the pictures."""
    pictures = vae.given[0][0].clone().requires_grad_()
    latents = latents_of(vae.inner(pictures))
    latents.backward(torch.ones_like(latents))


def peak_bytes(device: torch.device) -> int:
    """0 where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def row_of(name: str, timing: Timing, floor: float) -> str:
    """One line of the table: means over the steps."""
    step, unet, vae = (1e3 * sum(part) / len(part) for part in (timing.steps, timing.unet, timing.vae))
    return (
        f"| {name} | {step:.0f} | {unet:.0f} | {vae:.0f} | {timing.ratio:.3f} | {1e3 * floor:.0f} | {step / (1e3 * floor):.2f} "
        f"| {timing.peak_bytes / 1e9:.1f} | {timing.first:.2f} |"
    )


HEAD = (
    "| | step ms | U-Net ms | VAE ms | step / (U-Net + VAE) | floor ms | step / floor | peak GB | first step s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def measure_row(bench: Bench, name: str, measure: Measure) -> str:
    """One line of the table, or one that says why it was not measured."""
    if measure.compiler == "cudagraphs" and bench.device.type != "cuda":
        return f"| {name} | not measured: they are NVIDIA's |"
    try:
        timing = run_steps(bench, measure)
    except (UserError, RuntimeError, ImportError, AssertionError) as error:  # no encoder; no compiler, no memory, or torch's own limits
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"| {name} | not measured: {reason[:160]} |"
    finally:
        if measure.compiler:
            torch._dynamo.reset()
        gc.collect()
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    dtype = measure.dtype or bench.dtype
    encoder_dtype = dtype if measure.tiny_vae else vae_dtype(bench.architecture, dtype)
    unet = unet_work(bench.architecture, timing.rows, dtype)
    encoder = encoder_work(bench.architecture, timing.rows // 2, dtype, tiny=measure.tiny_vae)  # two rows a view: with and without the text
    return row_of(name, timing, unet.floor(bench.rates(dtype)) + encoder.floor(bench.rates(encoder_dtype)))


def print_work(name: str, architecture: Architecture, batch: int, dtype: torch.dtype) -> None:
    """What a step of this model has to compute and to read, a fact about it and not about the machine."""
    for what, work in (
        (f"U-Net, {2 * batch} rows", unet_work(architecture, 2 * batch, dtype)),
        (f"VAE's encoder there and back, {batch} picture(s)", encoder_work(architecture, batch, dtype)),
        ("TAESD there and back", encoder_work(architecture, batch, dtype, tiny=True)),
    ):
        if work.flops:
            print(f"{name}: {what}: {work.flops / 1e12:.3f} TFLOP, {work.bytes / 1e6:,.0f} MB of weights read")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=ARCHITECTURES, default="sd15")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, help="what a job takes on this device if left out")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1, help="views of a step")
    parser.add_argument("--preset", default="high")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument("--measures", default=next(iter(MEASURES)), help="rows, with ; between, or all: " + "; ".join(MEASURES))
    given = parser.parse_args(arguments)
    names = list(MEASURES) if given.measures == "all" else given.measures.split(";")
    if unknown := [name for name in names if name not in MEASURES]:
        parser.error(f"no measure is called {unknown[0]!r}; there are {'; '.join(MEASURES)}")
    device = torch.device(given.device)
    dtype = DTYPES[given.dtype] if given.dtype else job_dtype(device)
    architecture = ARCHITECTURES[given.model]
    print_work(given.model, architecture, given.batch, dtype)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("Step times: not measured: no CUDA GPU here.")
        return
    sds = {"guidance.method": "sds", "training.n_steps": str(given.steps), "training.batch_size": str(given.batch)}
    config = make_config(given.preset, sds)
    if device.type == "cpu":
        torch.set_num_threads(given.threads)
    now = time.process_time if device.type == "cpu" and given.threads == 1 else time.perf_counter
    print_report(given.model, Bench(architecture, config, device, dtype, now), names)


def print_report(model: str, bench: Bench, names: list[str]) -> None:
    """The machine, its rates and the table."""
    on_gpu = bench.device.type == "cuda"
    where = torch.cuda.get_device_name(bench.device) if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} thread(s)"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    rates = bench.rates(bench.dtype)
    print(f"torch {torch.__version__}, {where}{load}, {bench.config.training.n_steps} steps, {str(bench.dtype).removeprefix('torch.')}")
    print(f"a matrix product runs at {rates.flops / 1e12:.2f} TFLOP/s, a copy at {rates.bytes / 1e9:.1f} GB/s\n\n{model}\n\n{HEAD}")
    for name in names:
        print(measure_row(bench, name, MEASURES[name]), flush=True)


if __name__ == "__main__":
    main()
