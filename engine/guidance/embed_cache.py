"""What a text encoder said, kept on disk by content: the next job of these words loads no text encoder.

A file's name is a hash of the encoder and of one text, so another encoder, other weights or other words never meet it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.guidance.model_records import models_root

FOLDER_NAME = ".embeddings"
# Of a weight file this many places of this many bytes are hashed, its header and its size: training moves all weights a little.
N_PLACES, PLACE_BYTES = 64, 65536
# Smaller encoders are not worth it: Toybox's has 2 MB, which is read in the milliseconds that hashing it takes. CLIP's have 250 MB to
# 1.4 GB, which are spared in memory too.
LARGE_BYTES = 100_000_000
# The oldest go when there is more: some thousand prompts.
MAX_BYTES = 500_000_000


def is_large(*folders: Path) -> bool:
    """Whether the encoders in these folders take longer to load than to look up."""
    return sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors")) >= LARGE_BYTES


@dataclass(frozen=True)
class EmbedCache:
    """Embeddings of one encoder. `key` tells it from all others; `folder` is made when the first is written."""

    key: str
    folder: Path

    @staticmethod
    def of(*parts: Path | str) -> EmbedCache:
        """The cache of an encoder that consists of the files in these folders, and of these words."""
        digest = hashlib.sha256()
        for part in parts:
            if isinstance(part, str):
                digest.update(part.encode())
                continue
            for file in sorted(path for path in part.iterdir() if path.is_file()):
                digest.update(f"{file.name}:{file.stat().st_size};".encode())
                _update(digest, file)
        return EmbedCache(digest.hexdigest(), models_root() / FOLDER_NAME)

    def embeds(self, texts: list[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
        """Embeddings [P, T, D] float32 on the CPU or where `encode` puts them; `encode` is called once, with what is not here yet."""
        found = {text: embed for text in dict.fromkeys(texts) if (embed := self._read(text)) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            for text, embed in zip(missing, encode(missing)):
                found[text] = embed
                self._write(text, embed)
            self._prune()
        device = next(iter(found.values())).device if len(missing) == len(found) else torch.device("cpu")
        return torch.stack([found[text].to(device=device) for text in texts])

    def _path(self, text: str) -> Path:
        name = hashlib.sha256((self.key + text).encode()).hexdigest()  # the key has always the same length
        return self.folder / f"{name[:40]}.safetensors"

    def _read(self, text: str) -> Tensor | None:
        path = self._path(text)
        try:
            embed = load_file(path)["embed"]
        except (OSError, SafetensorError, KeyError):
            return None
        with contextlib.suppress(OSError):  # a folder that cannot be written serves as well
            os.utime(path)
        return embed

    def _write(self, text: str, embed: Tensor) -> None:
        """Whole or not at all. A full disk costs time on the next run, no error in this one."""
        path = self._path(text)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({"embed": embed.detach().cpu().contiguous().clone()}, str(partial))
            os.replace(partial, path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _prune(self) -> None:
        """Delete what was not used for longest, until the folder holds no more than MAX_BYTES. Another job may do the same meanwhile."""
        with contextlib.suppress(OSError):
            files = sorted(((path.stat(), path) for path in self.folder.glob("*.safetensors")), key=lambda item: item[0].st_mtime)
            total = sum(stat.st_size for stat, _ in files)
            for stat, path in files:
                if total <= MAX_BYTES:
                    break
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _update(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        for place in range(N_PLACES):
            stream.seek(place * max(0, size - PLACE_BYTES) // max(N_PLACES - 1, 1))
            digest.update(stream.read(PLACE_BYTES))
            if size <= PLACE_BYTES:
                return
