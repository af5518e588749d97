"""How long a job will take on this machine: from the jobs that are done, else a guess that says so. Pure functions, no bpy."""

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from .engine_options import largest, mean, preset_names, sizes, value_of
from .job_state import duration

# Seconds for one training view, measured on two CPU threads and guessed for a middling card; only their ratios matter
# as soon as one job is done. The model's part, for Toybox and for a model of Stable Diffusion's size.
_SMALL_MODEL_S = {"cpu": 0.05, "cuda": 0.01}
_LARGE_MODEL_S = {"cpu": 10.0, "cuda": 0.15}
# The renderer's part, for 64 x 64 pixels and 64 samples a ray.
_RENDER_S = {"cpu": 0.06, "cuda": 0.008}
# Loading before the first step, and mesh, texture and files after the last.
_AROUND_S = 25.0
SMALL_MODEL = "toybox"
# What a machine did long ago tells less than what it did lately.
MAX_RECORDS = 5


class Record(NamedTuple):
    """A finished job of this machine."""

    preset: str
    seconds: float
    device: str = "cpu"
    """As the engine wrote it: "cpu", "cuda", "cuda:1"."""
    model: str = SMALL_MODEL
    n_steps: int = 0
    """Steps that were done; 0 = as many as the settings say."""
    overrides: Mapping[str, str] = MappingProxyType({})


class Estimate(NamedTuple):
    seconds: float
    is_guess: bool
    """Whether no job has been done here that tells."""

    def __str__(self) -> str:
        return f"about {rounded(self.seconds)}" + (" (guess)" if self.is_guess else "")


def expected(records: Sequence[Record], preset: str, overrides: Mapping[str, str], *, model: str, device: str = "") -> Estimate:
    """How long a job with these settings takes.

    Args:
        records: finished jobs of this machine, newest last.
        device: "cpu" or "cuda" where it is known; "" takes that of the newest record, else the CPU.
    Jobs of the same preset and model tell most; else those of the same model, scaled by what the settings cost.
    """
    kind = _kind(device) if device else _kind(records[-1].device) if records else "cpu"
    same = [r for r in records if r.model == model and _kind(r.device) == kind and r.seconds > 0 and r.preset.lower() in preset_names()]
    like = [record for record in same if record.preset.lower() == preset.lower()] or same
    now = _guess_s(preset, overrides, model, kind)
    if not like:
        return Estimate(now, is_guess=True)
    pace = statistics.median(
        record.seconds / _guess_s(record.preset, record.overrides, model, kind, record.n_steps) for record in like[-MAX_RECORDS:]
    )
    return Estimate(now * pace, is_guess=False)


def rounded(seconds: float) -> str:
    """A time as rough as an estimate is: "40 s", "3 min", "1 h 20 min"."""
    unit = 10 if seconds < 90 else 60 if seconds < 1200 else 300 if seconds < 7200 else 3600
    return duration(max(unit, round(seconds / unit) * unit)).removesuffix(" 0 min")


def _guess_s(preset: str, overrides: Mapping[str, str], model: str, kind: str, n_steps: int = 0) -> float:
    """Seconds on the machine that the constants are about."""

    def text(key: str) -> str:
        return value_of(key, preset, overrides)

    pixels = mean(text("render.size_px"), power=2) / 64**2
    samples = largest(text("render.n_samples")) / 64
    views = mean(text("training.batch_size")) * (n_steps or largest(text("training.n_steps")))
    model_s = (_SMALL_MODEL_S if model == SMALL_MODEL else _LARGE_MODEL_S)[kind]
    return _AROUND_S + views * (model_s + _RENDER_S[kind] * pixels * samples)


def _kind(device: str) -> str:
    return "cuda" if device.startswith(("cuda", "mps", "xpu")) else "cpu"


def cost_texts(
    records: Sequence[Record], preset: str, overrides: Mapping[str, str], *, model: str, vram_gb: float, device: str = ""
) -> tuple[str, ...]:
    """What stands beneath the quality: steps and pictures, texture and triangles, time and memory; each fits into the sidebar.

    `vram_gb` is what the model table says, 0 for a model that runs on a CPU.
    """
    size = sizes(preset, overrides)
    takes = str(expected(records, preset, overrides, model=model, device=device))
    memory = f"{vram_gb:g} GB VRAM" if vram_gb > 0 else "no VRAM"
    return (
        f"{size['steps']:,} steps \u00b7 pictures of {size['picture_px']} px",
        f"{size['texture_px']} px texture \u00b7 {size['faces']:,} triangles",
        f"{takes[:1].upper()}{takes[1:]} \u00b7 {memory}",
    )
