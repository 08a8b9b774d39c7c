"""Writes ../src/unicode_tables.inc: `python runtime/cpp/tools/unicode_tables.py`.

What `tokenizers` takes for a letter, a number, a space and a part of a word, and what it makes of
every character in lower case and in NFC, found by asking it. So the C++ tokenizer knows the
Unicode of the library that it is held to.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

TABLES = Path(__file__).parents[1] / "src" / "unicode_tables.inc"
POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xAC00 + 11172)  # decomposed by a formula
LETTER, NUMBER, SPACE, WORD = 1, 2, 4, 8

NFC, NFD, LOWER = normalizers.NFC(), normalizers.NFD(), normalizers.Lowercase()


def matched(pattern: str) -> set[int]:
    """The characters that a regular expression for one matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found: set[int] = set()
    for start in range(0, len(POINTS), 4096):
        text = "".join(map(chr, POINTS[start : start + 4096]))
        found.update(ord(c) for piece, _ in split.pre_tokenize_str(text) for c in piece)
    return found


def classes() -> Iterable[tuple[int, ...]]:
    """Ranges (first, last, bits) of characters of one class."""
    letters, numbers, spaces = matched(r"\p{L}"), matched(r"\p{N}"), matched(r"\s")
    words = matched_words()
    bits = {
        c: LETTER * (c in letters) + NUMBER * (c in numbers) + SPACE * (c in spaces)
        + WORD * (c in words)
        for c in POINTS
    }  # fmt: skip
    return [(*ends, bit) for *ends, bit in ranges({c: b for c, b in bits.items() if b})]


def matched_words() -> set[int]:
    """The characters that the pre-tokenizer `Whitespace` joins to a word."""
    split = pre_tokenizers.Whitespace()
    return {c for c in POINTS if len(split.pre_tokenize_str(f"a{chr(c)}")) == 1 and chr(c).strip()
            and split.pre_tokenize_str(f"a{chr(c)}")[0][0] == f"a{chr(c)}"}  # fmt: skip


def ranges(values: dict[int, int]) -> list[tuple[int, int, int]]:
    """Runs of neighbours with one value."""
    found: list[tuple[int, int, int]] = []
    for c, value in sorted(values.items()):
        if found and found[-1][1] == c - 1 and found[-1][2] == value:
            found[-1] = (found[-1][0], c, value)
        else:
            found.append((c, c, value))
    return found


def lower() -> Iterable[tuple[int, ...]]:
    """Runs (first, last, step, what is added) of characters that have a lower case."""
    found: list[tuple[int, int, int, int]] = []
    for c in POINTS:
        low = LOWER.normalize_str(chr(c))
        if low == chr(c) or len(low) > 1:
            assert len(low) == 1 or (c, low) == (0x130, "i\u0307"), (c, low)  # in unicode.cc
            continue
        first, last, step, added = found[-1] if found else (0, 0, 0, 0)
        same = found and added == ord(low) - c and c - last <= 2
        if same and (step in (0, c - last)):
            found[-1] = (first, c, c - last, added)
        else:
            found.append((c, c, 0, ord(low) - c))
    return [(first, last, max(step, 1), added) for first, last, step, added in found]


def decomposed() -> Iterable[tuple[int, ...]]:
    """(character, first part, second part or 0, whether the parts are composed to it again)."""
    for c in POINTS:
        parts = NFD.normalize_str(chr(c))
        if parts == chr(c) or c in HANGUL:
            continue
        whole = NFC.normalize_str(chr(c)) == chr(c)
        if len(parts) > 2 and whole:
            parts = NFC.normalize_str(parts[:-1]) + parts[-1]
        elif len(parts) > 2:
            parts = unicodedata.decomposition(chr(c))
            parts = "".join(chr(int(part, 16)) for part in parts.split())
        assert 1 <= len(parts) <= 2, hex(c)
        yield c, ord(parts[0]), ord(parts[1]) if len(parts) == 2 else 0, int(whole)


def combining() -> Iterable[tuple[int, ...]]:
    """Ranges (first, last, class) of characters that are put into order."""
    marks = [c for c in POINTS if ordered(chr(c)) and NFD.normalize_str(chr(c)) == chr(c)]
    known: dict[int, str] = {240: "\u0345"}  # class -> a character of it
    for c in marks:
        if unicodedata.combining(chr(c)):
            known.setdefault(unicodedata.combining(chr(c)), chr(c))
    # What is not behind a mark of its own class or a lower one is put in front of it.
    found = {
        c: max(k for k, one in known.items() if NFD.normalize_str(one + chr(c)) == one + chr(c))
        for c in marks
    }
    return ranges({**found, 0x345: 240})


def ordered(mark: str) -> bool:
    """Whether a character is put in front of one of the highest class."""
    return mark != "\u0345" and NFD.normalize_str("\u0345" + mark) == mark + "\u0345"


def written(name: str, rows: Iterable[Sequence[int]]) -> str:
    """An array of rows."""
    lines, line = [], ""
    for row in rows:
        word = "{" + ",".join(f"0x{n:X}" if n >= 10 else str(n) for n in row) + "},"
        if len(line) + len(word) > 100:
            lines.append(line)
            line = ""
        line += word
    return f"constexpr {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def main() -> None:
    """Writes the file."""
    parts = [
        f"// Made by tools/unicode_tables.py from tokenizers {tokenizers.__version__}.\n",
        written("ClassRange kClasses", classes()),
        written("LowerRange kLower", lower()),
        written("Decomposition kDecompositions", decomposed()),
        written("CombiningRange kCombining", combining()),
    ]
    temporary = TABLES.with_suffix(".part")
    temporary.write_text("\n".join(parts), encoding="ascii")
    temporary.replace(TABLES)


if __name__ == "__main__":
    main()
