"""The C++ tokenizer gives the ids of Hugging Face `tokenizers` for tokenizers made as T5's is.

Alone: `pytest tests/test_cpp_t5.py`. The published file cannot be had here, so sentencepiece trains
a model with the published one's normalisation, nmt_nfkc, whose compiled table of characters does
not depend on the training, and transformers makes its tokenizer.json as it makes T5's.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from cpp_probe import Probe, Refused
from test_cpp_tokenizer import BASIC, fuzzed
from tokenizers import models, normalizers, pre_tokenizers

from edgereel.plan import TokenizerSpec
from edgereel.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")

ROOT = Path(__file__).parents[1]
COUNT = 10_000  # texts for the newest form of the file
# Characters that the table or the cutting into clusters treats apart, beside all of Unicode.
APART = [
    *range(0xFB00, 0xFB07), *range(0xFB1D, 0xFB50), *range(0xFDF0, 0xFDFE), *range(0xFF01, 0xFFEF),
    *range(0x2460, 0x2500), *range(0x3300, 0x33FF), *range(0x2100, 0x2190), *range(0x600, 0x606),
    *range(0x200B, 0x2010), *range(0x2028, 0x2030), *range(0x915, 0x93A), 0x94D, 0x93C, 0x958,
    0x95E, 0xE33, 0xEB3, 0xA9, 0xAE, 0x2764, 0xFE0F, 0x1F468, 0x1F3FD, *range(0x1F1E6, 0x1F1F0),
    0x340, 0x344, 0x374, 0x37E, 0x387, 0x1100, 0x1161, 0x11A8, 0xAC00, 0xAC01, 0x3131, 0xFFA1, 0,
    1, 0x7F, 0x85, 0x9F, 0xAD, 0xFFFD, 0x378, 0x6DD, 0xD4E, 0x2581,
]  # fmt: skip


def trained(normalization: str) -> Any:
    """A unigram model of sentencepiece with T5's ids, as its protocol buffer."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    lines = [
        *(ROOT / "README.md").read_text().split("\n"),
        "ça été, ﬁn ① Å",
        "красный круг",
        "\uff11\uff12\uff13",
    ]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, model_type="unigram", vocab_size=700,
        normalization_rule_name=normalization, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        character_coverage=0.995, num_threads=1, minloglevel=2,
    )  # fmt: skip
    model = schema.ModelProto()
    model.ParseFromString(written.getvalue())
    return model


def older(document: dict[str, Any]) -> None:
    """As in the file that google-t5/t5-small has: Metaspace in words of its time."""
    splits = [{"type": "WhitespaceSplit"},
              {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}]  # fmt: skip
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": splits}
    document["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst",
                              "stride": 0}  # fmt: skip
    document["model"].pop("byte_fallback", None)


def converted(document: dict[str, Any]) -> None:
    """As transformers 4 converts a spiece.model: white space is made plain by the normalizer."""
    steps = [
        document["normalizer"],
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    document["normalizer"] = {"type": "Sequence", "normalizers": steps}
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "split": True,
                                 "prepend_scheme": "always"}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    from transformers import T5Tokenizer

    folder, model = tmp_path_factory.mktemp("t5"), trained("nmt_nfkc")
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
    table = model.normalizer_spec.precompiled_charsmap
    assert len(table) > 200_000
    made = T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=table)
    made.backend_tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=9)
    content = made.backend_tokenizer.to_str()
    for name, change in (("newest", None), ("older", older), ("converted", converted)):
        document = json.loads(content)
        assert document["normalizer"]["type"] == "Precompiled"
        assert document["post_processor"]["type"] == "TemplateProcessing"
        if change is not None:
            change(document)
        (folder / f"{name}.json").write_text(json.dumps(document))
    # The table alone: every byte of what it makes is an id.
    letters = pre_tokenizers.ByteLevel.alphabet()
    plain = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    plain.normalizer = normalizers.Precompiled(table)
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.save(str(folder / "table.json"))
    return {file.stem: file for file in folder.iterdir()}


def compared(cpp: Probe, file: Path, length: int, texts: list[str]) -> list[int]:
    """The indices of texts that were cut; ids and masks are equal."""
    spec = TokenizerSpec(file="tokenizer.json", length=length, pad_id=0)
    ids, mask, cut = Tokenizer(file, spec).encode(texts)
    answer = cpp.ask("tokens", file=str(file), length=length, pad_id=0, texts=texts)
    found = np.frombuffer(answer, np.int64)
    wrong = np.nonzero((found[: ids.size].reshape(ids.shape) != ids).any(1))[0]
    assert not len(wrong), [[ascii(texts[i]), ids[i], found[: ids.size].reshape(ids.shape)[i]]
                            for i in wrong[:3]]  # fmt: skip
    np.testing.assert_array_equal(found[ids.size : 2 * ids.size], mask.reshape(-1))
    assert found[2 * ids.size :].tolist() == cut
    return cut


def text(chance: random.Random) -> str:
    """A text of words that the model knows, of characters apart, and of everything else."""
    pieces = []
    for _ in range(chance.randint(0, 5)):
        kind = chance.randrange(4)
        if kind == 0:
            pieces.append(fuzzed(chance))
        elif kind == 1:
            pieces.append("".join(chr(chance.choice(APART)) for _ in range(chance.randint(1, 5))))
        elif kind == 2:
            marks = [chr(chance.choice([0x300, 0x301, 0x308, 0x323, 0x345, 0x5B0, 0x94D, 0x200D]))
                     for _ in range(chance.randint(1, 3))]  # fmt: skip
            pieces.append(chr(chance.choice([*APART, *range(0x41, 0x250)])) + "".join(marks))
        else:
            known = [" the red circle", "moves </s> ", "<extra_id_7>", "<pad>x", " a", "<unk>"]
            pieces.append(chance.choice([*known, "kernels", "▁▁", "\t", "don't", "   "]))
    return "".join(pieces)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["newest", "older", "converted"])
def test_ids_are_those_of_tokenizers(cpp: Probe, files: Mapping[str, Path], name: str) -> None:
    chance, some_cut = random.Random(11), 0
    count = COUNT if name == "newest" else COUNT // 5
    for _ in range(0, count, 1000):
        texts = [text(chance) for _ in range(1000)]
        some_cut += len(compared(cpp, files[name], 24, texts))
    assert 0 < some_cut < count / 2


def test_texts_on_purpose(cpp: Probe, files: Mapping[str, Path]) -> None:
    """Unknown characters side by side and apart, spaces at the ends, nothing at all."""
    texts = [
        *("", " ", "  a red circle  ", "🔴🔴🔴", "🔴 🔴", "x🔴y🔴🔴z", "\u200b", "a\u0301\u0301"),
        *("\u3000ﬁ\uff4e\uff45①②\u3000", "①\u0301", "\u0915\u094d\u0958\u0300", "\u0600ﬁ", "\r\n"),
        *("👩🏽\u200d🚀", "©\u200d©\u0301", "🇩🇪🇫🇷🇩", "\x00a", "한국어", "\u1112\u1161\u11ab", "ﷺ"),
        *("<extra_id_0> <extra_id_99>", "word" * 400),
    ]
    for name in ("newest", "older", "converted"):
        for length in (2, 8, 512):
            compared(cpp, files[name], length, texts)
    newest = json.loads(files["newest"].read_text())
    unknown = newest["model"]["unk_id"]
    answer = cpp.ask("tokens", file=str(files["newest"]), length=8, pad_id=0, texts=["🔴🔴🔴"])
    assert np.frombuffer(answer, np.int64)[:8].tolist().count(unknown) == 1


@pytest.mark.slow
def test_the_table_makes_of_every_character_what_it_should(
    cpp: Probe, files: Mapping[str, Path]
) -> None:
    """By itself, in front of a mark and behind one, a joiner, a letter; then pairs by chance."""
    points = [c for c in BASIC if c < 0x3400 or c > 0xF8FF or c % 97 == 0]
    texts = [f"{chr(c)}a{chr(c)}\u0301{chr(c)}\u200d©{chr(c)}\u0915\u0300" for c in points]
    chance = random.Random(2)
    texts += ["".join(chr(chance.choice(APART)) for _ in range(6)) for _ in range(1500)]
    texts += ["".join(chr(chance.choice(BASIC)) for _ in range(6)) for _ in range(1500)]
    for start in range(0, len(texts), 5000):
        compared(cpp, files["table"], 200, texts[start : start + 5000])


@pytest.mark.parametrize(
    "table", ["", "AAAA", "A", "====", "AAAAAAAA", "/////w==", "*" * 8, "BAAAAAAEAAD/"]
)
def test_damaged_tables_are_refused(
    cpp: Probe, files: Mapping[str, Path], tmp_path: Path, table: str
) -> None:
    document = json.loads(files["newest"].read_text())
    document["normalizer"]["precompiled_charsmap"] = table
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(Refused, match="its precompiled_charsmap is damaged"):
        cpp.ask("tokens", file=str(tmp_path / "t.json"), length=8, pad_id=0, texts=["a"])


def test_nodes_that_lead_nowhere_are_no_entries(
    cpp: Probe, files: Mapping[str, Path], tmp_path: Path
) -> None:
    """The bytes of the trie changed by chance: some answer, and no access out of bounds."""
    document = json.loads(files["newest"].read_text())
    original = base64.b64decode(document["normalizer"]["precompiled_charsmap"])
    generator = np.random.default_rng(3)
    for _ in range(3):
        table = np.frombuffer(original, np.uint8).copy()
        size = int.from_bytes(original[:4], "little")
        places = generator.integers(4, 4 + size, size // 4)
        table[places] = generator.integers(0, 256, len(places))
        changed = base64.b64encode(table.tobytes()).decode()
        document["normalizer"]["precompiled_charsmap"] = changed
        (tmp_path / "t.json").write_text(json.dumps(document))
        texts = [chr(c) for c in range(1, 0xD800)]
        cpp.ask("tokens", file=str(tmp_path / "t.json"), length=8, pad_id=0, texts=texts)
