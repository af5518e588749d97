"""Which way of guiding makes the best objects? One row per method, on prompts whose objects are known.

    python -m benchmarks.quality --method "sds: --guidance.method sds" --method "image target:"
        [--prompts 6] [--seeds 2] [--preset draft] [--at-once 1] [--out scratch/quality] [engine options for all methods]

    python -m benchmarks.quality --clip FOLDER --model sd21-base --method ... [--free-prompts FILE]

The second form runs a model of free prompts, whose objects nobody knows, and a CLIP judges them (`benchmarks.clip_precision`).
A method is a name, a colon and the engine options that make it. Prints the table of docs/guidance.md in markdown. Results are
kept in --out/NAME; results that are already there are scored again, not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.main_job import PROMPTS, ROOT, Run, run_one
from benchmarks.score import read_mesh
from benchmarks.shape import ShapeScore, props_of, shape_score
from engine.errors import UserError


@dataclass(frozen=True)
class Method:
    """A row: its name, and the engine options that make it."""

    name: str
    options: tuple[str, ...]

    @property
    def folder(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class Outcome:
    """One run: what the main job measures, the shape (None: no mesh came out), and how often it had to start again."""

    run: Run
    shape: ShapeScore | None
    restarts: int


def parse_method(text: str) -> Method:
    name, colon, options = text.partition(":")
    if not colon or not Method(name, ()).folder:
        raise argparse.ArgumentTypeError(f'{text!r} is no method; write for example "sds: --guidance.method sds"')
    return Method(name.strip(), tuple(shlex.split(options)))


def outcome_of(prompt: tuple[str, str, str], seed: int, method: Method, out: Path, preset: str, extra: Sequence[str]) -> Outcome:
    """Run it, or take what is there, and score it."""
    folder = out / method.folder
    folder.mkdir(parents=True, exist_ok=True)
    # Overwrite: what an interrupted benchmark left is no collapse.
    run = run_one(*prompt, argparse.Namespace(out=folder, preset=preset), seed, [*extra, *method.options, "--overwrite"])
    noun = prompt[1]
    result = folder / f"{noun}-{seed}" / "result"
    if run.score is None:
        return Outcome(run, None, 0)
    mesh = read_mesh(result)
    restarts = json.loads((result / "result.json").read_text(encoding="utf-8"))["restarts"]
    return Outcome(run, shape_score(mesh.vertices, mesh.faces, props_of(noun)), restarts)


def table(rows: dict[str, list[Outcome]]) -> str:
    """Markdown: medians over the runs that brought a mesh; names and collapses as shares of all runs."""
    names = (
        "method",
        "volume IoU",
        "Chamfer",
        "silhouette IoU",
        "shape named",
        "and colour",
        "CIEDE2000",
        "collapsed",
        "restarted",
        "s",
        "GB",
    )
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    return "\n".join([*lines, *(_row(name, outcomes) for name, outcomes in rows.items())])


def _row(name: str, outcomes: list[Outcome]) -> str:
    made = [(one.shape, one.run.score) for one in outcomes if one.shape is not None and one.run.score is not None]
    n = len(outcomes)

    def median(values: list[float], form: str) -> str:
        numbers = [value for value in values if not math.isnan(value)]
        return format(statistics.median(numbers), form) if numbers else "-"

    cells = (
        median([shape.volume_iou for shape, _ in made], ".3f"),
        median([shape.chamfer for shape, _ in made], ".4f"),
        median([score.iou for _, score in made], ".3f"),
        f"{100 * sum(score.clay_named for _, score in made) / n:.0f} %",
        f"{100 * sum(score.named for _, score in made) / n:.0f} %",
        median([score.delta_e for _, score in made], ".1f"),
        f"{100 * (n - len(made)) / n:.0f} %",
        f"{100 * sum(one.restarts > 0 for one in outcomes) / n:.0f} %",
        median([one.run.wall_s for one in outcomes], ".0f"),
        format(max(one.run.peak_gb for one in outcomes), ".2f"),
    )
    return f"| {name} | " + " | ".join(cells) + " |"


def main(argv: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", type=parse_method, action="append", required=True, metavar='"NAME: OPTIONS"')
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--at-once", type=int, default=1, help="engines that run side by side; more than one spoils the times")
    parser.add_argument("--out", type=Path, default=ROOT / "scratch" / "quality")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP with safetensors that judges the results of free prompts")
    parser.add_argument("--free-prompts", type=Path, help="a prompt a line (default: sixteen of ours)")
    args, extra = parser.parse_known_args(argv)
    if len({method.folder for method in args.method}) < len(args.method):
        parser.error("two methods have the same name")
    if args.clip is not None:
        return _free_main(parser, args, extra, show)
    prompts = PROMPTS[: args.prompts]
    jobs = [(prompt, seed, method) for seed in range(args.seeds) for prompt in prompts for method in args.method]
    rows: dict[str, list[Outcome]] = {method.name: [] for method in args.method}
    with ThreadPoolExecutor(args.at_once) as pool:
        outcomes = pool.map(lambda job: outcome_of(*job, args.out, args.preset, extra), jobs)
        for (prompt, seed, method), outcome in zip(jobs, outcomes):
            rows[method.name].append(outcome)
            found = f"volume IoU {outcome.shape.volume_iou:.3f}" if outcome.shape else "no mesh"
            show(f"{method.name}: {prompt[0]}, seed {seed}: {outcome.run.wall_s:.0f} s, {found}")
    show(f"\n{len(prompts)} prompts, {args.seeds} seeds, preset {args.preset}. {' '.join(extra)}\n")
    show(table(rows))


def _free_main(parser: argparse.ArgumentParser, args: argparse.Namespace, extra: list[str], show: Callable[[str], None]) -> None:
    from benchmarks.clip_precision import FREE_PROMPTS, ClipJudge, FreeRun, free_table, run_free

    if not any(word.split("=")[0] == "--model" for word in extra):
        parser.error("free prompts need a model that takes them, for example --model sd21-base")
    try:
        lines = FREE_PROMPTS if args.free_prompts is None else args.free_prompts.read_text(encoding="utf-8").splitlines()
        judge = ClipJudge(args.clip)
    except (OSError, UserError) as error:
        parser.error(str(error))
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))[: args.prompts]
    if len(prompts) < 2:
        parser.error("R-Precision needs two different prompts at least, or there is nothing to mistake")
    rows: dict[str, list[FreeRun]] = {}
    for method in args.method:
        folder = args.out / method.folder
        folder.mkdir(parents=True, exist_ok=True)
        options = [*extra, *method.options, "--overwrite"]
        for seed in range(args.seeds):
            for own, prompt in enumerate(prompts):
                run = run_free(prompts, own, seed, folder, args.preset, options, judge)
                rows.setdefault(method.name, []).append(run)
                found = "no mesh" if run.color is None else f"found in {run.color:.0%} of its views, textureless in {run.clay:.0%}"
                show(f"{method.name}: {prompt}, seed {seed}: {run.wall_s:.0f} s, {found}")
    show(f"\n{len(prompts)} free prompts, {args.seeds} seeds, preset {args.preset}. {' '.join(extra)}\n")
    show(free_table(rows))


if __name__ == "__main__":
    main()
