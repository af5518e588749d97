"""What a user reads inside Blender is spelled one way, Blender's own: American."""

import ast
import json
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[3] / "blender_dreamfusion"
BRITISH = re.compile(r"\b(colour|grey|metres?\b|centre|licence|catalogue|neighbour|behaviour|favour|optimis|initialis|normalis)\w*", re.I)
# Names of fields and properties, which scripts and files know.
NAMES = frozenset({"licence", "model_licence"})


def shown_texts(path: Path) -> list[str]:
    """String literals of a module, and the docstrings of operators, which are their tooltips."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and not getattr(node, "name", "").startswith("DREAMFUSION_OT_"):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                hidden.add(first.value)
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in hidden]


@pytest.mark.parametrize("path", [*PACKAGE.glob("ui/*.py"), *PACKAGE.glob("bl/*.py")], ids=lambda path: path.stem)
def test_panels_operators_and_messages(path):
    assert [text for text in shown_texts(path) if text not in NAMES and BRITISH.search(text)] == []


@pytest.mark.parametrize(("name", "field"), [("engine_options.json", "help"), ("models.json", "note")])
def test_tables(name, field):
    table = json.loads((PACKAGE / "core" / name).read_text(encoding="utf-8"))
    rows = table["options"] if isinstance(table, dict) and "options" in table else table["models"] if isinstance(table, dict) else table
    texts = [row[field] for row in rows]
    assert len(texts) > 5 and [text for text in texts if BRITISH.search(text)] == []
