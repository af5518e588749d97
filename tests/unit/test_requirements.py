"""What the engine imports stands in its requirements itself, not only in those of another package."""

import ast
import re
import sys
from pathlib import Path

import engine
from engine import doctor

ROOT = Path(engine.__file__).resolve().parent.parent
# Modules that are called otherwise than the package that brings them.
PACKAGES = {"PIL": "pillow", "skimage": "scikit-image", "mcubes": "pymcubes", "google": "protobuf"}
# Looked for, never needed, and on no package index.
NEVER_NEEDED = {"tinycudann"}


def pinned(*files: str) -> dict[str, str]:
    """Package, in lower case with hyphens, to what follows its name."""
    lines = [line for file in files for line in (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)([=<>!~].*)", line) for line in lines]
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def imported(folder: str) -> dict[str, str]:
    """Top-level module that is not ours or Python's, to a file that imports it."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | {"engine", "cuda_ext", ""}}


def test_every_package_that_the_engine_imports_is_a_requirement_of_its_own():
    known = pinned("engine.txt", "extras.txt")
    modules = imported("engine") | imported("cuda_ext")
    assert {"torch", "filelock", "PIL"} <= modules.keys()  # the search finds something
    package_of = {name: PACKAGES.get(name, name.lower().replace("_", "-")) for name in modules}
    missing = {name: path for name, path in modules.items() if package_of[name] not in known and name not in NEVER_NEEDED}
    assert not missing


def test_doctor_asks_for_every_requirement():
    alone = {name.lower() for pair in doctor.EITHER for name in pair}
    assert {*doctor.NEEDED} | alone == pinned("engine.txt").keys() | alone
    assert alone <= pinned("engine.txt").keys()


def test_what_is_optional_has_one_version():
    assert all(re.match(r"==\d", rest) for rest in pinned("extras.txt").values())
