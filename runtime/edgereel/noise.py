"""Named noise: the same seed and name give the same numbers in any order, on any machine.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a pure
function of a counter and a key, so a draw does not depend on which draws came before it. The key
is the seed, the counter names the draw. The normative text with test vectors is
engines/README.md; the integers are equal bit for bit everywhere, the normals to 1 ulp of float32
(sine, cosine and logarithm differ between C libraries).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["fnv1a32", "normal", "philox4x32"]

U64: TypeAlias = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key each round
_ROUNDS = 10
_BLOCKS_AT_ONCE = 1 << 16  # 2^18 normals; the temporaries of one pass stay near 10 MB


def normal(
    seed: int, name: str, chunk: int, step: int, shape: Sequence[int]
) -> NDArray[np.float32]:
    """Standard normal numbers, f32 of the shape, a pure function of the arguments.

    Element i (C order) comes from words of Philox block i // 4 with counter
    (block, step, chunk, fnv1a32(name)) and key (seed low, seed high), by Box-Muller in float64.
    A larger shape continues a smaller one.

    Args:
        seed: 0 .. 2^64 - 1.
        name: the value or stream that is drawn.
        chunk: index of the chunk in an `each` stage, else 0; 0 .. 2^32 - 1.
        step: index of the denoising step, else 0; 0 .. 2^32 - 1.
        shape: at most 2^34 elements.

    Raises:
        ValueError: a number is outside its range.
    """
    _check_range("seed", seed, 64)
    _check_range("chunk", chunk, 32)
    _check_range("step", step, 32)
    size = math.prod(shape)
    blocks = -(-size // 4)
    _check_range("number of elements", size, 34)
    key = (seed & 0xFFFFFFFF, seed >> 32)
    constant = np.array([step, chunk, fnv1a32(name)], dtype=np.uint64)
    out = np.empty(size, dtype=np.float32)
    for first in range(0, blocks, _BLOCKS_AT_ONCE):
        index = np.arange(first, min(first + _BLOCKS_AT_ONCE, blocks), dtype=np.uint64)
        counter = np.empty((len(index), 4), dtype=np.uint64)
        counter[:, 0] = index
        counter[:, 1:] = constant
        values = _box_muller(philox4x32(counter, key)).reshape(-1)
        part = out[4 * first : 4 * (first + len(index))]
        part[:] = values[: len(part)]
    return out.reshape(tuple(shape))


def philox4x32(counter: NDArray[np.integer], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten Philox rounds of every counter, u32 [N, 4] (Salmon et al. 2011, section 3.3).

    Args:
        counter: [N, 4], words 0 .. 2^32 - 1.
        key: two words 0 .. 2^32 - 1.
    """
    words = np.ascontiguousarray(counter.T, dtype=np.uint64)
    c0, c1, c2, c3 = words
    k0, k1 = key
    for _ in range(_ROUNDS):
        # 32 x 32 bit products fit uint64: the high halves mix, the low halves move on.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def fnv1a32(text: str) -> int:
    """The 32-bit FNV-1a hash of the text's UTF-8 bytes (Fowler, Noll, Vo)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def _box_muller(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Two pairs of normals per block, f64 [N, 4], from u32 [N, 4]."""
    # u is exact in float64 and never 0 or 1, so the logarithm is finite.
    u = (words + 0.5) * 2.0**-32
    radius = np.sqrt(-2 * np.log(u[:, 0::2]))
    angle = 2 * np.pi * u[:, 1::2]
    z = np.empty_like(u)
    z[:, 0::2] = radius * np.cos(angle)
    z[:, 1::2] = radius * np.sin(angle)
    return z


def _check_range(what: str, value: int, bits: int) -> None:
    """Nothing; raises ValueError unless 0 <= value < 2^bits (for a count: <= 2^bits)."""
    if not 0 <= value < 1 << bits:
        raise ValueError(
            f"The noise {what} is {value}. It must be between 0 and 2^{bits} - 1. Choose one there."
        )
