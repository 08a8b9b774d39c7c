"""Writes ../src/cluster_tables.inc: `python runtime/cpp/tools/cluster_tables.py`.

What a character does to the grapheme cluster that it stands in, found by asking `tokenizers`. Its
normalizer `Precompiled` tells: it replaces a cluster of less than six bytes by what stands for how
the cluster begins, and takes the characters of a longer one one by one. So a mark behind a
character with an entry is lost in a short cluster, and kept in a long one or beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers import normalizers
from unicode_tables import POINTS, ranges, written

TABLES = Path(__file__).parents[1] / "src" / "cluster_tables.inc"
FOLLOWS, EXTENDS, CONTROLS, PRECEDES, PICTURE, CONSONANT, LINKER = (1 << i for i in range(7))
JOINER = "\u200d"
MARK, KEPT = "\u0300", "\u0301"  # both extend; the second has an entry
KA, VIRAMA = "\u0915", "\u094d"  # a consonant, and what links it to the next
PICTURE_SIGN = "\u00a9"


def charsmap(entries: Mapping[str, str]) -> bytes:
    """A precompiled_charsmap of these entries, its trie as simple as can be: 256 nodes for each."""
    units, base, texts = [0] * 512, {b"": 256}, b""
    units[0] = 256 << 10
    for key, text in sorted((key.encode(), text) for key, text in entries.items()):
        for end in range(1, len(key) + 1):
            if key[:end] not in base:
                at = base[key[: end - 1]] ^ key[end - 1]
                base[key[:end]] = len(units)
                units[at] = key[end - 1] | (at ^ len(units)) << 10
                units += [0] * 256
        units[base[key[:-1]] ^ key[-1]] |= 1 << 8
        units[base[key]] = len(texts)
        texts += text.encode() + b"\0"
    return struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + texts


def classes() -> dict[int, int]:
    """The bits of every character that has some."""
    entries = {"a": "b", PICTURE_SIGN: "c", KEPT: "!", KA: "k"}
    made = normalizers.Precompiled(charsmap(entries)).normalize_str

    def kept(text: str) -> bool:
        """Whether a mark behind a text stays, so the last of it belongs to what is before."""
        return made(text + MARK).endswith(MARK)

    found: dict[int, int] = {}
    for point in POINTS:
        c = chr(point)
        follows = made(f"a{c}") == "b"
        bits = {
            FOLLOWS: follows,
            EXTENDS: follows and kept(f"{PICTURE_SIGN}{c}{JOINER}{PICTURE_SIGN}"),
            CONTROLS: made(c + 2 * KEPT).count("!") == 1 and c != KEPT,
            PRECEDES: kept(f"{c}a"),
            PICTURE: not follows and JOINER in made(f"{PICTURE_SIGN}{JOINER}{c}"),
            CONSONANT: kept(f"{c}{VIRAMA}{KA}"),
            LINKER: follows and kept(f"{KA}{c}{KA}"),
        }
        found[point] = sum(bit for bit, there in bits.items() if there)
    return {point: bits for point, bits in found.items() if bits}


def main() -> None:
    """Writes the file."""
    head = f"// Made by tools/cluster_tables.py from tokenizers {tokenizers.__version__}.\n"
    temporary = TABLES.with_suffix(".part")
    temporary.write_text(f"{head}\n{written('ClusterRange kClusters', ranges(classes()))}")
    temporary.replace(TABLES)


if __name__ == "__main__":
    main()
