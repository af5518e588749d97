"""What can be typed after `python -m engine`: commands, options, and a sentence for what is none of them. Runs and prints nothing."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from engine.after_training import LATE_GROUPS
from engine.config import PICTURE_KINDS, PRESETS, Option, options
from engine.errors import UserError
from engine.version import ENGINE_VERSION

# Settings that have a name of their own on the command line.
SHORT_FLAGS = {
    "model.vram": ("--vram",),
    "model.lora": ("--lora",),
    "model.control_net": ("--control-net",),
    "model.control_kind": ("--control-kind",),
    "model.control_scale": ("--control-scale",),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """`command` and what belongs to it. Raises UserError, code "option"."""
    return _parser().parse_args(_joined(argv))


class _Parser(argparse.ArgumentParser):
    """Raises UserError with the nearest name instead of printing a page of usage."""

    command = ""

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        self.command = args[0] if args else ""
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (\S+)", message)
        if unknown:
            given = unknown.group(1).split("=")[0]
            raise UserError(f"There is no option {given!r}.", self._way_to(given), "option")
        message = re.sub(r"^argument (\S+): ", r"\1: ", message)
        raise UserError(f"{message[:1].upper()}{message[1:]}.", f"See: {self.prog} --help", "option")

    def _way_to(self, given: str) -> str:
        """Where an option that a command does not have may be found."""
        groups = self._subparsers._group_actions if self._subparsers else ()
        commands = {name: parser._option_string_actions for action in groups for name, parser in dict(action.choices or {}).items()}  # type: ignore[call-overload]
        own = commands.get(self.command, {})
        others = [name for name, flags in commands.items() if given in flags]
        if others:
            return f"It is one of {' and '.join(others[:2])}. Those of this command: python -m engine {self.command} --help"
        near = difflib.get_close_matches(given, [*self._option_string_actions, *own], n=1, cutoff=0.5)
        return f"Did you mean {near[0]}?" if near else f"All options: python -m engine {self.command or 'generate'} --help"


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
    generate.add_argument(
        "--init",
        default=None,
        metavar="MESH",
        help='what the field starts with: a mesh file, "sphere" (or "sphere:RADIUS"), or "shap-e" (or its folder), drawn from the prompt',
    )
    _add_settings(generate)

    for stage, text in (("texture", "give a mesh a new texture"), ("refine", "work a mesh's shape and color out under the prompt")):
        stage_parser = commands.add_parser(stage, help=text, allow_abbrev=False)
        stage_parser.add_argument(
            "source", nargs="?", default=None, help="folder of a finished job, or a mesh file (OBJ, GLB, PLY, STL, OFF)"
        )
        stage_parser.add_argument("--prompt", default=None, help="what it is (default for a job folder: that job's prompt)")
        _add_job_options(stage_parser)
        _add_settings(stage_parser)

    serve = commands.add_parser("serve", help="take commands as JSON lines on stdin (for Blender)", allow_abbrev=False)
    serve.add_argument("--debug", type=int, default=None, metavar="PORT", help="wait for a debugger to attach first (debugpy)")
    serve.add_argument("--parent-pid", type=int, default=0, help="end when this process ends")

    _add_sample_parser(commands)
    _add_late_parsers(commands)
    _add_models_parser(commands)

    option_list = commands.add_parser("options", help="every setting with its values in each preset", allow_abbrev=False)
    option_list.add_argument("--json", action="store_true", help="as JSON")

    doctor = commands.add_parser("doctor", help="say what this machine can do and what is missing", allow_abbrev=False)
    doctor.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _add_sample_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    sample = commands.add_parser("sample", help="draw pictures with the model that would guide a job", allow_abbrev=False)
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
    sample.add_argument("--control-net", default="", help="a ControlNet for depth or normals, by its name or folder, with --control-image")
    sample.add_argument("--control-image", default="", help="picture of the surface's depth or normals, with --control-net")
    sample.add_argument("--control-scale", type=float, default=1.0, help="how strongly the ControlNet acts, 0 to 2 (default: 1)")
    sample.add_argument("--out", default=None, help="folder of the pictures (default: named after the prompt)")
    sample.add_argument("--json", action="store_true", help="JSON lines; the last one is done or failed")


def _add_late_parsers(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    render = commands.add_parser("render", help="videos and six views of a job's last checkpoint", allow_abbrev=False)
    render.add_argument("--kinds", default=",".join(PICTURE_KINDS), help="what they show, with commas between (default: %(default)s)")
    render.add_argument("--frames", default=None, help="frames of a turn, 0 makes no videos (default: the job's)")
    render.add_argument("--size", default=None, help="width and height in pixels (default: the job's turntable)")

    export = commands.add_parser("export", help="a job's mesh again with other settings, without training", allow_abbrev=False)
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
        if action == "remove":
            parser.add_argument("--forget", action="store_true", help="trust what an unpinned source holds now")
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
