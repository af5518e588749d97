"""SentencePiece files are read as transformers reads them, without the packages that it wants for that."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from transformers import T5Tokenizer

from engine.errors import UserError
from engine.guidance.deepfloyd import DeepFloyd
from engine.guidance.denoiser import Denoiser
from engine.guidance.sentence_piece import read_sentence_pieces
from tests.tiny_families import build_tiny_if

PIECES = [
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -2.0),
    ("▁red", -3.5),
    ("▁mug", -4.25),
    *((letter, -9.0) for letter in "adegmru"),
]
CONTROL, UNKNOWN = 3, 2


def field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def model_file(path: Path, *, tail: bytes = b"") -> Path:
    """As sentencepiece writes it: each piece with its kind, then a message of settings that we do not read."""
    body = b""
    for i, (text, score) in enumerate(PIECES):
        kind = bytes([3 << 3, CONTROL if i < 2 else UNKNOWN]) if i < 3 else b""
        body += field(1, field(1, text.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + kind)
    settings = bytes([3 << 3, 1, 40 << 3 & 0x7F | 0x80, 2, 2, 41 << 3 & 0x7F | 0x80, 2, 1])
    path.write_bytes(body + field(2, settings) + field(3, field(1, b"nmt_nfkc")) + tail)
    return path


def test_pieces_and_scores_are_read(tmp_path: Path) -> None:
    found = read_sentence_pieces(model_file(tmp_path / "spiece.model"))
    assert found.pieces == PIECES and found.normalizer == b""


def test_it_tokenizes_as_the_packages_do(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="python -m pip install -r requirements/dev.txt")
    pytest.importorskip("google.protobuf", reason="python -m pip install -r requirements/dev.txt")
    lines = ["a red mug on the table", "two blue cars, a tree", "the cup of a red apple", "a wooden chair and the house"] * 50
    (tmp_path / "text").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spiece"), vocab_size=30, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    words = read_sentence_pieces(tmp_path / "spiece.model")
    assert len(words.pieces) == 30 and len(words.normalizer) > 100_000
    ours = T5Tokenizer(vocab=words.pieces, extra_ids=0, _spm_precompiled_charsmap=words.normalizer)
    theirs = T5Tokenizer.from_pretrained(tmp_path, extra_ids=0, local_files_only=True)
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "spiece.model"))
    for text in ("a red mug", "ａ ｒｅｄ  ｍｕｇ", "the chairs, zebra", "ﬁne cups", ""):
        assert ours(text).input_ids == theirs(text).input_ids == [*processor.encode(text), 1]


def test_if_reads_prompts_with_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFUSION_MODELS", str(tmp_path / "models"))
    root = build_tiny_if(tmp_path / "if")
    for file in (root / "tokenizer").iterdir():
        file.unlink()
    model_file(root / "tokenizer" / "spiece.model")
    model = Denoiser.load(root)
    assert isinstance(model, DeepFloyd)
    assert model._load_tokenizer()("a red mug").input_ids == [3, 6, 4, 5, 1]
    embeds = model.embed(["a red mug", "a mug"])
    assert embeds.isfinite().all() and not torch.equal(embeds[0], embeds[1])


@pytest.mark.parametrize("tail", [b"\x0a", b"\x0a\x7f", b"\x07", b"\x80"])
def test_a_damaged_file_is_a_sentence(tmp_path: Path, tail: bytes) -> None:
    with pytest.raises(UserError, match="is no SentencePiece file, or is cut off. Fetch") as caught:
        read_sentence_pieces(model_file(tmp_path / "spiece.model", tail=tail))
    assert caught.value.code == "model"
    (tmp_path / "empty.model").write_bytes(b"")
    with pytest.raises(UserError, match="is no SentencePiece file"):
        read_sentence_pieces(tmp_path / "empty.model")
