"""The model hub: what files a copy of a model has, and their bytes. Uses huggingface_hub for addresses, tokens and errors.

huggingface_hub's own download starts a file anew when it was interrupted and compares its size alone, so the files are fetched
here: a part file is continued, and its hash is compared by the caller.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before huggingface_hub is imported: it reads this once. Nothing about the user is sent along.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from engine.errors import UserError
from engine.guidance.model_table import Source
from engine.model_store.hashes import Progress

# Plain files: settings, and the tokenizer's words (.model: SentencePiece's). No Python, no pickles.
SETTINGS_SUFFIXES = (".json", ".txt", ".model")
SETTINGS_FILE = re.compile(r"[\w.\-]+\.(?:json|txt|model)")
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
PARTIAL_CONTENT = 206
HTTP_BUSY = (429, 500, 502, 503, 504)

# No byte for this long is a broken connection.
TIMEOUT_S = 20.0
RETRIES = 3
RETRY_WAIT_S = 1.0


class SourceError(Exception):
    """This copy cannot be had; another may. `text` follows the copy's name in a sentence.

    kind: "gated" if it could be had with an access, "revision" if it has others than the one that was asked for, "changed" if it is
        not what it was, "" for all else.
    """

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class RemoteFile:
    """`sha256` of files in LFS (the weights), else `git_sha1`; the other is empty."""

    path: str
    size: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True)
class RemoteModel:
    """The files of one copy that we load, as they are at `commit`."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


class Hub:
    """A hub at `endpoint`; left out, the one that huggingface_hub uses (HF_ENDPOINT names another, for example a mirror)."""

    def __init__(self, endpoint: str = "") -> None:
        self.endpoint = endpoint or constants.ENDPOINT
        # It warns of each retry and of what it thinks of the token; what matters is told by our own errors.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)

    def find(self, source: Source, parts: Mapping[str, str]) -> RemoteModel:
        """The files of a copy of a model with these parts. Raises: SourceError; UserError, code "offline", if the hub cannot be reached."""
        try:
            info = HfApi(endpoint=self.endpoint).model_info(source.repo, revision=source.revision, files_metadata=True)
        except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled) as error:
            raise self._explained(error, source) from error
        files = [_remote_file(sibling) for sibling in info.siblings or []]
        return RemoteModel(source.repo, str(info.sha), tuple(wanted_files(files, parts)))

    def newest(self, repo: str) -> str:
        """The commit that a copy's main branch has now, "" if it does not say."""
        try:
            return str(HfApi(endpoint=self.endpoint).model_info(repo, revision="main").sha)
        except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled):
            return ""

    def fetch(self, remote: RemoteModel, file: RemoteFile, part: Path, progress: Progress) -> None:
        """Fetch the rest of `file` to the end of `part`. A broken connection is taken up again; RETRIES times without a byte is the end.

        Raises: SourceError; UserError, code "offline", if the hub cannot be reached; OSError if the file cannot be written.
        """
        url = hf_hub_url(remote.repo, file.path, revision=remote.commit, endpoint=self.endpoint)
        n_left = RETRIES
        while True:
            before = progress.done
            try:
                return _append(url, file, part, progress)
            except (HfHubHTTPError, OfflineModeIsEnabled) as error:
                raise self._explained(error, Source(remote.repo, remote.commit), file.path) from error
            except httpx2.HTTPError as error:
                n_left = RETRIES if progress.done > before else n_left - 1
                if n_left == 0:
                    raise self._explained(error, Source(remote.repo, remote.commit), file.path) from error
                time.sleep(RETRY_WAIT_S)

    def _explained(self, error: Exception, source: Source, path: str = "") -> Exception:
        """The hub's error as a sentence: SourceError if another copy may do, else UserError."""
        if isinstance(error, OfflineModeIsEnabled):
            return UserError("HF_HUB_OFFLINE is set, so nothing may be fetched.", "Unset it, then download again.", "offline")
        if isinstance(error, GatedRepoError):
            return SourceError("is given only to those who accepted its license", "gated")
        if isinstance(error, (RepositoryNotFoundError, DisabledRepoError)):
            return SourceError("is no longer on the hub, or was made private")
        if isinstance(error, RevisionNotFoundError):
            return SourceError(f"no longer has its revision {source.revision[:12]}", "revision")
        if isinstance(error, RemoteEntryNotFoundError):
            return SourceError(f"no longer has its file {path}")
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status in (401, 403):
                return SourceError("refuses the access token", "gated")
            if status in HTTP_BUSY:
                return SourceError(f"is busy or out of order (HTTP {status}); try again in some minutes")
            return SourceError(f"answers with HTTP {status}")
        reason = str(error).strip() or type(error).__name__
        fix = "Check the internet connection and download again; it goes on where it stopped."
        return UserError(f"{self.endpoint} cannot be reached ({reason[:160].rstrip('.')}).", fix, "offline")


def _append(url: str, file: RemoteFile, part: Path, progress: Progress) -> None:
    with part.open("ab") as stream:
        have = stream.tell()
        if have == file.size:
            return
        # Not packed: only then do the bytes on disk tell where to go on.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if have and response.status_code != PARTIAL_CONTENT:  # a server that only gives whole files
                stream.truncate(0)
                progress.add(-have, file.path)
            for chunk in response.iter_bytes():
                stream.write(chunk)
                progress.add(len(chunk), file.path)


def wanted_files(files: list[RemoteFile], parts: Mapping[str, str]) -> list[RemoteFile]:
    """The files of a family's parts that we load: settings, the tokenizer's words, and safetensors, half precision where there is one.

    Args:
        parts: as in `Family`.
    Raises: SourceError if a part or its safetensors are missing.
    """
    by_path = {file.path: file for file in files}
    chosen: list[RemoteFile] = []
    for part, stem in parts.items():
        prefix, name = f"{part}/" if part else "", part or "the settings"
        inside = [path for path in by_path if path.startswith(prefix)]
        settings = [path for path in inside if SETTINGS_FILE.fullmatch(path, len(prefix)) and ".index." not in path]
        if not settings:
            raise SourceError(f"lacks {name}")
        weights: list[str] = []
        if stem:
            weights = _weights(f"{prefix}{stem}", inside)
            if not weights:
                is_pickle = any(path.endswith(PICKLE_SUFFIXES) for path in inside)
                what = part or "its weights"
                raise SourceError(f"offers {what} as a pickle only, which can run code" if is_pickle else f"lacks the weights of {what}")
        chosen += [by_path[path] for path in (*settings, *weights)]
    return chosen


def _weights(stem: str, inside: list[str]) -> list[str]:
    """Paths of the safetensors called `stem`, with their index if they are in several pieces."""
    stem = re.escape(stem)
    for variant in (r"\.fp16", ""):
        whole = re.compile(rf"{stem}{variant}\.safetensors")
        pieces = re.compile(rf"{stem}(?:{variant}-\d+-of-\d+|-\d+-of-\d+{variant})\.safetensors")
        index = re.compile(rf"{stem}\.safetensors\.index{variant}\.json")
        found = [path for path in inside if whole.fullmatch(path)]
        if not found and (found := [path for path in inside if pieces.fullmatch(path)]):
            found += [path for path in inside if index.fullmatch(path)]
        if found:
            return found
    return []


def _remote_file(sibling: Any) -> RemoteFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else ""
    return RemoteFile(sibling.rfilename, int(sibling.size or 0), sha256, "" if sha256 else str(sibling.blob_id or ""))
