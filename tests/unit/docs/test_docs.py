"""The documentation names things that exist: files, headings, messages, operators and their arguments."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """As web pages of repositories make them from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def spoken_texts() -> str:
    """Every text in the product's code and data, in one string; what an f-string fills in is left out."""
    texts = []
    for folder in ("blender_dreamfusion", "engine"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    texts.append("\0".join(part.value for part in node.values if isinstance(part, ast.Constant)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
        texts += [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.json") if path.stat().st_size < 200_000]
    return "\n".join(texts)


def quoted_messages() -> list[str]:
    """The fixed parts of the first column of troubleshooting's tables."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| ") and not row.startswith(("| Message", "| ---"))]
    parts = [part.strip(" .…") for cell in cells for part in re.split(r"\*[^*]+\*| / |: ", cell)]
    return [part for part in parts if part]


def test_every_message_of_troubleshooting_is_one_that_the_product_says():
    spoken = spoken_texts()
    unsaid = [message for message in quoted_messages() if message not in spoken]
    assert unsaid == []
