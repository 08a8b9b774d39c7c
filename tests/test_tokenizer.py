"""Ids, mask and what happens to long texts: `pytest tests/test_tokenizer.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereel.errors import InputError, PlanError
from edgereel.plan import TokenizerSpec
from edgereel.tokenizer import Tokenizer

FILE = Path(__file__).parent / "data" / "toy" / "tokenizer.json"
SPEC = TokenizerSpec(file="tokenizer.json", length=8, pad_id=0)
TOKENIZER = Tokenizer(FILE, SPEC)


def test_ids_and_mask() -> None:
    ids, mask, cut = TOKENIZER.encode(["a red circle", "", "RED nonsense"])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.tolist() == [
        [1, 4, 5, 8, 2, 0, 0, 0],
        [1, 2, 0, 0, 0, 0, 0, 0],
        [1, 5, 3, 2, 0, 0, 0, 0],
    ]
    assert mask.sum(1).tolist() == [5, 2, 4]
    assert cut == []


def test_long_text_keeps_its_special_tokens() -> None:
    ids, mask, cut = TOKENIZER.encode(["a " * 6, "a " * 7, "a " * 500])
    assert ids.tolist() == [[1, 4, 4, 4, 4, 4, 4, 2]] * 3
    assert mask.all()
    assert cut == [1, 2]


def test_padding_of_the_file_is_ignored(tmp_path: Path) -> None:
    document = json.loads(FILE.read_text())
    document["padding"] = {
        "strategy": {"Fixed": 20}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 3, "pad_type_id": 0, "pad_token": "<unknown>",
    }  # fmt: skip
    document["truncation"] = {
        "direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(document))
    spec = TokenizerSpec(file="t.json", length=5, pad_id=9)
    ids, mask, _ = Tokenizer(tmp_path / "t.json", spec).encode(["a", "a red blue green"])
    assert ids.tolist() == [[1, 4, 2, 9, 9], [1, 4, 5, 6, 2]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(InputError, match="half a character"):
            TOKENIZER.encode([text])
        return
    ids, mask, _ = TOKENIZER.encode([text])
    assert ids.shape == mask.shape == (1, 8)
    assert ids[0, 0] == 1 and ids[0, mask.sum() - 1] == 2


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json", '{"model": 7}'])
def test_file_that_is_no_tokenizer(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(
        PlanError, match=r"^files\.tokenizer\.json: .*expected a tokenizers JSON file"
    ):
        Tokenizer(tmp_path / "t.json", SPEC)


def test_no_room_for_the_text() -> None:
    with pytest.raises(PlanError, match="adds 2 tokens of its own"):
        Tokenizer(FILE, TokenizerSpec(file="tokenizer.json", length=2, pad_id=0))
