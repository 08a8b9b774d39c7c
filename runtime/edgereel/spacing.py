"""Which training timesteps a sampler visits: one pure function per published rule.

Every function takes (n, T), the number of steps and of training timesteps, and returns
f64 [n], strictly decreasing, inside [0, T). Only `linspace` gives fractional timesteps; the
published DDIM and DDPM "linspace" rounds them, which is the rule called `unclip` here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SPACINGS",
    "Spacing",
    "adm",
    "leading",
    "leading_plus_1",
    "linspace",
    "spaced_timesteps",
    "trailing",
    "unclip",
]

F64: TypeAlias = NDArray[np.float64]
Spacing: TypeAlias = Callable[[int, int], F64]


def leading(n: int, T: int) -> F64:
    """Multiples of floor(T/n), down to 0 (Ho et al. 2020 code; diffusers `leading`).

    Raises:
        ValueError: n is not in 1..T.
    """
    _check_count(n, T)
    return np.arange(n - 1, -1, -1, dtype=np.float64) * (T // n)


def leading_plus_1(n: int, T: int) -> F64:
    """`leading` shifted up by one, down to 1 (Stable Diffusion's steps_offset 1).

    Raises:
        ValueError: n is not in 1..T-1; with n = T the first timestep would be T.
    """
    if n == T:
        raise ValueError(
            f"Spacing 'leading+1' with {n} steps would start at timestep {T}. The last training "
            f"timestep is {T - 1}. Use at most {T - 1} steps, or spacing 'leading'."
        )
    return leading(n, T) + 1.0


def trailing(n: int, T: int) -> F64:
    """round(T - k T/n) - 1, from T-1 down (Lin et al. 2023, arXiv:2305.08891, table 2).

    Ties are rounded as in diffusers, whose list has one entry too many for some n; not here.

    Raises:
        ValueError: n is not in 1..T.
    """
    _check_count(n, T)
    # The difference is numpy.arange's own, as published: -T/n itself rounds ties differently.
    stride = (T - T / n) - T
    timesteps: F64 = np.rint(T + np.arange(n, dtype=np.float64) * stride) - 1.0
    return timesteps


def linspace(n: int, T: int) -> F64:
    """n evenly spaced values from T-1 to 0, fractional (the Euler samplers' rule).

    One step starts at T-1; the published code would then start at 0, which cannot denoise.

    Raises:
        ValueError: n is not in 1..T.
    """
    _check_count(n, T)
    # Counted up and reversed, as published: the other direction rounds differently.
    return np.linspace(0, T - 1, n)[::-1].copy() if n > 1 else np.array([T - 1.0])


def adm(n: int, T: int) -> F64:
    """Evenly spaced from T-1 to 0, summed in float64, half to even (ADM/GLIDE respacing).

    One step starts at T-1; the published code would then start at 0, which cannot denoise.

    Raises:
        ValueError: n is not in 1..T.
    """
    _check_count(n, T)
    if n == 1:
        return np.array([T - 1.0])
    # Summed, not multiplied, because the published loop accumulates its rounding errors.
    strides = np.full(n, (T - 1) / (n - 1))
    strides[0] = 0.0
    timesteps: F64 = np.rint(np.cumsum(strides, dtype=np.float64))[::-1].copy()
    return timesteps


def unclip(n: int, T: int) -> F64:
    """round(k (T-1)/(n-1)), from T-1 to 0 (Karlo; also DDIM's and DDPM's rounded linspace).

    One step starts at T-1; the published formula is undefined there.

    Raises:
        ValueError: n is not in 1..T.
    """
    _check_count(n, T)
    if n == 1:
        return np.array([T - 1.0])
    timesteps: F64 = np.rint(np.arange(n - 1, -1, -1, dtype=np.float64) * ((T - 1) / (n - 1)))
    return timesteps


SPACINGS: dict[str, Spacing] = {
    "leading": leading,
    "leading+1": leading_plus_1,
    "trailing": trailing,
    "linspace": linspace,
    "adm": adm,
    "unclip": unclip,
}


def spaced_timesteps(spacing: str, n: int, T: int) -> F64:
    """The n timesteps of a named spacing, f64 [n], strictly decreasing in [0, T).

    Raises:
        ValueError: the name is unknown, or n does not fit.
    """
    rule = SPACINGS.get(spacing)
    if rule is None:
        raise ValueError(
            f"Timestep spacing {spacing!r} is unknown. Known: {', '.join(SPACINGS)}. "
            "Choose one of these in the plan."
        )
    return rule(n, T)


def _check_count(n: int, T: int) -> None:
    """Nothing; raises ValueError unless 1 <= n <= T."""
    if not 1 <= n <= T:
        raise ValueError(
            f"The number of steps is {n}. It must be between 1 and {T}, the number of training "
            "timesteps. Change the steps."
        )
