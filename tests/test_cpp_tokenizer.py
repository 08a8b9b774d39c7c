"""The C++ tokenizer gives the ids of Hugging Face `tokenizers`.

Alone: `pytest tests/test_cpp_tokenizer.py`. For the files in this repository, and for one in the
form of CLIP's, trained here on a few words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from cpp_probe import Probe, Refused
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from edgereel.errors import PlanError
from edgereel.plan import TokenizerSpec
from edgereel.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / "export/edgereel_export/shapes/checkpoint/tokenizer/tokenizer.json"
TOY = Path(__file__).parent / "data" / "toy" / "tokenizer.json"
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"
SPACES = " \t\n\r\v\u00a0\u2003\u3000\u0085\u200b\ufeff"
BASIC = [*range(0xD800), *range(0xE000, 0x20000)]  # planes 0 and 1
COUNT = 10_000  # texts for each form of tokenizer


def clip(pattern: str = CLIP, *, normalized: bool = False) -> str:
    """A tokenizer as transformers makes CLIP's from its older files."""
    made = tokenizers.Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[START, END],
    )  # fmt: skip
    made.train_from_iterator(["a red circle moves to the right, don't you think?", "ça été 123"] * 5
                             + [SHAPES.read_text()[:20_000]], trainer)  # fmt: skip
    made.add_special_tokens([tokenizers.AddedToken(START, normalized=normalized)])
    made.post_processor = processors.RobertaProcessing((END, 1), (START, 0), False, False)
    return made.to_str()


def unigram() -> str:
    """A tokenizer as T5's is, without a normalizer; test_cpp_t5.py has those with one."""
    made = tokenizers.Tokenizer(models.Unigram())
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    made.pre_tokenizer = pre_tokenizers.Sequence(splits)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, show_progress=False, special_tokens=["<pad>", END, "<unk>"],
        unk_token="<unk>",
    )  # fmt: skip
    texts = [" ".join(json.loads(SHAPES.read_text())["model"]["vocab"])] * 3
    made.train_from_iterator([*texts, "a red circle moves to the right, don't you think?"], trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, 1)]
    )
    return made.to_str()


def spaced(content: str) -> str:
    """The tokenizer whose special tokens take the spaces around them."""
    document = json.loads(content)
    for token in document["added_tokens"]:
        token.update(lstrip=True, rstrip=token["id"] % 2 == 0)
    return json.dumps(document)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    texts = {
        "shapes": SHAPES.read_text(),
        "toy": TOY.read_text(),
        "clip": clip(),
        "newer clip": clip(rf"<\|startoftext\|>|<\|endoftext\|>|{CLIP}", normalized=True),
        "spaces around": spaced(clip()),
        "unigram": unigram(),
    }
    for name, text in texts.items():
        (folder / f"{name}.json").write_text(text)
    return {name: folder / f"{name}.json" for name in texts}


def fuzzed(chance: random.Random) -> str:
    """A text of words, signs, spaces, marks and characters of all of Unicode."""
    words = [
        *("a red circle", "DON'T", "they'll", "we've I'd", "'S", "''re", "<end>", START, END),
        *("<|StartOfText|>", " <pad>  ", "x" * 90),
    ]
    pieces = {
        lambda: chance.choice(words): 3,
        lambda: chance.choice(SPACES) * chance.randint(1, 3): 3,
        lambda: "".join(chance.choice("abcXYZ019.,!?'\"-_<>|\\/+=") for _ in range(6)): 3,
        lambda: chr(chance.randrange(0xC0, 0x250)) + chr(chance.randrange(0x300, 0x370)): 2,
        lambda: chr(chance.randrange(0x1100, 0x1200)) + chr(chance.randrange(0x1160, 0x1200)): 1,
        lambda: chr(chance.randrange(0xAC00, 0xD7A4)) + chr(chance.randrange(0x11A7, 0x11C4)): 1,
        lambda: chr(chance.choice(BASIC)): 2,
        lambda: chr(chance.randrange(0x20000, 0x110000)): 1,
        lambda: "".join(chr(chance.randrange(0x591, 0x6DD)) for _ in range(3)): 1,
        lambda: chance.choice("İẞſßÅΣς🔴👩🏽‍🚀½²ⅷ٣"): 2,
    }
    chosen = chance.choices(list(pieces), list(pieces.values()), k=chance.randint(0, 9))
    return "".join(piece() for piece in chosen)


@pytest.mark.parametrize(
    "name", ["shapes", "toy", "clip", "newer clip", "spaces around", "unigram"]
)
def test_ids_are_those_of_tokenizers(cpp: Probe, files: Mapping[str, Path], name: str) -> None:
    chance = random.Random(5)
    spec = TokenizerSpec(file="tokenizer.json", length=20, pad_id=7)
    python = Tokenizer(files[name], spec)
    count = COUNT if name in ("shapes", "clip") else COUNT // 10
    some_cut = False
    for _ in range(0, count, 500):
        texts = [fuzzed(chance) for _ in range(500)]
        answer = cpp.ask("tokens", file=str(files[name]), length=20, pad_id=7, texts=texts)
        ids, mask, cut = python.encode(texts)
        found = np.frombuffer(answer, np.int64)
        wrong = np.nonzero((found[: ids.size].reshape(ids.shape) != ids).any(1))[0]
        assert not len(wrong), [texts[i] for i in wrong[:3]]
        np.testing.assert_array_equal(found[ids.size : 2 * ids.size], mask.reshape(-1))
        assert found[2 * ids.size :].tolist() == cut
        some_cut |= bool(cut)
    assert some_cut


def test_every_character_by_itself(cpp: Probe, files: Mapping[str, Path]) -> None:
    """Between letters, so that what joins and what parts shows."""
    spec = TokenizerSpec(file="tokenizer.json", length=12, pad_id=0)
    python = Tokenizer(files["clip"], spec)
    points = [
        c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x3000 or c % 29 == 0)
    ]
    texts = [f"a{chr(c)}e{chr(c)}\u0301 {chr(c)}" for c in points]
    for start in range(0, len(texts), 5000):
        some = texts[start : start + 5000]
        answer = cpp.ask("tokens", file=str(files["clip"]), length=12, pad_id=0, texts=some)
        ids, _, _ = python.encode(some)
        found = np.frombuffer(answer, np.int64)[: ids.size].reshape(ids.shape)
        wrong = np.nonzero((found != ids).any(1))[0]
        assert not len(wrong), [hex(points[start + i]) for i in wrong[:9]]


def test_a_long_word_is_quick(cpp: Probe, files: Mapping[str, Path]) -> None:
    spec = TokenizerSpec(file="tokenizer.json", length=77, pad_id=0)
    text = "redcircle" * 5000
    ids, _, _ = Tokenizer(files["clip"], spec).encode([text])
    answer = cpp.ask("tokens", file=str(files["clip"]), length=77, pad_id=0, texts=[text])
    assert np.frombuffer(answer, np.int64)[:77].tolist() == ids[0].tolist()


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not json", '{"model": 7}'])
def test_file_that_is_no_tokenizer(cpp: Probe, tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(
        Refused, match=r"^files\.tokenizer\.json: .*expected a tokenizers JSON file"
    ):
        cpp.ask("tokens", file=str(tmp_path / "t.json"), length=8, pad_id=0, texts=["a"])


def test_what_is_not_known_is_named(cpp: Probe, tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    made.save(str(tmp_path / "t.json"))
    asked = {"file": str(tmp_path / "t.json"), "length": 8, "pad_id": 0, "texts": ["a"]}
    with pytest.raises(Refused, match="its model is a WordPiece"):
        cpp.ask("tokens", **asked)
    document = json.loads(unigram())
    document["normalizer"] = {"type": "Nmt"}
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(Refused, match="its normalizer is a Nmt"):
        cpp.ask("tokens", **asked)


def test_no_room_for_the_text(cpp: Probe) -> None:
    asked = {"file": str(TOY), "length": 2, "pad_id": 0, "texts": ["a"]}
    with pytest.raises(Refused) as caught:
        cpp.ask("tokens", **asked)
    with pytest.raises(PlanError) as wanted:
        Tokenizer(TOY, TokenizerSpec(file="tokenizer.json", length=2, pad_id=0))
    assert str(caught.value) == str(wanted.value)
