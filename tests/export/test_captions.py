"""Captions of the shapes world: `pytest tests/export/test_captions.py`."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

pytest.importorskip("torch")

from edgereel_export.shapes import captions
from edgereel_export.shapes.captions import all_captions, held_out, plain
from edgereel_export.shapes.networks import CHECKPOINT, LENGTH
from edgereel_export.shapes.world import COLOURS, MOTIONS, SHAPES, sample_scenes

pytestmark = pytest.mark.torch
PROMPTS = list(product(COLOURS, SHAPES, MOTIONS))


@pytest.fixture(scope="module")
def training() -> list[str]:
    rng = np.random.default_rng(0)
    return all_captions(20000, sample_scenes(20000, rng), rng)


@pytest.fixture(scope="module")
def held() -> list[tuple[str, str, str, str]]:
    """(colour, shape, motion, sentence): every prompt in 40 wordings."""
    return [
        (*prompt, held_out(*prompt, np.random.default_rng([index, repeat])))
        for index, prompt in enumerate(PROMPTS)
        for repeat in range(40)
    ]


def one_of(*groups: object) -> str:
    words = [word for group in groups for word in group]  # type: ignore[attr-defined]
    return "(?:" + "|".join(re.escape(word) for word in words) + ")"


def grammar() -> re.Pattern[str]:
    """Everything that `caption` can produce, as one expression."""
    c = captions
    colour = one_of(COLOURS, *c._COLOUR_WORDS.values())
    shape = one_of(*c._SHAPE_WORDS.values())
    size = one_of(*c._SIZE_WORDS.values())
    ways = one_of(*c._WAYS.values(), c._ACROSS.values())
    participles, finite = zip(*c._VERBS, strict=True)
    slots = {
        "a": "(?:a |the |one )?",
        "thing": f"(?:{size} )?{colour} {shape}",
        "colour": colour,
        "shape": shape,
        "moving": f"(?:{one_of(participles)} {ways}|{one_of(c._STILL[0])})",
        "moves": f"(?:{one_of(finite)} {ways}|{one_of(c._STILL[1])})",
    }
    bodies = "|".join(pattern.replace(".", "[.]").format(**slots) for pattern in c._PATTERNS)
    return re.compile(f"(?:{bodies}){one_of(c._PLACES)}[.]?", re.IGNORECASE)


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+|[^a-z\s]", text.lower()))


def test_the_grammar_covers_every_training_caption(training: list[str]) -> None:
    """So that what it does not match is a sentence that training cannot contain."""
    known = grammar()
    assert [text for text in training if not known.fullmatch(text)] == []


def test_no_held_out_sentence_is_in_the_grammar(held: list[tuple[str, str, str, str]]) -> None:
    known = grammar()
    assert [text for *_, text in held if known.fullmatch(text)] == []


def test_held_out_sentences_use_only_training_words(
    training: list[str], held: list[tuple[str, str, str, str]]
) -> None:
    known = set().union(*map(words, training))
    assert set().union(*(words(text) for *_, text in held)) <= known


def test_held_out_sentences_say_what_they_were_asked_to(
    held: list[tuple[str, str, str, str]],
) -> None:
    for colour, shape, motion, text in held:
        phrases = (
            [phrase for group in captions._STILL for phrase in group]
            if motion == "still"
            else [*captions._WAYS[motion], captions._ACROSS[motion]]
        )
        assert colour in text, text
        assert shape in text, text
        assert any(phrase in text for phrase in phrases), text


def test_held_out_sentences_are_grammatical(held: list[tuple[str, str, str, str]]) -> None:
    """`is` is followed by a participle, a state or a colour; a subject by exactly one verb."""
    finite = {verb for _, verb in captions._VERBS} | {"stands", "stays", "does"}
    states = {"not", "at", "motionless", "still", *COLOURS}
    for *_, text in held:
        for after in re.findall(r"\bis (\w+)", text):
            assert after.endswith("ing") or after in states, text
        for sentence in text.split(". "):
            clauses = len(re.findall(r"\bis\b", sentence)) + len(words(sentence) & finite)
            if re.match(r"the \w+ that is ", sentence):
                assert clauses == 2, text
            else:
                assert clauses == int("one " not in sentence), text


def test_every_held_out_pattern_is_used(held: list[tuple[str, str, str, str]]) -> None:
    shapes = [re.sub(r"\\{\w+\\}", ".+", re.escape(p)) for p in captions._HELD_PATTERNS]
    assert 6 <= len(shapes) <= 8
    for shape in shapes:
        assert any(re.fullmatch(shape, text) for *_, text in held), shape


def test_every_prompt_fits_the_tokenizer(held: list[tuple[str, str, str, str]]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    path = CHECKPOINT / "tokenizer" / "tokenizer.json"
    if not path.exists():
        pytest.skip("the checkpoint of `shapes` is not here")
    encode = tokenizers.Tokenizer.from_file(str(path)).encode
    texts = [text for *_, text in held] + [plain(*prompt) for prompt in PROMPTS]
    assert max(len(encode(text).ids) for text in texts) <= LENGTH
