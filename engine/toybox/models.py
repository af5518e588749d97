"""Toybox's networks, in Stable Diffusion's layout at toy size. Anything that loads Stable Diffusion from a folder loads these."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

IMAGE_SIZE = 64
LATENT_CHANNELS = 8
DOWNSCALE = 4
MAX_TOKENS = 24
TEXT_DIM = 192
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def make_vae() -> AutoencoderKL:
    """64 px to 16 x 16 x 8. The first three latent channels are trained to be the area-averaged picture, see `vae_training`."""
    return AutoencoderKL(
        sample_size=IMAGE_SIZE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def make_unet() -> UNet2DConditionModel:
    """The pooled prompt is added to the timestep (`addition_embed_type`), which binds colours far sooner than attention alone."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // DOWNSCALE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(4, 4, 8),
        cross_attention_dim=TEXT_DIM,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def make_text_encoder(vocab_size: int, bos: int, eos: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_DIM,
            intermediate_size=2 * TEXT_DIM,
            projection_dim=TEXT_DIM,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas rescaled to zero terminal SNR (2305.08891), v-prediction: flat backgrounds of any colour can be sampled."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def make_tokenizer(corpus: Iterable[str], folder: Path, *, vocab_size: int = 640) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's format, learnt from the prompts; written to and read back from `folder`."""
    tokenizer = Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(list(corpus), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    # CLIP's own order: single characters, the same closing a word, then merges in order of rank, then the special tokens.
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in learnt["merges"]]
    words = [*alphabet, *(c + "</w>" for c in alphabet), *(m.replace(" ", "") for m in merges)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, BOS, EOS]))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    clip = CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=EOS,
    )
    clip.save_pretrained(str(folder))
    return CLIPTokenizer.from_pretrained(str(folder))
