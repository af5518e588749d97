"""The messages between the engine and whoever runs it (Blender, the command line, a farm). Standard library only.

One message is one line: a JSON object in UTF-8 with a "type", ended by a newline, at most MAX_LINE_BYTES long.
Events go from the engine to its user on stdout, commands go the other way on the engine's stdin.

    engine                                   user
      hello                          ->
                                     <-      generate {job, request, out_dir}
      heartbeat {job, state}         ->      (each second, also while a model loads)
      progress, preview,             ->
        proxy, plan, warning
                                     <-      pause, resume, set_view, clear_view, set_proxy, finish_now, cancel   (at any time)
      result {job, folder}           ->      or  failed {job, code, text, fix}: exactly one of the two ends a job
                                     <-      shutdown, or end of stdin: the engine ends

Every message but hello and shutdown names its job. A type or a field that the reader does not know is ignored, a field
that the writer does not know yet takes its default: so each side may be one version older or newer. PROTOCOL_VERSION
rises only if that is not enough, and then the two refuse each other by text (`check_hello`).
Arrays never cross: they are files in the job folder, written under another name and renamed; messages carry their path.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROTOCOL_VERSION = 1
# Far above any honest message; a line beyond it is a bug or an attack and must not fill Blender's memory.
MAX_LINE_BYTES = 1 << 20

# What a job does, in order, as a user sees it; `progress.phase` is one of them.
PHASES = ("load", "train", "mesh", "texture", "export")
# `failed.code` of a job that was cancelled on request: not an error.
CANCELLED = "cancelled"


class ProtocolError(ValueError):
    """A line that is no message: not JSON, too long, a field missing or of another type."""


@dataclass(frozen=True, kw_only=True)
class FurtherView:
    """One more picture of the object, from another side."""

    image: str
    """Absolute path, as JobRequest.reference_image."""
    azimuth_deg: float
    """From where it was taken: 0 is the front, 90 the object's left side. -180..180."""
    elevation_deg: float = 0.0
    """From how high. -90..90."""
    weight: float = 1.0
    """How much it counts against the others. 0..1000."""
    depth: str = ""
    """Absolute path of its depth map; empty: none."""
    normal: str = ""
    """Absolute path of its normal map; empty: none."""


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a user asks for. Values are checked by `engine.config`, so that both ways in give the same error."""

    prompt: str
    """What to make, in words."""
    negative: str = ""
    """What it must not look like, in words."""
    model: str = "toybox"
    """Id in the model table, or a folder in diffusers' layout."""
    preset: str = "draft"
    """Named settings to start from."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Settings that differ from the preset: option name ("guidance.guidance_scale") to value as text ("30")."""
    seed: int = 0
    """The same seed gives the same run on the same machine. 0..2**31-1."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N"."""
    reference_image: str = ""
    """Absolute path of a picture to follow: PNG, JPG or WebP, with alpha or before a plain background; empty: none."""
    reference_depth: str = ""
    """Absolute path of that picture's depth map, as large as the picture, 8 or 16 bits of gray; empty: none."""
    reference_normal: str = ""
    """Absolute path of that picture's normal map: red right, green up, blue towards the camera; empty: none."""
    further_views: tuple[FurtherView, ...] = ()
    """More pictures of the same object. They need a first one."""
    start_mesh: str = ""
    """Absolute path of a mesh file: what texture and refine work on, what generate grows its field from; empty: none. For generate
    also "sphere" or "sphere:RADIUS", and "shap-e" or the folder of such a model, which draws the mesh from the prompt."""
    start_from: str = ""
    """Absolute path of a job folder: generate goes on from its last checkpoint, texture and refine from its mesh; empty: none."""
    stage: str = "generate"
    """What kind of job: "generate" a mesh, "refine" the shape of one, or give one a new "texture"."""

    @property
    def title(self) -> str:
        """What people and files call the job: its prompt, without one the name of its picture; "" without either."""
        if self.prompt.strip() or not self.reference_image:
            return self.prompt
        *folders, name = re.split(r"[/\\]", self.reference_image)
        return folders[-1] if folders and name == kept_name(0) else Path(name).stem  # a copy is called after the job it lies in


def kept_name(place: int, kind: str = "") -> str:
    """What a job's folder calls its copy of picture `place` (0 is the first) or of its map, "depth" or "normal"."""
    return "-".join(["reference", *([str(place + 1)] if place else []), *([kind] if kind else [])]) + ".png"


def with_kept_pictures(request: JobRequest, folder: str) -> JobRequest:
    """The request with the copies that a job's folder keeps in the place of its pictures: the originals may be gone."""

    def kept(path: str, place: int, kind: str = "") -> str:
        return str(Path(folder) / kept_name(place, kind)) if path else ""

    views = tuple(
        dataclasses.replace(view, image=kept(view.image, i), depth=kept(view.depth, i, "depth"), normal=kept(view.normal, i, "normal"))
        for i, view in enumerate(request.further_views, 1)
    )
    return dataclasses.replace(
        request,
        reference_image=kept(request.reference_image, 0),
        reference_depth=kept(request.reference_depth, 0, "depth"),
        reference_normal=kept(request.reference_normal, 0, "normal"),
        further_views=views,
    )


@dataclass(frozen=True, kw_only=True)
class Hello:
    """First line of the engine, before anything is loaded."""

    protocol: int = PROTOCOL_VERSION
    engine: str
    """Version of the engine."""
    pid: int
    """Process id of the engine."""


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Each second while the engine lives, also while it loads. Three missing in a row: it hangs or is gone."""

    job: str = ""
    """The running job; empty: none."""
    state: str = "idle"
    """"idle", "busy" or "paused"."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    job: str
    phase: str
    """One of PHASES."""
    step: int
    """Steps done."""
    of: int
    """Steps of this phase; 0 if not known."""
    seconds_per_step: float = 0.0
    eta_s: float = -1.0
    """Seconds until the job is done; negative if not known."""
    text: str = ""
    """What is going on, in a few words; may be empty."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A new picture. The file is complete when this line is sent; it is replaced, never changed in place."""

    job: str
    path: str
    """Absolute path of a PNG inside the job folder; of a "camera" view with straight alpha. The last few are kept."""
    view: str = "turn"
    """"turn" (a turntable angle, these go on all the time) or "camera" (the view of a set_view)."""
    step: int = 0
    number: int = 0
    """Of a "camera" view: the `number` of its set_view, so that a picture is never taken for one of another view."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A light mesh of the object as it is now, after set_proxy. The file is complete and is never changed in place."""

    job: str
    path: str
    """Absolute path of an .npz inside the job folder: vertices f32 [V, 3] in the object frame of `SetView`, faces i32 [F, 3],
    colors f32 [V, 3] in 0..1, sRGB-encoded."""
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Warn:
    """Something the user should know; the job goes on. Type "warning" on the line."""

    job: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the job will take, once its model is loaded and before it trains; again if it starts over with less memory."""

    job: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """The job is done and its result folder complete."""

    job: str
    folder: str
    """Absolute path of the result folder (mesh.npz, albedo.png, result.json, ...)."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job ended without a result. What is in the job folder can be resumed unless `code` says "output"."""

    job: str
    code: str
    text: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Start a job. One at a time: a second one while the first runs is answered by failed with code "busy"."""

    job: str
    request: JobRequest
    out_dir: str
    """Absolute path of the job folder; made if it is missing."""
    resume: bool = False
    """Continue from the folder's last checkpoint if there is one."""


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """End without a result, as soon as the step is done."""

    job: str


@dataclass(frozen=True, kw_only=True)
class Pause:
    job: str


@dataclass(frozen=True, kw_only=True)
class Resume:
    job: str


@dataclass(frozen=True, kw_only=True)
class FinishNow:
    """Stop training and make the mesh of what is there."""

    job: str


@dataclass(frozen=True, kw_only=True)
class SetView:
    """Render previews through this camera from now on, too. Numbers are as in engine.scene.cameras.Cameras."""

    job: str
    camera_to_world: tuple[float, ...]
    """16 numbers, row by row; rigid, Blender's camera axes, in the space that `frame` names."""
    window: tuple[float, ...]
    """Left, right, bottom, top edge of the picture at distance 1 (orthographic: in units of `frame`)."""
    orthographic: bool = False
    width_px: int = 128
    """Wanted; the engine takes fewer pixels of the same aspect where these would cost too much time."""
    height_px: int = 128
    frame: str = "field"
    """"field": the engine's own space, the object somewhere in [-1, 1]^3. "object": origin at the middle of the object's
    bottom, one unit = its height, Z up, front -Y; the engine maps it with the object's present size, so that what stands in
    the preview is where the mesh will stand."""
    every_s: float = 0.0
    """A new picture at least this often, though the view stays; 0: as often as the turning ones."""
    clip_start: float = 0.0
    """Nothing nearer to the camera plane than this is seen, in units of `frame`."""
    clip_end: float = 0.0
    """Nothing farther than this is seen, in units of `frame`; 0: no end."""
    number: int = 0
    """Comes back in the previews of this view."""


@dataclass(frozen=True, kw_only=True)
class ClearView:
    """No more pictures of the view that was set."""

    job: str


@dataclass(frozen=True, kw_only=True)
class SetProxy:
    """Send a proxy now and every so many seconds."""

    job: str
    every_s: float
    """0: no more."""


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """End the engine; a running job is cancelled and can be resumed."""


Event = Hello | Heartbeat | Progress | Preview | Proxy | Plan | Warn | Result | Failed
Command = Generate | Cancel | Pause | Resume | FinishNow | SetView | ClearView | SetProxy | Shutdown
Message = Event | Command

EVENTS: dict[str, type] = {
    "hello": Hello,
    "heartbeat": Heartbeat,
    "progress": Progress,
    "preview": Preview,
    "proxy": Proxy,
    "plan": Plan,
    "warning": Warn,
    "result": Result,
    "failed": Failed,
}
COMMANDS: dict[str, type] = {
    "generate": Generate,
    "cancel": Cancel,
    "pause": Pause,
    "resume": Resume,
    "finish_now": FinishNow,
    "set_view": SetView,
    "clear_view": ClearView,
    "set_proxy": SetProxy,
    "shutdown": Shutdown,
}
_NAME_OF = {cls: name for table in (EVENTS, COMMANDS) for name, cls in table.items()}
# Lengths that a reader relies on.
_LENGTHS: dict[tuple[type, str], int] = {(SetView, "camera_to_world"): 16, (SetView, "window"): 4}


def encode(message: Message) -> str:
    """One line, newline at its end.

    Raises: ProtocolError if a number is not finite or the line would be longer than MAX_LINE_BYTES.
    """
    body = {"type": _NAME_OF[type(message)], **dataclasses.asdict(message)}
    try:
        line = json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"
    except ValueError as error:
        raise ProtocolError(f"{body['type']} holds a number that is not finite") from error
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"{body['type']} is {len(line)} bytes long, at most {MAX_LINE_BYTES} are allowed")
    return line


def decode_event(line: str | bytes) -> Event | None:
    """The event on this line; None for a type of a newer engine. Raises: ProtocolError."""
    return _decode(line, EVENTS)


def decode_command(line: str | bytes) -> Command | None:
    """The command on this line; None for a type of a newer user. Raises: ProtocolError."""
    return _decode(line, COMMANDS)


def check_hello(hello: Hello) -> None:
    """Raise ProtocolError, in words for a user, if this engine speaks another protocol."""
    if hello.protocol != PROTOCOL_VERSION:
        older = "engine" if hello.protocol < PROTOCOL_VERSION else "add-on"
        raise ProtocolError(
            f"The engine ({hello.engine}) speaks protocol {hello.protocol}, the add-on protocol {PROTOCOL_VERSION}. "
            f"Update the {older} so that both come from one release."
        )


def request_from_json(value: object) -> JobRequest:
    """A JobRequest from parsed JSON (job.json, a batch list). Raises: ProtocolError."""
    request = _build(JobRequest, value, "request")
    assert isinstance(request, JobRequest)
    return request


def _decode(line: str | bytes, table: dict[str, type]) -> Any:
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"a line of {len(line)} bytes, at most {MAX_LINE_BYTES} are allowed")
    try:
        body = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ProtocolError(f"not a message: {str(line[:80])!r}") from error
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise ProtocolError(f"a message must be an object with a type, got {str(line[:80])!r}")
    cls = table.get(body["type"])
    if cls is None:
        return None
    return _build(cls, body, body["type"])


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not allowed")


def _build(cls: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ProtocolError(f"{where} must be an object, got {type(value).__name__}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for item in dataclasses.fields(cls):
        if item.name in value:
            checked = _checked(value[item.name], hints[item.name], f"{where}.{item.name}")
            wanted = _LENGTHS.get((cls, item.name))
            if wanted is not None and len(checked) != wanted:
                raise ProtocolError(f"{where}.{item.name} must have {wanted} numbers, got {len(checked)}")
            arguments[item.name] = checked
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ProtocolError(f"{where}.{item.name} is missing")
    return cls(**arguments)


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as type `hint`. bool is no int here, an int is a float."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    if origin is tuple and isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return tuple(_checked(part, inner, where) for part in value)
    if origin is dict and isinstance(value, dict):
        inner = typing.get_args(hint)[1]
        return {key: _checked(part, inner, f"{where}[{key!r}]") for key, part in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ProtocolError(f"{where} is too large") from error
    if isinstance(hint, type) and origin is None and type(value) is hint:
        if hint is float and value in (float("inf"), float("-inf")):  # 1e999 parses as infinity
            raise ProtocolError(f"{where} is not finite")
        return value
    wanted = hint.__name__ if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) else hint
    raise ProtocolError(f"{where} must be {wanted}, got {type(value).__name__}")
