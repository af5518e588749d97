"""The command line: python -m engine, then one of the commands that its --help lists. The only place that prints.

Exit codes: 0 done, 1 a fault of the engine, 2 something the user can mend (one sentence and the fix on stderr), 130 cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.after_training import export_job, render_job
from engine.cli_parser import parse
from engine.config import PICTURE_KINDS, needs_no_words, options
from engine.errors import UserError
from engine.job_folder import slug_of
from engine.picture_flags import picture_fields
from engine.progress_bar import ProgressBar
from engine.protocol import Event, Failed, JobRequest, Progress, encode
from engine.start_sphere import is_sphere
from engine.training.control import Control

if TYPE_CHECKING:
    from engine.model_store.progress import Step

CANCELLED_EXIT = 130


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    as_json = "--json" in argv
    try:
        arguments = parse(argv)
        if getattr(arguments, "debug", None) is not None:
            from engine.debugging import wait_for_debugger

            wait_for_debugger(arguments.debug, lambda text: print(text, file=sys.stderr, flush=True))
        return COMMANDS[arguments.command](arguments)
    except UserError as error:
        if as_json:
            print(encode(Failed(job="", code=error.code, text=error.text, fix=error.fix)), end="", flush=True)
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return CANCELLED_EXIT
    except BrokenPipeError:  # the reader of our output is gone, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _sample(arguments: argparse.Namespace) -> int:
    from engine.sample import SampleRequest, draw_samples

    names = [item.name for item in dataclasses.fields(SampleRequest)]
    request = SampleRequest(**{name: getattr(arguments, name) for name in names})
    out = Path(arguments.out) if arguments.out is not None else Path(f"{slug_of(request.prompt)}-pictures")

    def warn(text: str) -> None:
        if arguments.json:
            _print_json({"type": "warning", "text": text})
        else:
            print(f"Warning: {text}", file=sys.stderr)

    paths = [str(path) for path in draw_samples(request, out, warn)]
    if arguments.json:
        _print_json({"type": "done", "text": f"{len(paths)} pictures", "result": {"paths": paths}})
    else:
        print("\n".join(paths))
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    request = _request(arguments) if arguments.command == "generate" else _stage_request(arguments)
    if arguments.out is not None:
        out_dir = Path(arguments.out)
    elif request is not None:
        suffix = "-" + request.stage if request.stage != "generate" else "-more" if request.start_from else ""
        out_dir = Path(f"{slug_of(request.title)}-{request.seed}" + suffix)
    else:
        raise UserError("--resume needs to know which job.", "Say --out and its folder.", "option")
    return _run_with_terminal(request, out_dir, resume=arguments.resume, overwrite=arguments.overwrite, as_json=arguments.json)


# Flags of a job and the fields of a JobRequest that they fill.
_REQUEST_FLAGS = {
    "negative": "negative",
    "model": "model",
    "preset": "preset",
    "device": "device",
    "seed": "seed",
    "image": "reference_image",
    "init": "start_mesh",
    "start_from": "start_from",
}


def _given(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """Flags that were given, fields of a JobRequest that they fill, and settings."""
    flags = {flag: getattr(arguments, flag) for flag in _REQUEST_FLAGS if getattr(arguments, flag, None) is not None}
    fields: dict[str, Any] = {_REQUEST_FLAGS[flag]: value for flag, value in flags.items()}
    if "seed" in fields:
        fields["seed"] = _whole_number(fields["seed"])
    return list(flags), fields, {key: getattr(arguments, key) for key in options() if getattr(arguments, key) is not None}


def _refuse_with_resume(*names: str) -> None:
    if names:
        told = ", ".join("--" + name.replace("_", "-") for name in names)
        raise UserError(f"--resume continues a job with its own settings, so {told} has no effect.", "Leave it out.", "option")


def _stage_request(arguments: argparse.Namespace) -> JobRequest | None:
    """What a stage's command line asks for; None for a job that is resumed by its own words."""
    from engine.stages import stage_request

    flags, given, overrides = _given(arguments)
    if arguments.prompt is not None:
        flags, given["prompt"] = [*flags, "prompt"], arguments.prompt
    if arguments.resume:
        _refuse_with_resume(*flags, *overrides)
        return None
    if arguments.source is None:
        text = f"{arguments.command} needs a mesh to work on."
        raise UserError(text, f"Name a job folder or a mesh file, for example: {arguments.command} a-red-mug-0", "mesh")
    request = stage_request(arguments.command, Path(os.path.abspath(arguments.source)))
    return dataclasses.replace(request, **given, overrides=overrides)


def _request(arguments: argparse.Namespace) -> JobRequest | None:
    """What the command line asks for; None for a job that is resumed by its own words."""
    from engine.guidance.helpers import is_helper

    flags, given, overrides = _given(arguments)
    for name in ("start_from", "start_mesh"):
        if given.get(name) and not is_helper(given[name], "shap-e") and not is_sphere(given[name]):
            given[name] = os.path.abspath(given[name])  # the engine may stand elsewhere when it resumes
    if "reference_image" in given:
        fields, places = picture_fields(given.pop("reference_image"))
        given.update(fields)
        overrides = {**places, **overrides}
    if arguments.prompt is not None:
        return JobRequest(prompt=arguments.prompt, overrides=overrides, **given)
    if arguments.resume:
        _refuse_with_resume(*flags, *overrides)
        return None
    if arguments.start_from is not None:
        from engine.continuation import continued_request

        before = continued_request(Path(given["start_from"]))
        return dataclasses.replace(before, **given, overrides={**before.overrides, **overrides})
    if arguments.image is not None or needs_no_words(given.get("model", JobRequest.model)):
        return JobRequest(prompt="", overrides=overrides, **given)  # refused like an empty prompt, or a lacking picture, from anywhere else
    raise UserError("The prompt is missing.", 'Say what to make, for example: generate "a red mug".', "prompt")


def _run_with_terminal(request: JobRequest | None, out_dir: Path, *, resume: bool, overwrite: bool, as_json: bool) -> int:
    from engine.jobs import run_job

    control = Control()
    bar = ProgressBar(sys.stderr)

    def emit(event: Event) -> None:
        if as_json:
            print(encode(event), end="", flush=True)
        if not as_json or isinstance(event, Failed):
            bar.show(event)

    def interrupted(_signal: int, _frame: object) -> None:
        # The first asks for a mesh of what is there, the second for an end, the third ends at once.
        if control.cancelled:
            raise KeyboardInterrupt
        if control.finishing:
            control.cancel()
            bar.say("Cancelling. Continue later with --resume.")
        else:
            control.finish()
            bar.say("Finishing with what is there; once more cancels.")

    previous = signal.signal(signal.SIGINT, interrupted)
    try:
        return run_job(request, out_dir, emit, control, resume=resume, overwrite=overwrite)
    finally:
        signal.signal(signal.SIGINT, previous)
        bar.close()


def _whole_number(text: str, name: str = "seed", example: int = 0) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}, but must be a whole number.", f"Use --{name} {example}.", "option") from None


def _render(arguments: argparse.Namespace) -> int:
    job, out = Path(arguments.job), None if arguments.out is None else Path(arguments.out)
    kinds = [word.strip() for word in arguments.kinds.split(",")]
    if unknown := [word for word in kinds if word not in PICTURE_KINDS]:
        raise UserError(
            f"kinds holds {unknown[0]!r}, but knows {', '.join(PICTURE_KINDS)}.", "Leave --kinds out for all of them.", "option"
        )
    n_frames = None if arguments.frames is None else _whole_number(arguments.frames, "frames", 36)
    size = None if arguments.size is None else _whole_number(arguments.size, "size", 512)
    with _late_report(arguments.json) as (report, done):
        done(render_job(job, out, kinds=kinds, n_frames=n_frames, size=size, device=arguments.device, report=report))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    job, out = Path(arguments.job), None if arguments.out is None else Path(arguments.out)
    settings = {key: getattr(arguments, key) for key in options() if getattr(arguments, key, None) is not None}
    with _late_report(arguments.json) as (report, done):
        done(export_job(job, out, settings, device=arguments.device, report=report))
    return 0


@contextlib.contextmanager
def _late_report(as_json: bool) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[Path], None]]]:
    """What to call with progress, and with the folder at the end."""
    bar = ProgressBar(sys.stderr)

    def report(phase: str, step: int, of: int) -> None:
        if as_json:
            _print_json({"type": "progress", "phase": phase, "step": step, "of": of})
        else:
            bar.show(Progress(job="", phase=phase, step=step, of=of))

    def done(folder: Path) -> None:
        bar.close()
        if as_json:
            _print_json({"type": "done", "folder": str(folder)})
        else:
            print(folder)

    try:
        yield report, done
    finally:
        bar.close()


def _serve(arguments: argparse.Namespace) -> int:
    from engine.server import serve

    serve(arguments.parent_pid)
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from engine.guidance.model_records import models_root
    from engine.model_store import manage

    bar = ProgressBar(sys.stderr)

    def report(step: Step) -> None:
        if arguments.json:
            _print_json({"type": "progress", **asdict(step), "unit": "bytes"})
        else:
            text = f"{step.done / 1e6:,.0f} of {step.of / 1e6:,.0f} MB  {step.text}"
            bar.show(Progress(job="", phase=step.phase, step=step.done >> 20, of=step.of >> 20, text=text))

    def end(text: str, result: dict[str, object]) -> int:
        bar.close()
        if arguments.json:
            _print_json({"type": "done", "text": text, "result": result})
        else:
            print(text)
        return 0

    root = models_root()
    if arguments.action in (None, "list"):
        rows, helper_rows = manage.rows(root), manage.helper_rows(root)
        lines = [row.line for row in (*rows, *helper_rows)]
        found: dict[str, object] = {
            "models": [row.to_json() for row in rows],
            "helpers": [row.to_json() for row in helper_rows],
            "folder": str(root),
        }
        return end(f"{len(rows)} models" if arguments.json else "\n".join(lines), found)
    _end_early(arguments.end_with_stdin)
    try:
        if arguments.action == "download":
            text = _download(arguments.target, root, report)
        elif arguments.action == "add":
            record = manage.add(Path(arguments.target), arguments.name, root, report, like=arguments.like)
            text = f"{record.folder} is now called {record.id}. Use it: --model {record.id}"
        elif arguments.action == "remove":
            text = manage.remove(arguments.target, root, forget_source=arguments.forget)
        else:
            text = manage.check(arguments.target, root, report)
    except OSError as error:
        text = f"{error.filename or root} cannot be read or written ({error.strerror or error})."
        raise UserError(text, "Look at its permissions, or choose another models folder.", "disk") from error
    finally:
        bar.close()
    return end(text, {"id": arguments.target})


def _download(name: str, root: Path, report: Callable[[Step], None]) -> str:
    from engine.guidance.helpers import find_stored
    from engine.model_store.download import download

    return download(find_stored(name), root, report)


def _end_early(with_stdin: bool) -> None:
    """SIGTERM ends like Ctrl-C. With `with_stdin` the process also ends when its stdin does: Blender is gone then.

    It may end at any moment: what is fetched lies in a folder of its own until it is whole.
    """

    def interrupted(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)

    def follow() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os._exit(CANCELLED_EXIT)

    if with_stdin:
        threading.Thread(target=follow, name="stdin", daemon=True).start()


def _print_json(body: dict[str, object]) -> None:
    print(json.dumps(body), flush=True)


def _options(arguments: argparse.Namespace) -> int:
    from engine.option_list import option_list, option_list_text

    if arguments.json:
        print(option_list_text())
        return 0
    for row in option_list()["options"]:
        values = dict.fromkeys(row["values"].values())  # in order, each once
        print(f"--{row['key'].replace('_', '-'):<32} {' | '.join(values):<40} {row['help']}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from engine.doctor import examine

    findings = examine()
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        signs = {"ok": "ok      ", "warning": "warning ", "missing": "MISSING "}
        for finding in findings:
            print(f"{signs[finding.state]} {finding.name}: {finding.text}" + (f"  -> {finding.fix}" if finding.fix else ""))
    return 2 if any(finding.state == "missing" for finding in findings) else 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "generate": _generate,
    "texture": _generate,
    "refine": _generate,
    "serve": _serve,
    "sample": _sample,
    "render": _render,
    "export": _export,
    "models": _models,
    "options": _options,
    "doctor": _doctor,
}
