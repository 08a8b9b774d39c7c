"""Texts to ids, with Hugging Face `tokenizers` and nothing of the padding in its file.

Special tokens come from the file's post-processor. A text that is too long loses its end, never
its special tokens; one that is too short is filled with the plan's pad_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from edgereel.errors import InputError, PlanError
from edgereel.plan import TokenizerSpec

__all__ = ["Tokenizer"]


class Tokenizer:
    """One tokenizer of a plan."""

    def __init__(self, path: Path, spec: TokenizerSpec) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises a plain Exception
            raise PlanError.at(
                f"files.{spec.file}", f"cannot be read ({error})", "a tokenizers JSON file"
            ) from None
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if special >= spec.length:
            raise PlanError.at(
                f"files.{spec.file}", f"adds {special} tokens of its own", f"below {spec.length}"
            )
        self._spec = spec
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.length)

    def encode(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
        """ids i64 [G, L], mask i64 [G, L] with 1 = token of the text, indices of texts cut short.

        Raises:
            InputError: a text is not Unicode.
        """
        ids = np.full((len(texts), self._spec.length), self._spec.pad_id, np.int64)
        mask = np.zeros_like(ids)
        cut = []
        for index, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the text {text!a} has half a character at position {error.start}; "
                    f"expected Unicode text. Type it again, or read it as UTF-8."
                ) from None
            encoding = self._tokenizer.encode(text)
            ids[index, : len(encoding.ids)] = encoding.ids
            mask[index, : len(encoding.ids)] = 1
            if encoding.overflowing:
                cut.append(index)
        return ids, mask, cut
