"""Blender itself reads the static repository: lists it, installs from it, and refuses a zip that is not the one it names."""

import contextlib
import functools
import http.server
import json
import threading

import bpy
import pytest

from tests.blender_results import ROOT

NAME = "dreamfusion_test"


@pytest.fixture
def repository(installed, tmp_path):
    from build_addon import read_manifest
    from scripts.extension_repository import write_repository

    write_repository(installed, read_manifest(ROOT), tmp_path / "served")
    return tmp_path / "served"


@pytest.fixture
def add_repository(tmp_path):
    """Adds the address as a user would; taken away again afterwards."""
    repos = bpy.context.preferences.extensions.repos

    def add(address: str) -> int:
        repo = repos.new(name=NAME, module=NAME, custom_directory=str(tmp_path / "extensions"), remote_url=address)
        repo.use_remote_url = True
        return list(repos).index(repo)

    yield add
    repos.remove(next(repo for repo in repos if repo.module == NAME))


@pytest.fixture(autouse=True)
def online():
    """Blender installs from no repository, not even from a folder, before online access is allowed."""
    system = bpy.context.preferences.system
    was_allowed, system.use_online_access = system.use_online_access, True
    if not bpy.app.online_access:
        pytest.skip("this Blender was told to stay offline")
    yield
    system.use_online_access = was_allowed


def installed_version(tmp_path) -> str:
    text = (tmp_path / "extensions" / "blender_dreamfusion" / "blender_manifest.toml").read_text()
    return next(line for line in text.splitlines() if line.startswith("version")).split('"')[1]


def test_blender_installs_from_the_folder(repository, add_repository, tmp_path):
    number = add_repository((repository / "index.json").as_uri())
    assert bpy.ops.extensions.repo_sync(repo_index=number) == {"FINISHED"}
    bpy.ops.extensions.package_install(repo_index=number, pkg_id="blender_dreamfusion", enable_on_install=False)
    assert installed_version(tmp_path) == json.loads((repository / "index.json").read_text())["data"][0]["version"]


def test_blender_installs_from_a_web_server(repository, add_repository, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(repository))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        number = add_repository(f"http://127.0.0.1:{server.server_port}/index.json")
        bpy.ops.extensions.repo_sync(repo_index=number)
        bpy.ops.extensions.package_install(repo_index=number, pkg_id="blender_dreamfusion", enable_on_install=False)
        server.shutdown()
    assert installed_version(tmp_path)


def test_a_zip_that_was_changed_on_its_way_is_refused(repository, add_repository, tmp_path):
    archive = next(repository.glob("*.zip"))
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    number = add_repository((repository / "index.json").as_uri())
    bpy.ops.extensions.repo_sync(repo_index=number)
    with contextlib.suppress(RuntimeError):  # Blender's versions differ in how loudly they refuse
        bpy.ops.extensions.package_install(repo_index=number, pkg_id="blender_dreamfusion", enable_on_install=False)
    assert not (tmp_path / "extensions" / "blender_dreamfusion").exists()
