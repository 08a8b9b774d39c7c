"""How much noise there is at each training timestep: tables of alphas_cumprod, f64 [T].

alphas_cumprod[t] is the variance that x0 keeps at timestep t: x = sqrt(it) x0 + sqrt(1 - it) eps.
A cascade stores its table in schedules/*.npy; the functions here make the published ones and read
levels from any.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "alphas_cumprod_cosine",
    "alphas_cumprod_linear",
    "alphas_cumprod_scaled_linear",
    "checked_table",
    "levels_at",
    "renoise_coefficients",
    "rescale_zero_terminal_snr",
    "shift_alphas_cumprod",
]

F64: TypeAlias = NDArray[np.float64]

# diffusers scheduling_euler_discrete.py: what alphas_cumprod = 0 counts as, to interpolate.
_ALPHA_FLOOR = 2.0**-24


def alphas_cumprod_linear(beta_start: float, beta_end: float, T: int = 1000) -> F64:
    """alphas_cumprod of evenly spaced betas, f64 [T] (Ho et al. 2020, arXiv:2006.11239)."""
    return _alphas_cumprod(np.linspace(beta_start, beta_end, T))


def alphas_cumprod_scaled_linear(beta_start: float, beta_end: float, T: int = 1000) -> F64:
    """alphas_cumprod of betas whose square roots are evenly spaced, f64 [T] (latent diffusion)."""
    return _alphas_cumprod(np.linspace(beta_start**0.5, beta_end**0.5, T) ** 2)


def alphas_cumprod_cosine(T: int = 1000, max_beta: float = 0.999) -> F64:
    """alphas_cumprod of the cosine schedule, f64 [T] (Nichol & Dhariwal 2021, arXiv:2102.09672)."""
    u = np.arange(T + 1) / T
    bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return _alphas_cumprod(np.minimum(1 - bar[1:] / bar[:-1], max_beta))


def rescale_zero_terminal_snr(alphas_cumprod: F64) -> F64:
    """The table with its last entry moved to exactly 0, f64 [T] (Lin et al. 2023, algorithm 1).

    sqrt(alphas_cumprod) is shifted and scaled; its first entry stays. Only v- and x0-prediction
    are defined at the last timestep of the result.
    """
    root = np.sqrt(checked_table(alphas_cumprod))
    rescaled: F64 = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return rescaled


def shift_alphas_cumprod(alphas_cumprod: F64, factor: float) -> F64:
    """The table with `factor` times the noise, f64 [T] (Hoogeboom et al. 2023, arXiv:2301.11093).

    The ratio of signal and noise amplitudes is divided by `factor` everywhere. Pictures of many
    alike pixels, and clips of many alike frames, need more noise to lose what they show.

    Raises:
        ValueError: `factor` is not a positive number.
    """
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor is {factor}; expected a number above 0.")
    table = checked_table(alphas_cumprod)
    shifted: F64 = table / (table + (1 - table) * factor**2)
    return shifted


def renoise_coefficients(
    alphas_cumprod: F64, t_from: float | None, t_to: float
) -> tuple[float, float]:
    """(c_x, c_z) of the forward process from t_from (None = clean) to t_to: x -> c_x x + c_z z.

    Raises:
        ValueError: t_to is below t_from, either leaves [0, T), or nothing of x0 is left at t_from.
    """
    table = checked_table(alphas_cumprod)
    start = 1.0 if t_from is None else float(levels_at(table, np.array([float(t_from)]))[0])
    end = float(levels_at(table, np.array([float(t_to)]))[0])
    if start == 0 or (t_from is not None and t_to < t_from):
        raise ValueError(
            f"Cannot add noise from timestep {t_from} to {t_to}. The second must not be lower, and "
            "the first must not be pure noise. Swap or change the two timesteps."
        )
    ratio = end / start
    return ratio**0.5, (1 - ratio) ** 0.5


def checked_table(alphas_cumprod: F64) -> F64:
    """The table as float64; ValueError unless [T], strictly decreasing, in [0, 1)."""
    table = np.asarray(alphas_cumprod, dtype=np.float64)
    valid = table.ndim == 1 and len(table) > 0
    if not (valid and table[0] < 1 and table[-1] >= 0 and np.all(np.diff(table) < 0)):
        raise ValueError(
            f"The alphas_cumprod table of shape {table.shape} is not a noise schedule. It must be "
            "one-dimensional, strictly decreasing, below 1 and never negative. Export it again."
        )
    return table


def levels_at(table: F64, timesteps: F64) -> F64:
    """alphas_cumprod at the timesteps, f64 [N], by linear interpolation of sigma / alpha."""
    if not (np.all(timesteps >= 0) and np.all(timesteps <= len(table) - 1)):
        raise ValueError(
            f"Timesteps {timesteps.min()} to {timesteps.max()} leave the schedule. Each must be "
            f"between 0 and {len(table) - 1}. Change the timesteps."
        )
    below = np.floor(timesteps).astype(np.int64)
    above = np.minimum(below + 1, len(table) - 1)
    nonzero = np.where(table == 0, _ALPHA_FLOOR, table)
    sigma_ve = np.sqrt((1 - nonzero) / nonzero)
    mixed = sigma_ve[below] + (timesteps - below) * (sigma_ve[above] - sigma_ve[below])
    # Whole timesteps read the table itself: exact, and 0 stays 0.
    return np.asarray(np.where(timesteps == below, table[below], 1 / (1 + mixed**2)), np.float64)


def _alphas_cumprod(betas: F64) -> F64:
    """cumprod(1 - betas), f64 [T]."""
    return np.cumprod(1 - betas, dtype=np.float64)
