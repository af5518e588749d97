"""The zip: what is in it, that it is the same each time, and that Blender's own tool agrees."""

import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

import build_addon
from build_addon import SHIPPED, BuildError, build_zip, is_excluded, read_manifest, shipped_files

ROOT = Path(build_addon.__file__).resolve().parent
PATTERNS = tomllib.loads((ROOT / "blender_manifest.toml").read_text())["build"]["paths_exclude_pattern"]


EXPECTED = [
    *("__init__.py", "LICENSE", "README.md", "blender_dreamfusion/__init__.py", "engine/__init__.py", "engine/protocol.py"),
    *("engine/toybox/weights/unet/diffusion_pytorch_model.safetensors", "engine/toybox/data.py", "engine/guidance/models.toml"),
    *("engine/toybox/sibling/unet/diffusion_pytorch_model.safetensors", "engine/toybox/sibling/README.md"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with the real manifest, and everything that must not be shipped."""
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(ROOT / "blender_manifest.toml", root)
    unwanted = [".git/config", ".venv/bin/python", ".venv313/x", "tests/unit/test_x.py", "engine/__pycache__/a.cpython-311.pyc"]
    unwanted += ["docs/images/panel.png", "benchmarks/main_job.py", "demo/scene.blend", "scratch/a", "dist/old.zip", "old.zip", ".ci/run"]
    unwanted += ["engine/toybox/runs/1/log", "engine/.DS_Store", "Makefile", "pyproject.toml", "scripts/demo.py", "build_addon.py"]
    for name in EXPECTED + unwanted:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def test_the_zip_holds_what_the_extension_needs_and_nothing_else(checkout, tmp_path):
    said: list[str] = []
    assert contents(build_zip(checkout, tmp_path / "out", said.append)) == sorted([*EXPECTED, "blender_manifest.toml"])
    assert not said


def test_what_the_extension_does_not_know_stays_out_and_is_named_in_one_line(checkout, tmp_path):
    for name in ("a-red-mug-0/result/mesh.npz", "my [old] notes.txt", "engine2/x.py", "my o notes.txt"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    said: list[str] = []
    assert contents(build_zip(checkout, tmp_path / "out", said.append)) == sorted([*EXPECTED, "blender_manifest.toml"])
    names = "a-red-mug-0, engine2, my [old] notes.txt, my o notes.txt"
    assert said == [f"Left out, for they are no part of the extension: {names}"]


def contents(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as files:
        return sorted(files.namelist())


def test_the_same_files_give_the_same_bytes(checkout, tmp_path):
    first = build_zip(checkout, tmp_path / "a").read_bytes()
    (checkout / "engine" / "protocol.py").touch()
    assert build_zip(checkout, tmp_path / "b").read_bytes() == first


@pytest.mark.skipif(build_addon.find_blender_tool() is None, reason="no bpy wheel for this Python")
def test_blenders_own_build_packs_the_same_files(checkout, tmp_path):
    ours = build_zip(checkout, tmp_path)
    theirs = tmp_path / "theirs.zip"
    build_addon.run_blender_tool("build", f"--source-dir={checkout}", f"--output-filepath={theirs}")
    with zipfile.ZipFile(ours) as a, zipfile.ZipFile(theirs) as b:
        assert sorted(a.namelist()) == sorted(b.namelist())


@pytest.mark.skipif(build_addon.find_blender_tool() is None, reason="no bpy wheel for this Python")
def test_the_real_zip_is_valid_for_blender(tmp_path):
    assert build_addon.validate(build_zip(ROOT, tmp_path))


def test_the_manifest_excludes_all_that_is_tracked_and_not_shipped():
    """So Blender's own build, which reads the manifest alone, makes the same zip of a clean checkout."""
    if not shutil.which("git"):
        pytest.skip("no git here")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    if not tracked[0]:
        pytest.skip("no git checkout")
    tops = {name.partition("/")[0] + ("/" if "/" in name else "") for name in tracked if name}
    assert {name.rstrip("/") for name in tops if not is_excluded(name, PATTERNS)} == {*SHIPPED}
    assert {name.partition("/")[0] for name in shipped_files(ROOT, PATTERNS)[0]} == {*SHIPPED}


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("docs/", True),
        ("engine/docs/", False),  # a leading slash ties the pattern to the root
        ("engine/__pycache__/", True),
        ("engine/data.zip", False),
        ("data.zip", True),
        ("scripts", False),  # a file, not the folder
        ("engine/toybox/data/", True),
        ("engine/toybox/data.py", False),
    ],
)
def test_patterns_follow_gitignores_rules(path, excluded):
    assert is_excluded(path, PATTERNS) is excluded


def edit_manifest(root: Path, pattern: str, replacement: str) -> None:
    path = root / "blender_manifest.toml"
    text, n = re.subn(pattern, replacement, path.read_text(), count=1)
    assert n == 1
    path.write_text(text)


def test_a_manifest_that_cannot_be_read_is_refused(checkout):
    edit_manifest(checkout, "schema_version", "schema version")
    with pytest.raises(BuildError, match="cannot be read"):
        read_manifest(checkout)


def test_a_manifest_with_faults_is_refused_with_all_of_them(checkout):
    edit_manifest(checkout, 'tagline = "[^"]*"', 'tagline = "It makes things."')
    edit_manifest(checkout, 'maintainer = "[^"]*"\n', "")
    with pytest.raises(BuildError, match="maintainer is missing. tagline must end without a full stop"):
        read_manifest(checkout)


def test_a_checkout_without_a_needed_file_and_a_zip_beyond_all_size_are_refused(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(build_addon, "MAX_ZIP_BYTES", 100)
    with pytest.raises(BuildError, match="at most 100 are allowed"):
        build_zip(checkout, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [], "nothing half-written is left"
    (checkout / "LICENSE").unlink()
    with pytest.raises(BuildError, match="lacks LICENSE"):
        build_zip(checkout, tmp_path / "out")


def test_install_replaces_an_older_copy_whole(checkout, tmp_path):
    archive = build_zip(checkout, tmp_path)
    target = build_addon.install(archive, tmp_path / "user")
    assert target == tmp_path / "user" / "extensions" / "user_default" / "blender_dreamfusion"
    (target / "left_over.py").touch()
    build_addon.install(archive, tmp_path / "user")
    assert (target / "__init__.py").is_file() and not (target / "left_over.py").exists()
    assert [path.name for path in target.parent.iterdir()] == ["blender_dreamfusion"], "no scratch folder is left"


def test_install_does_not_touch_a_linked_checkout(checkout, tmp_path):
    repository = tmp_path / "user" / "extensions" / "user_default"
    repository.mkdir(parents=True)
    (repository / "blender_dreamfusion").symlink_to(checkout)
    with pytest.raises(BuildError, match="is a link to a checkout"):
        build_addon.install(build_zip(checkout, tmp_path), tmp_path / "user")


def test_all_version_numbers_agree():
    from engine.version import ENGINE_VERSION

    manifest = read_manifest(ROOT)["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert manifest == project == ENGINE_VERSION


def test_kernels_are_built_by_the_compiler_that_pip_installs_and_what_is_wrong_is_said(capfd):
    assert build_addon.main(["kernels", "mars"]) == 2
    assert "mars is no platform; known are linux-x64, linux-arm64, windows-x64" in capfd.readouterr().err
