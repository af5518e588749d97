"""The command line: python -m engine, then one of the commands that its --help lists. The only place that prints.

Exit codes: 0 done, 1 a fault of the engine, 2 something the user can mend (one sentence and the fix on stderr), 130 cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.after_training import LATE_GROUPS, export_job, render_job
from engine.config import PICTURE_KINDS, PRESETS, Option, options
from engine.errors import UserError
from engine.job_folder import slug_of
from engine.picture_flags import picture_fields
from engine.progress_bar import ProgressBar
from engine.protocol import Event, Failed, JobRequest, Progress, encode
from engine.training.control import Control
from engine.version import ENGINE_VERSION

if TYPE_CHECKING:
    from engine.model_store.progress import Step

CANCELLED_EXIT = 130
# Settings that have a name of their own on the command line.
SHORT_FLAGS = {"model.vram": ("--vram",), "model.lora": ("--lora",)}


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    as_json = "--json" in argv
    try:
        arguments = _parser().parse_args(_joined(argv))
        if getattr(arguments, "debug", None) is not None:
            from engine.debugging import wait_for_debugger

            wait_for_debugger(arguments.debug, lambda text: print(text, file=sys.stderr, flush=True))
        return int(arguments.run(arguments))
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


class _Parser(argparse.ArgumentParser):
    """Raises UserError with the nearest name instead of printing a page of usage."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            given = unknown.group(1).split("=")[0]
            known = list(self._option_string_actions)
            for action in self._subparsers._group_actions if self._subparsers else ():  # the options are the command's
                for parser in dict(action.choices or {}).values():  # type: ignore[call-overload]
                    known += [flag for flag in parser._option_string_actions if flag not in known]
            near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
            fix = f"Did you mean {near[0]}?" if near else "All options: python -m engine generate --help"
            raise UserError(f"There is no option {given!r}.", fix, "option")
        message = re.sub(r"^argument (\S+): ", r"\1: ", message)
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"See: {self.prog} --help", "option")


def _joined(argv: Sequence[str]) -> list[str]:
    """`--camera.elevation_deg -10,60` as `--camera.elevation-deg=-10,60`: argparse takes a value with a minus for an option."""
    result: list[str] = []
    flags = {option.flag for option in options().values()}
    waiting = False
    for word in argv:
        if waiting and re.match(r"-[\d.]", word):
            result[-1] += "=" + word
            waiting = False
            continue
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-") if name.startswith("--") else name
        waiting = flag in flags and not equals
        result.append(flag + equals + value)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m engine", description="Text to textured mesh by score distillation.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=ENGINE_VERSION)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="command")

    generate = commands.add_parser("generate", help="make a mesh from a prompt", allow_abbrev=False)
    generate.set_defaults(run=_generate)
    generate.add_argument("prompt", nargs="?", default=None, help='what to make, for example "a red mug"; with --resume it may be left out')
    _add_job_options(generate)
    generate.add_argument(
        "--image",
        action="append",
        default=None,
        metavar="FILE[,azimuth=DEG,elevation=DEG,weight=W,depth=FILE,normal=FILE]",
        help="picture to follow: PNG, JPG or WebP, with alpha or before a plain background; again for pictures from other sides",
    )
    generate.add_argument(
        "--start-from", default=None, metavar="JOB", help="job folder to go on from with more steps; what is left out is as it was there"
    )
    generate.add_argument("--init", default=None, metavar="MESH", help="mesh file whose shape and colors the field starts with")
    _add_settings(generate)

    for stage, text in (("texture", "give a mesh a new texture"), ("refine", "work a mesh's shape and color out under the prompt")):
        stage_parser = commands.add_parser(stage, help=text, allow_abbrev=False)
        stage_parser.set_defaults(run=_generate)
        stage_parser.add_argument(
            "source", nargs="?", default=None, help="folder of a finished job, or a mesh file (OBJ, GLB, PLY, STL, OFF)"
        )
        stage_parser.add_argument("--prompt", default=None, help="what it is (default for a job folder: that job's prompt)")
        _add_job_options(stage_parser)
        _add_settings(stage_parser)

    serve = commands.add_parser("serve", help="take commands as JSON lines on stdin (for Blender)", allow_abbrev=False)
    serve.set_defaults(run=_serve)
    serve.add_argument("--debug", type=int, default=None, metavar="PORT", help="wait for a debugger to attach first (debugpy)")
    serve.add_argument("--parent-pid", type=int, default=0, help="end when this process ends")

    _add_sample_parser(commands)
    _add_late_parsers(commands)
    _add_models_parser(commands)

    option_list = commands.add_parser("options", help="every setting with its values in each preset", allow_abbrev=False)
    option_list.set_defaults(run=_options)
    option_list.add_argument("--json", action="store_true", help="as JSON")

    doctor = commands.add_parser("doctor", help="say what this machine can do and what is missing", allow_abbrev=False)
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _add_sample_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    sample = commands.add_parser("sample", help="draw pictures with the model that would guide a job", allow_abbrev=False)
    sample.set_defaults(run=_sample)
    sample.add_argument("prompt", help='what to draw, for example "a red mug"')
    sample.add_argument("--negative", default="", help="what it must not look like")
    sample.add_argument("--model", default="toybox", help="as for generate (default: toybox)")
    sample.add_argument(
        "--view", default="front", help='the view a job would ask for, "back" or "left side" for example; "none": the prompt alone'
    )
    sample.add_argument("--number", type=int, default=4, help="how many pictures (default: 4)")
    sample.add_argument("--steps", type=int, default=30, help="denoising steps (default: 30)")
    sample.add_argument("--guidance-scale", type=float, default=None, help="strength of the prompt (default: 7.5, toybox 3)")
    sample.add_argument("--height", type=int, default=0, help="pixels (default: the model's)")
    sample.add_argument("--width", type=int, default=0, help="pixels (default: the model's)")
    sample.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures on the same machine (default: 0)")
    sample.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    sample.add_argument("--vram", default="normal", help="low, normal or high (default: normal)")
    sample.add_argument("--lora", default="", help="LoRA files to put on top, FILE or FILE:SCALE, with commas between")
    sample.add_argument("--control-net", default="", help="folder of a ControlNet for depth or normals, with --control-image")
    sample.add_argument("--control-image", default="", help="picture of the surface's depth or normals, with --control-net")
    sample.add_argument("--control-scale", type=float, default=1.0, help="how strongly the ControlNet acts, 0 to 2 (default: 1)")
    sample.add_argument("--out", default=None, help="folder of the pictures (default: named after the prompt)")
    sample.add_argument("--json", action="store_true", help="JSON lines; the last one is done or failed")


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


def _add_late_parsers(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    render = commands.add_parser("render", help="videos and six views of a job's last checkpoint", allow_abbrev=False)
    render.set_defaults(run=_render)
    render.add_argument("--kinds", default=",".join(PICTURE_KINDS), help="what they show, with commas between (default: %(default)s)")
    render.add_argument("--frames", default=None, help="frames of a turn, 0 makes no videos (default: the job's)")
    render.add_argument("--size", default=None, help="width and height in pixels (default: the job's turntable)")

    export = commands.add_parser("export", help="a job's mesh again with other settings, without training", allow_abbrev=False)
    export.set_defaults(run=_export)
    for option in options().values():
        if option.group in LATE_GROUPS:
            export.add_argument(option.flag, dest=option.key, default=None, metavar=_metavar(option), help=option.help.replace("%", "%%"))

    for parser in (render, export):
        parser.add_argument("job", help="folder of the job")
        parser.add_argument("--out", default=None, help="new folder (default: the next number in the job's renders or exports)")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
        parser.add_argument("--json", action="store_true", help="print JSON lines; the last one is done or failed")


def _add_models_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    models = commands.add_parser("models", help="list, fetch, add, remove and check models", allow_abbrev=False)
    models.set_defaults(run=_models)
    actions = models.add_subparsers(dest="action", metavar="action", parser_class=_Parser)
    for action, target, text in (
        ("list", "", "every model, and whether it is here (the default)"),
        ("download", "id", "fetch a model, or mend a damaged one; goes on where it stopped"),
        ("add", "folder", "let a folder in Stable Diffusion's layout, or a .safetensors file, go by a name"),
        ("remove", "id", "delete a fetched model, or forget an added one"),
        ("check", "id", "compare every file of a model with its hash"),
    ):
        parser = actions.add_parser(action, help=text, allow_abbrev=False)
        if target:
            parser.add_argument("target", metavar=target)
        if action == "add":
            parser.add_argument("--name", default="", help="the id it will have (default: the folder's name)")
            parser.add_argument("--like", default="", metavar="ID", help="for a file: the model whose settings it takes")
        parser.add_argument("--json", action="store_true", help="JSON lines; the last one is done or failed")
        parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin ends (for Blender)")
    models.add_argument("--json", action="store_true", help="JSON lines; the last one is done or failed")


def _metavar(option: Option) -> str:
    return option.name.upper()


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    """What every kind of job can be told beside its settings."""
    parser.add_argument("--negative", default=None, help="what it must not look like")
    parser.add_argument("--model", default=None, help="id of the model table, or a folder in Stable Diffusion's layout (default: toybox)")
    parser.add_argument("--preset", default=None, help=f"{', '.join(PRESETS)} (default: draft)")
    parser.add_argument("--seed", default=None, help="the same seed gives the same run on the same machine (default: 0)")
    parser.add_argument("--device", default=None, help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--out", default=None, help="job folder, made if it is missing (default: named after the prompt)")
    parser.add_argument("--resume", action="store_true", help="continue from the folder's last checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace a job that lies in the folder")
    parser.add_argument("--json", action="store_true", help="print events as JSON lines on stdout")
    parser.add_argument("--debug", type=int, default=None, metavar="PORT", help="wait for a debugger to attach first (debugpy)")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = None
    for option in options().values():
        if group is None or group.title != option.group:
            group = parser.add_argument_group(option.group)
        names = [option.flag, *SHORT_FLAGS.get(option.key, ())]
        group.add_argument(*names, dest=option.key, default=None, metavar=_metavar(option), help=option.help.replace("%", "%%"))


def _generate(arguments: argparse.Namespace) -> int:
    request = _request(arguments) if arguments.command == "generate" else _stage_request(arguments)
    if arguments.out is not None:
        out_dir = Path(arguments.out)
    elif request is not None:
        suffix = "-" + request.stage if request.stage != "generate" else "-more" if request.start_from else ""
        out_dir = Path(f"{slug_of(request.prompt)}-{request.seed}" + suffix)
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
    flags, given, overrides = _given(arguments)
    for name in ("start_from", "start_mesh"):
        if given.get(name):
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
    if arguments.image is not None:
        return JobRequest(prompt="", overrides=overrides, **given)  # refused like an empty prompt with a picture from anywhere else
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
        rows = manage.rows(root)
        lines = [f"{row.model.id:<12} {row.origin or '-':<10} {row.model.title} ({row.model.licence}). {row.model.note}" for row in rows]
        return end(
            f"{len(rows)} models" if arguments.json else "\n".join(lines), {"models": [row.to_json() for row in rows], "folder": str(root)}
        )
    _end_early(arguments.end_with_stdin)
    try:
        if arguments.action == "download":
            text = _download(arguments.target, root, report)
        elif arguments.action == "add":
            record = manage.add(Path(arguments.target), arguments.name, root, report, like=arguments.like)
            text = f"{record.folder} is now called {record.id}. Use it: --model {record.id}"
        elif arguments.action == "remove":
            text = manage.remove(arguments.target, root)
        else:
            text = manage.check(arguments.target, root, report)
    except OSError as error:
        text = f"{error.filename or root} cannot be read or written ({error.strerror or error})."
        raise UserError(text, "Look at its permissions, or choose another models folder.", "disk") from error
    finally:
        bar.close()
    return end(text, {"id": arguments.target})


def _download(name: str, root: Path, report: Callable[[Step], None]) -> str:
    from engine.guidance.model_table import find_model
    from engine.model_store.download import download

    return download(find_model(name), root, report)


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
