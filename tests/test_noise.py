"""Named noise against published Philox vectors, stored draws and the normal distribution.

Integers must be equal; normals must be within 1 ulp of float32 of the stored ones (sine, cosine
and logarithm differ between C libraries). The stored draws are the table of engines/README.md.
Alone: pytest tests/test_noise.py.
"""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel import noise
from edgereel.noise import fnv1a32, normal, philox4x32

# Random123, tests/kat_vectors, lines "philox4x32 10": counter, key, output.
KNOWN_ANSWERS = """
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""

STORED = """
0 x 0 0 843f06d6,7e9d34a2,b5cbb27d,a9f10ead bf930862,3d201b33,beda4f01,bf3585d0
7 decoder_noise 0 0 94dcedb7,ae2805b7,e8723374,12f10de3 bee21906,bf716a03,3ec913fe,3e49b4e9
7 decoder.z 0 1 9a33d508,6ad09c49,bae0d990,9da3967b bf5fb261,3f001193,bf17b130,bf070ea3
7 frames 2 0 c707f257,749bcb4b,9f8f76cc,c97bec8e bf2e9629,3e488035,3e65b036,bf7236ca
123456789 decoder.z 3 49 814661e0,b1defe11,4f446941,a9163704 becb69eb,bf8cb867,bf510325,bfa5d042
18446744073709551615 bruit-é 4294967295 4294967295 f1eb104a,58163662,9aac2076,20580acf be3ffb11,3e8effe2,3f342d8b,3f373ee0
"""  # noqa: E501


def stored_draws() -> list[tuple[int, str, int, int, list[int], list[int]]]:
    """(seed, name, chunk, step, words, float32 bits) of each stored line."""
    draws = []
    for line in STORED.strip().split("\n"):
        seed, name, chunk, step, words, normals = line.split()
        bits = ([int(word, 16) for word in part.split(",")] for part in (words, normals))
        draws.append((int(seed), name, int(chunk), int(step), *bits))
    return draws


@pytest.mark.parametrize("line", KNOWN_ANSWERS.split("\n")[1:-1])
def test_philox_known_answers(line: str) -> None:
    words = [int(word, 16) for word in line.split()]
    out = philox4x32(np.array([words[:4]], dtype=np.uint64), (words[4], words[5]))
    assert out.dtype == np.uint32
    assert out.tolist() == [words[6:]]


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """One block in Python integers, straight from section 3.3 of the paper."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return [c0, c1, c2, c3]


words = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(
    counters=st.lists(st.lists(words, min_size=4, max_size=4), min_size=1, max_size=5),
    key=st.tuples(words, words),
)
def test_philox_equals_the_scalar_form(counters: list[list[int]], key: tuple[int, int]) -> None:
    out = philox4x32(np.array(counters, dtype=np.uint64), key)
    assert out.tolist() == [scalar_philox(counter, list(key)) for counter in counters]


def test_fnv1a_known_answers() -> None:
    # From the authors' test suite (draft-eastlake-fnv, FNV-1a 32-bit).
    assert fnv1a32("") == 0x811C9DC5
    assert fnv1a32("a") == 0xE40C292C
    assert fnv1a32("foobar") == 0xBF9CF968
    assert fnv1a32("é") == ((((0x811C9DC5 ^ 0xC3) * 0x01000193) ^ 0xA9) * 0x01000193) % 2**32


def test_stored_draws() -> None:
    for seed, name, chunk, step, integers, bits in stored_draws():
        counter = np.array([[0, step, chunk, fnv1a32(name)]], dtype=np.uint64)
        assert philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).tolist() == [integers]
        ours = normal(seed, name, chunk, step, (4,)).view(np.int32).astype(np.int64)
        theirs = np.array(bits, dtype=np.uint32).view(np.int32).astype(np.int64)
        assert np.abs(ours - theirs).max() <= 1, (seed, name)


def test_normals_follow_the_specification() -> None:
    """Elements of the second and third block in Python floats, within 1 ulp of float32."""
    ours = normal(2**40 + 9, "x", 3, 2, (3, 4)).astype(np.float64)
    for block in range(3):
        w = scalar_philox([block, 2, 3, fnv1a32("x")], [9, 2**8])
        u = [(word + 0.5) / 2**32 for word in w]
        for pair in (0, 2):
            r, angle = math.sqrt(-2 * math.log(u[pair])), 2 * math.pi * u[pair + 1]
            expected = [r * math.cos(angle), r * math.sin(angle)]
            np.testing.assert_allclose(ours[block, pair : pair + 2], expected, rtol=1.2e-7)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7), (2, 0, 3), (1, 3, 2, 4, 4)])
def test_shapes(shape: tuple[int, ...]) -> None:
    z = normal(1, "x", 0, 0, shape)
    assert z.shape == shape and z.dtype == np.float32 and z.flags.c_contiguous
    # A larger shape continues a smaller one, in C order.
    np.testing.assert_array_equal(z.reshape(-1), normal(1, "x", 0, 0, (200,))[: z.size])


def test_passes_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = normal(5, "x", 1, 2, (4097,))
    monkeypatch.setattr(noise, "_BLOCKS_AT_ONCE", 7)
    np.testing.assert_array_equal(normal(5, "x", 1, 2, (4097,)), whole)


def test_temporary_memory_is_bounded() -> None:
    """2^21 normals are 8 MB; without passes the temporaries would be over 100 MB."""
    tracemalloc.start()
    z = normal(5, "x", 0, 0, (1 << 21,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - z.nbytes < 20e6


def test_distribution() -> None:
    """Moments within 5 standard errors, and Kolmogorov-Smirnov below its 1e-4 critical value."""
    n = 1 << 20
    z = normal(2024, "latents", 0, 0, (n,)).astype(np.float64)
    for power, mean, deviation in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        error = 5 * math.sqrt(deviation / n)  # variance of z^k is E z^2k - (E z^k)^2
        assert abs((z**power).mean() - mean) < error, power
    ordered = np.sort(z)[::64]
    cdf = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in ordered])
    assert np.abs(cdf - np.arange(0, n, 64) / n).max() < 2.23 / math.sqrt(n)
    for lag in (1, 2, 3, 4):
        assert abs((z[lag:] * z[:-lag]).mean()) < 5 / math.sqrt(n)


def test_every_argument_names_another_stream() -> None:
    calls = [
        (0, "x", 0, 0), (1, "x", 0, 0), (1 << 32, "x", 0, 0), (0, "y", 0, 0), (0, "x.z", 0, 0),
        (0, "x", 1, 0), (0, "x", 0, 1), (0, "", 0, 0), (2**64 - 1, "x", 2**32 - 1, 2**32 - 1),
    ]  # fmt: skip
    n = 20000
    draws = np.stack([normal(*call, (n,)) for call in calls]).astype(np.float64)
    correlation = draws @ draws.T / n - np.eye(len(calls))
    # 6: the diagonal holds means of z^2, whose standard error is sqrt(2 / n).
    assert np.abs(correlation).max() < 6 / math.sqrt(n)
    shared = np.intersect1d(draws[0], draws[1:])
    assert len(shared) < 50  # float32 values collide now and then, streams do not


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((-1, "x", 0, 0, (1,)), r"noise seed is -1. It must be between 0 and 2\^64 - 1"),
        ((2**64, "x", 0, 0, (1,)), "noise seed is 18446744073709551616"),
        ((0, "x", -1, 0, (1,)), r"noise chunk is -1. It must be between 0 and 2\^32 - 1"),
        ((0, "x", 0, 2**32, (1,)), "noise step is 4294967296"),
        ((0, "x", 0, 0, (2**20, 2**20)), "noise number of elements is 1099511627776"),
    ],
)
def test_numbers_outside_their_range_are_refused(call: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normal(*call)
