"""A static extension repository: a folder that any web server (or a shared disk) can serve, in Blender's own format.

index.json is what Blender reads: the manifest of the newest zip, with its address, size and hash. index.html is for people; its link can
be dragged onto Blender, which then installs the zip and offers to add the repository, so that updates arrive.
"""

from __future__ import annotations

import hashlib
import html
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

# Not for the list of a repository.
LEFT_OUT = {"build", "wheels"}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name} for Blender</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em; color: #222; }}
  .drag {{ display: inline-block; padding: .7em 1.4em; border-radius: .4em; background: #2b5fd9; color: #fff; text-decoration: none; }}
  td {{ padding-right: 2em; vertical-align: top; }}
</style>
<h1>{name}</h1>
<p>{tagline}.</p>
<p><a class="drag" href="{link}">Drag me onto Blender {oldest} or newer</a></p>
<p>Or add this folder once, and Blender finds updates by itself: <em>Edit › Preferences › Get Extensions › Repositories › + › Add Remote
Repository</em>, with the address of <a href="index.json">index.json</a> beside this page. Then search for {name} and press Install.</p>
<table>
<tr><td>Version<td>{version}
<tr><td>Download<td><a href="{archive}" download>{archive}</a> ({megabytes:.0f} MB)
<tr><td>SHA-256<td><code>{digest}</code>
<tr><td>Licence<td>{licence}
<tr><td>It may<td>{permissions}
</table>
"""


def write_repository(archive: Path, manifest: dict[str, Any], folder: Path) -> Path:
    """Put the zip, index.json and index.html into `folder`; returns index.json. Zips of older versions stay, unlisted."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / archive.name
    if archive.resolve() != target.resolve():
        shutil.copy2(archive, target)
    entry = repository_entry(target, manifest)
    (folder / "index.html").write_text(_page(entry, manifest), encoding="utf-8")
    index = folder / "index.json"
    partial = index.with_suffix(".partial")  # last, and at once: whoever reads it meanwhile finds the zip that it names
    partial.write_text(json.dumps({"version": "v1", "blocklist": [], "data": [entry]}, indent=2), encoding="utf-8")
    partial.replace(index)
    return index


def repository_entry(archive: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The zip's line in index.json."""
    kept = {name: value for name, value in manifest.items() if name not in LEFT_OUT}
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    place = {"archive_url": f"./{quote(archive.name)}", "archive_size": archive.stat().st_size, "archive_hash": f"sha256:{digest}"}
    return {**kept, **place}


def drag_link(entry: dict[str, Any]) -> str:
    """The zip's address with what Blender wants to know before it fetches anything."""
    names = ("blender_version_min", "blender_version_max")
    query = {"repository": "./index.json", **{name: entry[name] for name in names if name in entry}}
    if "platforms" in entry:
        query["platforms"] = ",".join(entry["platforms"])
    return f"{entry['archive_url']}?{urlencode(query, safe='./,')}"


def _page(entry: dict[str, Any], manifest: dict[str, Any]) -> str:
    permissions = [f"{name}: {reason}" for name, reason in manifest.get("permissions", {}).items()]
    values = {
        "name": entry["name"],
        "tagline": entry["tagline"],
        "oldest": entry["blender_version_min"].removesuffix(".0"),
        "version": entry["version"],
        "archive": entry["archive_url"].removeprefix("./"),
        "digest": entry["archive_hash"].removeprefix("sha256:"),
        "licence": ", ".join(text.removeprefix("SPDX:") for text in entry["license"]),
        "permissions": "; ".join(permissions) or "nothing beyond Blender's own files",
        "link": drag_link(entry),
    }
    return PAGE.format(megabytes=entry["archive_size"] / 1e6, **{name: html.escape(text) for name, text in values.items()})
