"""`make demo`: a prompt becomes an object in a .blend, the way an artist's Blender does it, on a machine without a window.

    python scripts/demo.py --prompt "a red mug" --seed 0 --preset draft --out demo

Builds the extension's zip, installs it into a scratch user folder of the bpy module, calls the add-on's own operator (which starts
the engine as its own process, here in this same Python), saves OUT/scene.blend, renders OUT/render.png, and copies the result's
files to OUT. On a Python without bpy it runs the engine alone and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What an earlier demo left in OUT; nothing else in there is touched.
COPIED_SUFFIXES = {".glb", ".obj", ".ply", ".png", ".mp4", ".json"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--model", default="toybox", help="id in the model table, or a folder in diffusers' layout")
    parser.add_argument("--settings", default="", help="engine settings as name=value, separated by spaces")
    parser.add_argument("--out", type=Path, default=ROOT / "demo")
    parser.add_argument("--tile-px", type=int, default=320, help="size of each of the four views in render.png")
    parser.add_argument("--samples", type=int, default=16, help="Cycles samples per pixel")
    options = parser.parse_args()
    out = options.out.resolve()
    begun = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        job = prepare_job_folder(out)
        if importlib.util.find_spec("bpy") is None:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            print(f"No bpy for Python {version} here, so the engine runs alone: no scene.blend, no render.png.")
            print("Use Python 3.11 or 3.13 for all of it.")
            code = engine_alone(options, job)
        else:
            code = with_blender(options, out, job)
        if code == 0:
            copy_result(job / "result", out)
            report(out, time.monotonic() - begun)
    except OSError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return code


def prepare_job_folder(out: Path) -> Path:
    """OUT/job, empty: an earlier demo's job is removed, anything else that bears the name is left alone."""
    job = out / "job"
    if job.exists() and not (job / "job.json").is_file() and any(job.iterdir()):
        raise OSError(f"{job} is not a job of this demo. Move it away, or use another --out.")
    if job.exists():
        shutil.rmtree(job)
    for name in ("scene.blend", "render.png"):  # an old picture beside a failed run would look like its result
        (out / name).unlink(missing_ok=True)
    return job


def engine_alone(options: argparse.Namespace, job: Path) -> int:
    command = [sys.executable, "-m", "engine", "generate", options.prompt, "--model", options.model, "--preset", options.preset]
    for word in options.settings.split():
        name, _, value = word.partition("=")
        command += [f"--{name.replace('_', '-')}", value]
    return subprocess.run([*command, "--seed", str(options.seed), "--out", str(job)], cwd=ROOT, check=False).returncode


def with_blender(options: argparse.Namespace, out: Path, job: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="dreamfusion-demo-") as user_folder:
        # Read by Blender when it starts: nobody's own preferences and extensions are touched.
        os.environ["BLENDER_USER_RESOURCES"] = user_folder
        os.environ.setdefault("DREAMFUSION_ENGINE_PYTHON", sys.executable)
        archive = build(Path(user_folder))
        import bpy

        print(f"Blender {bpy.app.version_string} (bpy module), Python {sys.version.split()[0]}", flush=True)
        bpy.ops.wm.read_factory_settings(use_empty=True)
        bpy.ops.extensions.package_install_files(filepath=str(archive), repo="user_default", enable_on_install=True)
        print(f'Prompt "{options.prompt}", preset {options.preset}, seed {options.seed}', flush=True)
        try:
            end = bpy.ops.dreamfusion.generate(
                prompt=options.prompt,
                preset=options.preset.upper(),
                seed=options.seed,
                model=options.model,
                settings=options.settings,
                out_dir=str(job),
            )
        except (RuntimeError, TypeError):  # the operator has said why; TypeError: a preset or seed that the operator does not know
            if sys.exc_info()[0] is TypeError:
                print(f"demo: {sys.exc_info()[1]}", file=sys.stderr)
            keep_log(Path(user_folder), out)
            return 2
        if end != {"FINISHED"}:
            return 1
        sys.path.insert(0, str(ROOT / "scripts"))
        from demo_scene import dress_scene, render_views

        dress_scene(bpy.context.view_layer.objects.active)
        bpy.ops.wm.save_as_mainfile(filepath=str(out / "scene.blend"), check_existing=False, compress=True)
        print("Rendering four views with Cycles", flush=True)
        render_views(out / "render.png", tile_px=options.tile_px, n_samples=options.samples)
    return 0


def build(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT))
    import build_addon

    archive = build_addon.build_zip(ROOT, folder / "zip")
    print(f"Built and {'validated' if build_addon.validate(archive) else 'not validated'}: {archive.name}")
    return archive


def keep_log(user_folder: Path, out: Path) -> None:
    log = user_folder / "datafiles" / "dreamfusion" / "engine.log"
    if log.is_file() and log.stat().st_size:
        shutil.copy2(log, out / "engine.log")
        print(f"The engine's log is in {out / 'engine.log'}", file=sys.stderr)


def copy_result(result: Path, out: Path) -> None:
    for path in sorted(result.iterdir()):
        if path.suffix in COPIED_SUFFIXES:
            shutil.copy2(path, out / path.name)


def report(out: Path, seconds: float) -> None:
    print(f"Done in {seconds:.0f} s. In {out}:")
    for path in sorted(path for path in out.iterdir() if path.is_file()):
        print(f"  {path.name:<24} {path.stat().st_size / 1e3:10,.0f} kB")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The bpy module can crash while the interpreter takes itself apart, after everything is done and written.
    os._exit(code)
