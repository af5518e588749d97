"""The main job's table: prompts through the real engine process, scored against the known props.

    python -m benchmarks.main_job [--prompts 24] [--seeds 3] [--preset draft] [--at-once 1] [--out scratch/main_job] [engine options]

Prints a line per run and the table of bars; draws gallery.png of the thumbnails. Results are kept in --out; runs that are already there
are scored again, not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
from PIL import Image

from benchmarks.classifier import load_classifier
from benchmarks.score import Score, prop_buffers, read_mesh, score

ROOT = Path(__file__).resolve().parent.parent

# 24 prompts: 24 different props, every colour, a material, three without a colour.
PROMPTS: tuple[tuple[str, str, str], ...] = (
    ("a red mug", "mug", "red"),
    ("a green bottle", "bottle", "green"),
    ("a blue teapot", "teapot", "blue"),
    ("a hamburger", "hamburger", "natural"),
    ("a white bowl", "bowl", "white"),
    ("a purple lamp", "lamp", "purple"),
    ("a brown chair", "chair", "brown"),
    ("a yellow table", "table", "yellow"),
    ("a turquoise vase", "vase", "turquoise"),
    ("a black book", "book", "black"),
    ("a golden bell", "bell", "golden"),
    ("an orange chest", "chest", "orange"),
    ("a gray barrel", "barrel", "gray"),
    ("a yellow car", "car", "yellow"),
    ("a red rocket", "rocket", "red"),
    ("a blue house", "house", "blue"),
    ("a tree", "tree", "natural"),
    ("a pink donut", "donut", "pink"),
    ("a green apple", "apple", "green"),
    ("a turquoise cupcake", "cupcake", "turquoise"),
    ("a snowman", "snowman", "natural"),
    ("a purple mushroom", "mushroom", "purple"),
    ("an orange pumpkin", "pumpkin", "orange"),
    ("a white hat", "hat", "white"),
)


@dataclass(frozen=True)
class Run:
    prompt: str
    wall_s: float
    peak_gb: float
    score: Score | None  # None: no mesh came out
    stats: dict[str, float]


def generate(arguments: list[str], out: Path) -> tuple[float, float]:
    """Run the engine's own process; returns wall seconds and the largest resident memory in GB of it and its children."""
    command = [sys.executable, "-m", "engine", "generate", *arguments, "--out", str(out), "--json"]
    start, peak = time.monotonic(), 0
    with (out.parent / f"{out.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.2)
        process.wait()
    return time.monotonic() - start, peak / 1e9


def run_one(prompt: str, noun: str, look: str, args: argparse.Namespace, seed: int, extra: list[str]) -> Run:
    out = args.out / f"{noun}-{seed}"
    measured = args.out / f"{noun}-{seed}.json"
    if not (out / "result" / "result.json").exists():
        settings = ["--model", "toybox", "--preset", args.preset, "--seed", str(seed)]
        wall, peak = generate([prompt, *settings, *extra], out)
        measured.write_text(json.dumps({"wall_s": wall, "peak_gb": peak}), encoding="utf-8")
    cost = json.loads(measured.read_text(encoding="utf-8"))
    if not (out / "result" / "result.json").exists():
        return Run(prompt, cost["wall_s"], cost["peak_gb"], None, {})
    stats = json.loads((out / "result" / "result.json").read_text(encoding="utf-8"))["stats"]
    judged = score(read_mesh(out / "result"), noun, look, load_classifier(), prop_buffers(noun))
    return Run(prompt, cost["wall_s"], cost["peak_gb"], judged, stats)


def print_table(runs: list[Run]) -> None:
    good = [run for run in runs if run.score is not None]
    scores = [run.score for run in good if run.score is not None]
    errors = [s.delta_e for s in scores if not math.isnan(s.delta_e)]

    def worst(name: str) -> float:
        return max((run.stats.get(name, math.nan) for run in good), default=math.nan)

    rows = (
        (
            "engine wall time, s, median (slowest)",
            "120",
            f"{statistics.median(r.wall_s for r in runs):.0f} ({max(r.wall_s for r in runs):.0f})",
        ),
        ("peak memory, GB, largest", "3", f"{max(r.peak_gb for r in runs):.2f}"),
        ("silhouette IoU, median", ">= 0.85", f"{statistics.median(s.iou for s in scores):.3f}" if scores else "-"),
        ("silhouette IoU, worst", ">= 0.60", f"{min(s.iou for s in scores):.3f}" if scores else "-"),
        ("textureless: prop named", ">= 85 %", f"{100 * statistics.mean(s.clay_named for s in scores):.1f} %" if scores else "-"),
        ("coloured: prop and colour named", ">= 90 %", f"{100 * statistics.mean(s.named for s in scores):.1f} %" if scores else "-"),
        ("albedo error, CIEDE2000, median", "<= 12", f"{statistics.median(errors):.1f}" if errors else "-"),
        ("collapsed runs", "0", str(len(runs) - len(good))),
        ("open edges, most", "0", f"{worst('open_edges'):.0f}"),
        ("texels left black, most", "0", f"{worst('black_texels'):.0f}"),
        ("UV overlap, most", "0", f"{worst('uv_overlap'):.0f}"),
        (
            "mesh against field silhouette IoU, worst",
            ">= 0.97",
            f"{min((r.stats.get('silhouette_iou', math.nan) for r in good), default=math.nan):.3f}",
        ),
    )
    print(f"\n{'':44}{'bar':>10}{'measured':>14}")
    for name, bar, value in rows:
        print(f"{name:44}{bar:>10}{value:>14}")


def draw_gallery(out: Path, *, columns: int = 8, size: int = 160) -> None:
    """The thumbnails of the first seed's results in one picture."""
    thumbnails = [out / f"{noun}-0" / "result" / "thumbnail.png" for _, noun, _ in PROMPTS]
    found = [path for path in thumbnails if path.exists()]
    sheet = Image.new("RGB", (columns * size, -(-len(found) // columns) * size), "white")
    for i, path in enumerate(found):
        sheet.paste(Image.open(path).convert("RGB").resize((size, size)), (i % columns * size, i // columns * size))
    sheet.save(out / "gallery.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="The main job's table.")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--at-once", type=int, default=1, help="engines that run side by side; more than one spoils the wall times")
    parser.add_argument("--out", type=Path, default=ROOT / "scratch" / "main_job")
    args, extra = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = [(prompt, noun, look, seed) for seed in range(args.seeds) for prompt, noun, look in PROMPTS[: args.prompts]]
    runs = []
    with ThreadPoolExecutor(args.at_once) as pool:
        waiting = pool.map(lambda job: (job, run_one(*job[:3], args, job[3], extra)), jobs)
        for (prompt, _, _, seed), run in waiting:
            runs.append(run)
            s = run.score
            found = "no mesh" if s is None else f"IoU {s.iou:.3f}  clay {s.clay_named:.2f}  named {s.named:.2f}  dE {s.delta_e:5.1f}"
            print(f"{prompt:24} seed {seed}  {run.wall_s:5.0f} s  {run.peak_gb:.2f} GB  {found}", flush=True)
    if args.at_once > 1:
        print(f"\n{args.at_once} engines ran at once: a wall time is not that of one alone.")
    print_table(runs)
    draw_gallery(args.out)


if __name__ == "__main__":
    main()
