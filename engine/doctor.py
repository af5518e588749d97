"""What can this machine do, and what is missing? Asked before anybody asks for help."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError
from engine.guidance.model_table import is_installed, model_folder, models
from engine.version import ENGINE_VERSION

NEEDED = (
    *("torch", "diffusers", "transformers", "tokenizers", "safetensors", "huggingface-hub", "filelock", "httpx2", "numpy", "scipy"),
    *("pillow", "trimesh", "xatlas", "fast-simplification", "av"),
)
# Each does its work alone; the other only does it too.
EITHER = (("PyMCubes", "scikit-image"),)
# CVE-2026-44513: older ones run code from a model folder.
MIN_DIFFUSERS = (0, 38)
MIN_MEMORY_BYTES = 4 << 30
MIN_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state`: "ok", "warning" (slower or less) or "missing" (no job runs)."""

    name: str
    state: str
    text: str
    fix: str = ""


def examine() -> list[Finding]:
    """All findings, in the order they are shown. Imports torch."""
    return [_python(), *_packages(), *_devices(), *_kernels(), _memory(), _disk(), *_models()]


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.platform()}, engine {ENGINE_VERSION}"
    if not (3, 11) <= sys.version_info < (3, 14):
        return Finding("Python", "missing", text, "Use Python 3.11, 3.12 or 3.13.")
    return Finding("Python", "ok", text)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> list[Finding]:
    install = "Run the set-up again, or: python -m pip install -r requirements/engine.txt"
    findings = []
    for name in NEEDED:
        version = _version(name)
        findings.append(Finding(name, "ok", version) if version else Finding(name, "missing", "is not installed", install))
        if name == "diffusers" and version and tuple(int(part) for part in version.split(".")[:2]) < MIN_DIFFUSERS:
            findings[-1] = Finding(name, "missing", f"{version} is older than 0.38 and runs code from model folders", install)
    for pair in EITHER:
        found = [f"{name} {version}" for name in pair if (version := _version(name))]
        name = " or ".join(pair)
        findings.append(Finding(name, "ok", ", ".join(found)) if found else Finding(name, "missing", "is not installed", install))
    return findings


def _devices() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [Finding("CPU", "ok", f"{cores} cores")]
    if importlib.util.find_spec("torch") is None:
        return findings
    import torch

    if not torch.cuda.is_available():
        fix = "Toybox runs well on a CPU; models with free prompts want a GPU and a torch build for it."
        return [*findings, Finding("GPU", "warning", "torch sees none", fix)]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        findings.append(Finding(f"GPU {i}", "ok", f"{torch.cuda.get_device_name(i)}, {free >> 20} of {total >> 20} MB free"))
    return findings


def _kernels() -> list[Finding]:
    """Which code each kernel runs as on each device, and why."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    from cuda_ext.cuda_source import kernel_names
    from cuda_ext.ops import find_backend

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    devices = {"CPU": torch.device("cpu"), **{f"GPU {i}": torch.device("cuda", i) for i in gpus}}
    findings, names = [], ", ".join(kernel_names())
    for name, device in devices.items():
        kernels, reason = find_backend(device)
        text = f"{names}: {'compiled' if kernels else 'plain torch'}, {reason}"
        fix = "" if kernels else "Everything works, somewhat slower."
        findings.append(Finding(f"kernels on {name}", "ok" if kernels else "warning", text, fix))
    return findings


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", "ok", "this system does not tell")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{total >> 20} MB"
    return (
        Finding("memory", "ok", text)
        if total >= MIN_MEMORY_BYTES
        else Finding("memory", "warning", text, "A draft needs 3 GB: close programs.")
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free >> 20} MB free in {Path.cwd()}"
    return Finding("disk", "ok", text) if free >= MIN_DISK_BYTES else Finding("disk", "warning", text, "Make room.")


def _models() -> list[Finding]:
    findings = []
    for i, model in enumerate(models().values()):
        if is_installed(model):
            findings.append(Finding(f"model {model.id}", "ok", str(model_folder(model))))
            continue
        try:
            model_folder(model)
        except UserError as error:
            findings.append(Finding(f"model {model.id}", "warning" if i else "missing", error.text, error.fix))
    return findings
