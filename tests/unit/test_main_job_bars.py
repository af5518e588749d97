"""One whole draft run, by the real engine process with Toybox, must meet the bars that benchmarks/main_job.py prints for 24 prompts."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.main_job import run_one


@pytest.mark.slow
def test_a_green_bottle_meets_the_bars(tmp_path: Path) -> None:
    """All bars but the wall time, which says more about what else the machine does; the benchmark shows that one."""
    run = run_one("a green bottle", "bottle", "green", argparse.Namespace(out=tmp_path, preset="draft"), 0, [])
    assert run.score is not None, (tmp_path / "bottle-0.log").read_text(encoding="utf-8")[-2000:]
    assert run.peak_gb <= 3
    assert run.score.iou >= 0.85
    assert run.score.clay_named >= 0.85
    assert run.score.named >= 0.9
    assert run.score.delta_e <= 12
    assert [run.stats[name] for name in ("open_edges", "black_texels", "uv_overlap")] == [0, 0, 0]
    assert run.stats["silhouette_iou"] >= 0.97
