"""A scheduler is a table: noise schedules and samplers as rows of sixteen floats.

Every sampler here is a pure function from an alphas_cumprod table and timesteps to rows, float64
inside and float32 out. A denoising graph takes one row per step, forms x0 and eps, and returns

    x_next = c_x0 * x0 + c_eps * eps + c_prev * prev_x0 + c_noise * noise.

x is always variance preserving, x = alpha * x0 + sigma * eps, also for the Euler samplers, whose
published form is that x times sqrt(1 + sigma_ve^2) with sigma_ve = sigma / alpha. Because rows
multiply x0 and eps, one table serves eps-, v- and x0-prediction, and nothing here divides by
alpha, so schedules that end at alpha = 0 (zero terminal SNR) stay finite.

The timestep that follows t is the next one listed. diffusers' DDIMScheduler takes
t - T // n instead, which is a different timestep where n does not divide T (trailing) and for
every rounded-linspace list; our rows follow the papers.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgereel.levels import (
    alphas_cumprod_cosine,
    alphas_cumprod_linear,
    alphas_cumprod_scaled_linear,
    checked_table,
    levels_at,
    renoise_coefficients,
    rescale_zero_terminal_snr,
    shift_alphas_cumprod,
)
from edgereel.spacing import SPACINGS, spaced_timesteps

__all__ = [
    "FINALS",
    "ROW",
    "ROW_WIDTH",
    "SAMPLERS",
    "SPACINGS",
    "VARIANCES",
    "alphas_cumprod_cosine",
    "alphas_cumprod_linear",
    "alphas_cumprod_scaled_linear",
    "ddim_rows",
    "ddpm_rows",
    "dpmpp_2m_rows",
    "euler_ancestral_rows",
    "euler_rows",
    "renoise_coefficients",
    "rescale_zero_terminal_snr",
    "row_range",
    "sampler_rows",
    "shift_alphas_cumprod",
]

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]

ROW_WIDTH = 16
# t            timestep given to the network, may be fractional
# alpha sigma  x = alpha * x0 + sigma * eps on entry
# c_*          the update above
# logvar_*     a network that predicts its variance makes its noise multiplier of these:
#              exp(0.5 * (r * logvar_max + (1 - r) * logvar_min)), r in [0, 1]; both are 0
#              (multiplier 1) unless the variance is "learned_range"
# x_scale      multiplies x on entry; 1 but for the first row of an Euler sampler
ROW = (
    "t",
    "alpha",
    "sigma",
    "c_x0",
    "c_eps",
    "c_prev",
    "c_noise",
    "logvar_min",
    "logvar_max",
    "x_scale",
)
SAMPLERS = ("ddim", "ddpm", "euler", "euler_ancestral", "dpmpp_2m")
FINALS = ("one", "first")
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned_range")

_VARIANCE_FLOOR = 1e-20  # diffusers scheduling_ddpm.py:_get_variance; keeps the logarithm finite


def ddim_rows(alphas_cumprod: F64, timesteps: F64, *, eta: float = 0.0, final: str = "one") -> F32:
    """DDIM update as rows, one per step (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16).

    eps is the one that fits the (possibly clipped) x0: diffusers' use_clipped_model_output=True.

    Args:
        alphas_cumprod: f64 [T] in [0, 1), strictly decreasing, index = training timestep.
        timesteps: f64 [N], strictly decreasing, each in [0, T); fractions allowed.
        eta: 0 is deterministic, 1 has DDPM's posterior variance.
        final: alphas_cumprod after the last step: "one" is 1, "first" is alphas_cumprod[0].

    Returns:
        f32 [N, 16], columns ROW.

    Raises:
        ValueError: a table, timestep, eta or name outside the above.
    """
    t, now, after = _levels(alphas_cumprod, timesteps, final)
    kept, fresh = _posterior_shares(now, after)
    kept = (1 - eta**2) + eta**2 * kept  # of the next step's noise, the part that eps supplies
    if not eta >= 0 or np.any(kept < 0):
        raise ValueError(
            f"eta is {eta}. It must be between 0 and 1 (more is possible only while the noise of "
            "no step exceeds what the step may hold). Choose eta from 0 to 1."
        )
    sigma_after = np.sqrt(1 - after)
    return _rows(
        t,
        now,
        c_x0=np.sqrt(after),
        c_eps=sigma_after * np.sqrt(kept),
        c_noise=eta * sigma_after * np.sqrt(fresh),
    )


def ddpm_rows(alphas_cumprod: F64, timesteps: F64, *, variance: str = "fixed_small") -> F32:
    """DDPM update as rows (Ho et al. 2020, arXiv:2006.11239, eq. 7); also Karlo's UnCLIP sampler.

    The published coefficient c of x_t becomes c * alpha on x0 and c * sigma on eps. With both
    noises of eq. 7, the sum on x0 is sqrt(alphas_cumprod) of the next timestep. No noise is added
    by the last row; diffusers' DDPMScheduler adds some with "fixed_large" where the last timestep
    is not 0.

    Args:
        alphas_cumprod: f64 [T] in [0, 1), strictly decreasing, index = training timestep.
        timesteps: f64 [N], strictly decreasing, each in [0, T).
        variance: "fixed_small" and "fixed_small_log" are the posterior variance (two published
            spellings of one number), "fixed_large" the variance of the forward step,
            "learned_range" leaves c_noise 1 and gives both as logvar_min and logvar_max.

    Returns:
        f32 [N, 16], columns ROW.

    Raises:
        ValueError: a table, timestep or name outside the above.
    """
    if variance not in VARIANCES:
        raise ValueError(
            f"Variance {variance!r} is unknown. Known: {', '.join(VARIANCES)}. "
            "Choose one of these in the plan."
        )
    t, now, after = _levels(alphas_cumprod, timesteps, "one")
    kept, fresh = _posterior_shares(now, after)
    small = np.maximum((1 - after) * fresh, _VARIANCE_FLOOR)
    large = 1 - now / after
    columns = {"c_x0": np.sqrt(after), "c_eps": np.sqrt((1 - after) * kept)}
    if variance == "learned_range":
        columns |= {"c_noise": np.ones(len(t))}
        columns |= {"logvar_min": _log(small), "logvar_max": _log(large)}
    else:
        columns |= {"c_noise": np.sqrt(large if variance == "fixed_large" else small)}
    columns["c_noise"][-1] = 0.0
    return _rows(t, now, **columns)


def euler_rows(alphas_cumprod: F64, timesteps: F64, *, scale_noise: bool = True) -> F32:
    """Euler steps of the probability-flow ODE as rows (Karras et al. 2022, arXiv:2206.00364).

    x0 + sigma_ve * eps divided by sqrt(1 + sigma_ve^2) is alpha * x0 + sigma * eps: the rows are
    DDIM's with eta 0 that end clean. Own to Euler are the fractional timesteps, and
    initial noise of deviation sigma_ve instead of sqrt(1 + sigma_ve^2): x_scale of the first row.

    Args:
        alphas_cumprod: f64 [T] in [0, 1), strictly decreasing, index = training timestep.
        timesteps: f64 [N], strictly decreasing, each in [0, T); between two entries of the table
            sigma_ve is interpolated linearly.
        scale_noise: False gives x_scale 1, as published for the `leading` spacings.

    Returns:
        f32 [N, 16], columns ROW.

    Raises:
        ValueError: a table or timestep outside the above.
    """
    return _scaled_first(ddim_rows(alphas_cumprod, timesteps), scale_noise)


def euler_ancestral_rows(alphas_cumprod: F64, timesteps: F64, *, scale_noise: bool = True) -> F32:
    """Euler steps with ancestral noise as rows (k-diffusion `sample_euler_ancestral`).

    sigma_down = sigma_next^2 / sigma_ve and sigma_up^2 = sigma_next^2 - sigma_down^2 are, in
    variance preserving x, DDIM's coefficients with eta 1.

    Args:
        alphas_cumprod: as for `euler_rows`.
        timesteps: as for `euler_rows`.
        scale_noise: as for `euler_rows`.

    Returns:
        f32 [N, 16], columns ROW.

    Raises:
        ValueError: a table or timestep outside the above.
    """
    return _scaled_first(ddim_rows(alphas_cumprod, timesteps, eta=1.0), scale_noise)


def dpmpp_2m_rows(alphas_cumprod: F64, timesteps: F64) -> F32:
    """DPM-Solver++(2M), midpoint, as rows (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    The first and the last row are first order (DDIM), the last because it ends clean, where the
    log-SNR is infinite. After a timestep with alpha = 0 the row is first order too: its limit.

    Args:
        alphas_cumprod: f64 [T] in [0, 1), strictly decreasing, index = training timestep.
        timesteps: f64 [N], strictly decreasing, each in [0, T); fractions allowed.

    Returns:
        f32 [N, 16], columns ROW; c_prev multiplies the x0 of the row before.

    Raises:
        ValueError: a table or timestep outside the above.
    """
    t, now, after = _levels(alphas_cumprod, timesteps, "one")
    alpha, sigma = np.sqrt(now), np.sqrt(1 - now)
    c_x0, c_eps, c_prev = np.sqrt(after), np.sqrt(1 - after), np.zeros(len(t))
    half_log_snr = _log(alpha) - _log(sigma)
    h = np.diff(half_log_snr)
    middle = slice(1, -1)
    # h[1:] / h[:-1] is 1/r0 of the paper; c_x0 - c_eps * alpha / sigma is alpha_t (1 - exp(-h)).
    gain = c_x0[middle] - c_eps[middle] * alpha[middle] / sigma[middle]
    second = 0.5 * gain * (h[1:] / h[:-1])
    c_prev[middle] = -second
    c_x0[middle] += second
    return _rows(t, now, c_x0=c_x0, c_eps=c_eps, c_prev=c_prev)


def sampler_rows(
    sampler: str,
    alphas_cumprod: F64,
    spacing: str,
    steps: int,
    *,
    eta: float = 0.0,
    final: str = "one",
    variance: str = "fixed_small",
) -> F32:
    """Rows of a named sampler over a named spacing, f32 [steps, 16], columns ROW.

    One plan may offer several samplers, so each reads only what is published for it:
    `eta` and `final` belong to ddim, `variance` to ddpm; every other sampler ends clean.
    The Euler samplers scale the first x with every spacing but `leading` and `leading+1`, as
    diffusers does.

    Raises:
        ValueError: an unknown name, or steps outside 1..T.
    """
    table = checked_table(alphas_cumprod)
    timesteps = spaced_timesteps(spacing, steps, len(table))
    scale_noise = spacing not in ("leading", "leading+1")
    match sampler:
        case "ddim":
            return ddim_rows(table, timesteps, eta=eta, final=final)
        case "ddpm":
            return ddpm_rows(table, timesteps, variance=variance)
        case "euler":
            return euler_rows(table, timesteps, scale_noise=scale_noise)
        case "euler_ancestral":
            return euler_ancestral_rows(table, timesteps, scale_noise=scale_noise)
        case "dpmpp_2m":
            return dpmpp_2m_rows(table, timesteps)
    raise ValueError(
        f"Sampler {sampler!r} is unknown. Known: {', '.join(SAMPLERS)}. Choose one of these."
    )


def row_range(rows: F32, high: float | None = None, low: float | None = None) -> F32:
    """The rows with high >= t > low, f32 [M, 16]; None is no bound, M may be 0.

    x leaves the last of them at the next timestep of the full table. The first of them has no x0
    of a row before it, so its c_prev is given to c_x0, which makes it first order.
    """
    t = rows[:, ROW.index("t")]
    keep = np.ones(len(t), dtype=np.bool_)
    if high is not None:
        keep &= t <= high
    if low is not None:
        keep &= t > low
    part = rows[keep]
    if len(part):
        part[0, ROW.index("c_x0")] += part[0, ROW.index("c_prev")]
        part[0, ROW.index("c_prev")] = 0.0
    return part


def _levels(alphas_cumprod: F64, timesteps: F64, final: str) -> tuple[F64, F64, F64]:
    """(timesteps, alphas_cumprod at each, alphas_cumprod at the one after), each f64 [N]."""
    table = checked_table(alphas_cumprod)
    t = np.asarray(timesteps, dtype=np.float64)
    if t.ndim != 1 or len(t) == 0 or not np.all(np.diff(t) < 0):
        raise ValueError(
            f"Timesteps {t.tolist()!r:.80} are not a trajectory. They must be a non-empty list, "
            "strictly decreasing. Sort them and drop repeated ones."
        )
    if final not in FINALS:
        raise ValueError(
            f"Final level {final!r} is unknown. Known: {', '.join(FINALS)}. "
            "Choose one of these in the plan."
        )
    now = levels_at(table, t)
    after = np.append(now[1:], 1.0 if final == "one" else table[0])
    return t, now, after


def _posterior_shares(now: F64, after: F64) -> tuple[F64, F64]:
    """How DDPM's posterior splits the variance 1 - after into (eps, fresh noise); sums to 1.

    Both are written without a difference of nearly equal numbers.
    """
    return now * (1 - after) / (after * (1 - now)), (1 - now / after) / (1 - now)


def _rows(t: F64, alphas_cumprod: F64, **columns: F64) -> F32:
    """f32 [N, 16] with t, alpha, sigma, x_scale 1 and the given columns; the others 0."""
    rows = np.zeros((len(t), ROW_WIDTH), dtype=np.float32)
    columns = {"x_scale": np.ones(len(t)), **columns}
    columns |= {"t": t, "alpha": np.sqrt(alphas_cumprod), "sigma": np.sqrt(1 - alphas_cumprod)}
    for name, column in columns.items():
        rows[:, ROW.index(name)] = column
    return rows


def _log(x: F64) -> F64:
    """The C library's logarithm, as the C++ runtime has it; numpy's differs between processors."""
    return np.array([math.log(value) if value > 0 else -math.inf for value in x.tolist()])


def _scaled_first(rows: F32, scale_noise: bool) -> F32:
    """The rows, where wanted with sigma as x_scale of the first."""
    if scale_noise:
        rows[0, ROW.index("x_scale")] = rows[0, ROW.index("sigma")]
    return rows
