"""Endless training batches of the `shapes` world: scenes, captions and their tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

from .captions import all_captions
from .networks import CHECKPOINT, LENGTH
from .world import Scenes, sample_scenes

__all__ = ["Data"]


def _tokenizer(path: Path) -> Tokenizer:
    """The byte-level BPE tokenizer, trained on sampled captions if it is not there yet."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    rng = np.random.default_rng(0)
    texts = all_captions(20000, sample_scenes(20000, rng), rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<end>", "<start>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<end>", 1), ("<start>", 2)]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


class Data:
    """Endless batches of scenes with captions, tokenised."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.tokenizer = _tokenizer(CHECKPOINT / "tokenizer" / "tokenizer.json")
        self.tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=LENGTH)
        self.tokenizer.enable_truncation(LENGTH)

    def scenes(self, count: int, fps: np.ndarray | None = None) -> tuple[Scenes, Tensor, Tensor]:
        """Scenes with token ids i64 [B, L] and mask f32 [B, L] of their captions."""
        scenes = sample_scenes(count, self.rng, fps)
        ids, mask = self.tokens(all_captions(count, scenes, self.rng))
        return scenes, ids, mask

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """ids i64 [B, L] and mask f32 [B, L] of texts."""
        encoded = self.tokenizer.encode_batch(texts)
        return (
            torch.tensor([item.ids for item in encoded]),
            torch.tensor([item.attention_mask for item in encoded], dtype=torch.float32),
        )

    def uniform(self, *shape: int) -> Tensor:
        """f32 uniform draws in 0..1."""
        return torch.from_numpy(self.rng.random(shape, dtype=np.float32))

    def integers(self, high: int, count: int) -> Tensor:
        """i64 [count] uniform in 0..high-1."""
        return torch.from_numpy(self.rng.integers(high, size=count))

    def fps(self, count: int, progress: float) -> np.ndarray:
        """Frame rates in 1..30 from a beta law that moves from high to low rates."""
        a = 6.0 - 4.6 * progress
        return np.asarray(1 + 29 * self.rng.beta(a, 1.2, count))
