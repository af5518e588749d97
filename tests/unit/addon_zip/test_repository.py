"""The static repository: what Blender's own generator would have written, and a page with a link to drag."""

import hashlib
import html
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import build_addon
from build_addon import build_zip, read_manifest
from scripts.extension_repository import drag_link, write_repository

ROOT = Path(build_addon.__file__).resolve().parent


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zip(ROOT, tmp_path_factory.mktemp("zip"))


def test_the_index_names_the_zip_its_size_and_its_hash(archive, tmp_path):
    index = json.loads(write_repository(archive, read_manifest(ROOT), tmp_path).read_text())
    (entry,) = index["data"]
    copied = tmp_path / entry["archive_url"]
    assert copied.read_bytes() == archive.read_bytes() and copied.stat().st_size == entry["archive_size"]
    assert entry["archive_hash"] == "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    assert index["version"] == "v1" and entry["id"] == "blender_dreamfusion" and "build" not in entry


@pytest.mark.skipif(build_addon.find_blender_tool() is None, reason="no bpy wheel for this Python")
def test_blenders_own_generator_writes_the_same_index(archive, tmp_path):
    ours = json.loads(write_repository(archive, read_manifest(ROOT), tmp_path).read_text())
    build_addon.run_blender_tool("server-generate", f"--repo-dir={tmp_path}")
    assert json.loads((tmp_path / "index.json").read_text()) == ours


def test_the_pages_link_carries_what_blender_asks_before_a_drop(archive, tmp_path):
    write_repository(archive, read_manifest(ROOT), tmp_path)
    link = html.unescape(re.search(r'class="drag" href="([^"]+)"', (tmp_path / "index.html").read_text()).group(1))
    assert urlsplit(link).path.endswith(".zip"), "Blender takes a link for an extension by this ending"
    assert parse_qs(urlsplit(link).query) == {"repository": ["./index.json"], "blender_version_min": ["4.2.0"]}


def test_limits_of_a_zip_are_in_its_link():
    entry = {
        "archive_url": "./a.zip",
        "blender_version_min": "4.2.0",
        "blender_version_max": "6.0.0",
        "platforms": ["linux-x64", "macos-x64"],
    }
    assert parse_qs(urlsplit(drag_link(entry)).query)["platforms"] == ["linux-x64,macos-x64"]
    assert "blender_version_max=6.0.0" in drag_link(entry)


def test_an_older_zip_stays_but_is_not_offered(archive, tmp_path):
    (tmp_path / "blender_dreamfusion-0.0.9.zip").write_bytes(b"old")
    for _ in range(2):  # also into a folder that has a repository already
        index = json.loads(write_repository(archive, read_manifest(ROOT), tmp_path).read_text())
    assert [entry["version"] for entry in index["data"]] == [read_manifest(ROOT)["version"]]
    assert (tmp_path / "blender_dreamfusion-0.0.9.zip").exists() and not list(tmp_path.glob("*.partial"))
