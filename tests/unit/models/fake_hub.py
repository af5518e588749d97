"""A small model hub on this machine: real HTTP, the addresses, headers and errors of the real one, and misbehaviour on demand.

with FakeHub() as hub:
    hub.repos["owner/name"] = Repo(folder, commit="a" * 40)
    download(..., hub=Hub(hub.url))      or a process with HF_ENDPOINT=hub.url
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

CHUNK = 16 * 1024


@dataclass
class Repo:
    """The files of `folder` at `commit`.

    error: (status, X-Error-Code) that every question is answered with.
    cut: path to bytes after which the connection breaks, once. stall: path to bytes after which nothing more comes.
    corrupt: path to how many times its first byte is sent wrong.
    token: what must be sent as access token.
    older: commit to the files it has, of commits before.
    """

    folder: Path
    commit: str = "0123456789abcdef0123456789abcdef01234567"
    error: tuple[int, str] | None = None
    cut: dict[str, int] = field(default_factory=dict)
    stall: dict[str, int] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)
    token: str = ""
    older: dict[str, Path] = field(default_factory=dict)

    def at(self, revision: str) -> Path | None:
        return self.folder if revision in (self.commit, "main") else self.older.get(revision)

    def listing(self, revision: str = "main") -> dict[str, object]:
        folder = self.at(revision) or self.folder
        siblings = []
        for path in sorted(item for item in folder.rglob("*") if item.is_file()):
            content = path.read_bytes()
            entry: dict[str, object] = {
                "rfilename": path.relative_to(folder).as_posix(),
                "size": len(content),
                "blobId": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest(),
            }
            if path.suffix in (".safetensors", ".bin"):
                entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
            siblings.append(entry)
        commit = self.commit if revision == "main" else revision
        return {"id": "owner/name", "sha": commit, "siblings": siblings, "tags": [], "private": False, "downloads": 0}


class FakeHub:
    """Answers until the `with` ends. `served` lists (path, first byte) of every file that was asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.served: list[tuple[str, int]] = []
        self.stalled = threading.Event()
        self.ending = threading.Event()

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def log_message(self, *_arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed
                    super().handle_error(request, client_address)  # type: ignore[arg-type]

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(\w+)", path)
        content = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        match = listing or content
        repo = self.repos.get(match.group(1)) if match else None
        if match is None or repo is None:
            return _refuse(request, 404, "RepoNotFound")
        if repo.error is not None:
            return _refuse(request, *repo.error)
        if repo.token and request.headers.get("Authorization") != f"Bearer {repo.token}":
            return _refuse(request, 401, "GatedRepo")
        folder = repo.at(match.group(2))
        if folder is None:
            return _refuse(request, 404, "RevisionNotFound")
        if listing:
            body = json.dumps(repo.listing(match.group(2))).encode()
            _head(request, 200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
            request.wfile.write(body)
        else:
            self._send_file(request, repo, folder, match.group(3))

    def _send_file(self, request: BaseHTTPRequestHandler, repo: Repo, folder: Path, name: str) -> None:
        path = folder / name
        if not path.is_file():
            return _refuse(request, 404, "EntryNotFound")
        body = bytearray(path.read_bytes())
        if repo.corrupt.get(name, 0) > 0:
            repo.corrupt[name] -= 1
            body[-1] ^= 0xFF
        first = int((re.match(r"bytes=(\d+)-", request.headers.get("Range", "")) or ["", "0"])[1])
        self.served.append((name, first))
        headers = {"Content-Length": str(len(body) - first), "X-Repo-Commit": repo.commit}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        _head(request, 206 if first else 200, headers)
        cut, stall = repo.cut.pop(name, None), repo.stall.get(name)
        for at in range(first, len(body), CHUNK):
            if cut is not None and at - first >= cut:
                request.close_connection = True
                return None
            if stall is not None and at >= stall:
                request.wfile.flush()
                self.stalled.set()
                self.ending.wait(20)
                return None
            request.wfile.write(body[at : at + CHUNK])
        return None


def _head(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    _head(request, status, {"X-Error-Code": code, "Content-Length": "0"})
