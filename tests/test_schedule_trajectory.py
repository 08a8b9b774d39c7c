"""Whole trajectories: rows against the published update formulas and against diffusers.

The network is a fixed random affine map in float64. Both sides start from the same latent and get
the same noise; the final latents must agree to 1e-5 relative (rows are float32, and diffusers'
Euler and DPM-Solver schedulers keep x in float32).
Alone: pytest tests/test_schedule_trajectory.py.

diffusers' schedulers get our float64 alphas_cumprod: their own float32 tables hold
1 - alphas_cumprod[0] = 1e-4 only to 6e-4 relative. Where a scheduler leaves the published rule it
is compared only where it does not, and `PUBLISHED` below covers the rest:
* DDIMScheduler steps from t to t - T // n, which is not the next listed timestep when n does not
  divide T (trailing) nor with rounded linspace (our `unclip` and `adm`).
* DDPMScheduler adds noise in the last step when its timestep is not 0.
* UnCLIPScheduler ends right only when the last timestep is 0.
* The Euler schedulers and DPMSolverMultistepScheduler take 2^-24 for alphas_cumprod = 0, and clip
  nothing. DPMSolverMultistepScheduler has spacings of its own; it is given ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edgereel import schedule
from edgereel.schedule import ROW, SAMPLERS, SPACINGS, sampler_rows

# diffusers turns tensors into arrays in the way numpy 1 did; nothing of ours does.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

Array = np.ndarray
TOLERANCE = 1e-5
T = 1000
SHAPE = (2, 3, 5)
CLIP = 1.5
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}

_sd = schedule.alphas_cumprod_scaled_linear(8.5e-4, 1.2e-2)
TABLES = {
    "linear": schedule.alphas_cumprod_linear(1e-4, 2e-2),
    "scaled_linear": _sd,
    "cosine": schedule.alphas_cumprod_cosine(),
    "zero_snr": schedule.rescale_zero_terminal_snr(_sd),
}
# Zero SNR as the schedulers that divide by alpha use it.
NEARLY_ZERO_SNR = np.append(TABLES["zero_snr"][:-1], 2.0**-24)

_random = np.random.default_rng(20240511)
_MIX = 0.8 * np.linalg.qr(_random.standard_normal((15, 15)))[0]
_VARIANCE_MIX = _random.standard_normal((15, 15)) / 4
_SHIFT = _random.standard_normal(SHAPE)
_NOISE = _random.standard_normal((60, *SHAPE))
_START = _random.standard_normal(SHAPE)


def network(x: Array, t: float) -> Array:
    """A prediction for x, f64 of its shape."""
    return (x.reshape(2, 15) @ _MIX).reshape(SHAPE) + _SHIFT * (t / T - 0.3)


def predicted_variance(x: Array) -> Array:
    """Variance channels in [-1, 1], f64 of x's shape."""
    return np.tanh(x.reshape(2, 15) @ _VARIANCE_MIX).reshape(SHAPE)


@dataclass(frozen=True)
class Case:
    """What both sides are given beyond the sampler."""

    table: Array
    prediction: str
    clip: bool = False
    learned: bool = False

    def split(self, m: Array, x: Array, alpha: float, sigma: float) -> tuple[Array, Array]:
        """(x0, eps) of a prediction, with x0 clipped and eps fitted to it."""
        if self.prediction == "epsilon":
            x0, eps = (x - sigma * m) / alpha, m
        elif self.prediction == "v":
            x0, eps = alpha * x - sigma * m, alpha * m + sigma * x
        else:
            x0, eps = m, (x - alpha * m) / sigma
        if self.clip:
            x0 = np.clip(x0, -CLIP, CLIP)
            eps = (x - alpha * x0) / sigma
        return x0, eps

    @property
    def defined(self) -> bool:
        """False for eps-prediction at alpha = 0."""
        return self.prediction != "epsilon" or self.table[-1] > 0


def denoise(rows: Array, case: Case) -> Array:
    """The final latent as a denoising graph makes it of the rows, in float64."""
    x, previous = _START, np.zeros(SHAPE)
    for k, values in enumerate(rows.astype(np.float64)):
        row = dict(zip(ROW, values, strict=False))
        x = x * row["x_scale"]
        x0, eps = case.split(network(x, row["t"]), x, row["alpha"], row["sigma"])
        share = (predicted_variance(x) + 1) / 2 if case.learned else 0.0
        std = np.exp(0.5 * (share * row["logvar_max"] + (1 - share) * row["logvar_min"]))
        x = row["c_x0"] * x0 + row["c_eps"] * eps + row["c_prev"] * previous
        x = x + row["c_noise"] * std * _NOISE[k]
        previous = x0
    return x


def relative_error(ours: Array, theirs: Array) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def levels(case: Case, t: Array) -> Array:
    """alphas_cumprod at t and after the end, f64 [N + 1], in the Euler samplers' way."""
    index = np.arange(T)
    with np.errstate(divide="ignore"):
        sigma = np.sqrt((1 - case.table) / case.table)
    whole = t == np.floor(t)
    # np.interp makes nan of an infinite end, so whole timesteps are looked up.
    sigma_t = np.where(whole, sigma[t.astype(int)], np.interp(t, index[:-1], sigma[:-1]))
    return np.append(1 / (1 + sigma_t**2), 1.0)


def published_ddim(case: Case, t: Array, eta: float) -> Array:
    """Song et al. 2021, eq. 12 and 16."""
    bar, x = levels(case, t), _START
    for k in range(len(t)):
        now, after = bar[k], bar[k + 1]
        x0, eps = case.split(network(x, t[k]), x, now**0.5, (1 - now) ** 0.5)
        std = eta * np.sqrt((1 - after) / (1 - now)) * np.sqrt(1 - now / after)
        # At alpha = 0 and eta = 1 the difference is 0 up to rounding.
        x = after**0.5 * x0 + np.sqrt(max(1 - after - std**2, 0)) * eps + std * _NOISE[k]
    return x


def published_ddpm(case: Case, t: Array, _: float) -> Array:
    """Ho et al. 2020, eq. 7, posterior variance."""
    bar, x = levels(case, t), _START
    for k in range(len(t)):
        now, after = bar[k], bar[k + 1]
        x0, _eps = case.split(network(x, t[k]), x, now**0.5, (1 - now) ** 0.5)
        mean = after**0.5 * (1 - now / after) / (1 - now) * x0
        mean = mean + np.sqrt(now / after) * (1 - after) / (1 - now) * x
        x = mean + np.sqrt((1 - after) / (1 - now) * (1 - now / after)) * _NOISE[k]
    return x


def sigmas(case: Case, t: Array) -> Array:
    """sigma / alpha at t and after the end, f64 [N + 1]; an infinite one is 1e8."""
    bar = np.maximum(levels(case, t), 1e-16)
    return np.sqrt((1 - bar) / bar)


def denoised(case: Case, x: Array, t: float, sigma: float) -> Array:
    """x0 for variance exploding x."""
    alpha = 1 / np.sqrt(1 + sigma**2)
    return case.split(network(x * alpha, t), x * alpha, alpha, sigma * alpha)[0]


def published_euler(case: Case, t: Array, scale: float) -> Array:
    """k-diffusion's sample_euler, in variance exploding x."""
    sigma = sigmas(case, t)
    x = _START * np.sqrt(sigma[0] ** 2 + scale)
    for k in range(len(t)):
        d = (x - denoised(case, x, t[k], sigma[k])) / sigma[k]
        x = x + d * (sigma[k + 1] - sigma[k])
    return x


def published_euler_ancestral(case: Case, t: Array, scale: float) -> Array:
    """k-diffusion's sample_euler_ancestral, in variance exploding x."""
    sigma = sigmas(case, t)
    x = _START * np.sqrt(sigma[0] ** 2 + scale)
    for k in range(len(t)):
        now, after = sigma[k], sigma[k + 1]
        d = (x - denoised(case, x, t[k], now)) / now
        up = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        x = x + d * (np.sqrt(max(after**2 - up**2, 0)) - now) + up * _NOISE[k]
    return x


def published_dpmpp_2m(case: Case, t: Array, _: float) -> Array:
    """k-diffusion's sample_dpmpp_2m, in variance exploding x with deviation sigma_ve there."""
    sigma = sigmas(case, t)
    x, old = _START * np.sqrt(sigma[0] ** 2 + 1), None
    for k in range(len(t)):
        new = denoised(case, x, t[k], sigma[k])
        if k == len(t) - 1:
            return new
        h = np.log(sigma[k] / sigma[k + 1])
        used = new
        # The log-SNR before the first step from alpha = 0 is infinite: first order.
        if old is not None and sigma[k - 1] < 1e7:
            r = np.log(sigma[k - 1] / sigma[k]) / h
            used = (1 + 1 / (2 * r)) * new - old / (2 * r)
        x, old = sigma[k + 1] / sigma[k] * x - np.expm1(-h) * used, new
    return x


PUBLISHED: dict[str, Callable[[Case, Array, float], Array]] = {
    "ddim": published_ddim,
    "ddpm": published_ddpm,
    "euler": published_euler,
    "euler_ancestral": published_euler_ancestral,
    "dpmpp_2m": published_dpmpp_2m,
}


@pytest.mark.parametrize("clip", [False, True], ids=["open", "clip"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_follow_the_published_update(
    sampler: str, spacing: str, prediction: str, clip: bool
) -> None:
    """Every schedule, 1 to 30 steps; for DDIM eta 0, 0.7 and 1."""
    for name, table in TABLES.items():
        case = Case(table, prediction, clip)
        for steps in (1, 2, 7, 30) if case.defined else ():
            t = SPACINGS[spacing](steps, T)
            for eta in (0.0, 0.7, 1.0) if sampler == "ddim" else (0.0,):
                # The Euler formulas read this argument as: 1 adds the clean signal's variance.
                setting = eta if sampler == "ddim" else float(spacing.startswith("leading"))
                theirs = PUBLISHED[sampler](case, t, setting)
                ours = denoise(sampler_rows(sampler, table, spacing, steps, eta=eta), case)
                error = relative_error(ours, theirs)
                assert error <= TOLERANCE, (name, steps, eta, error)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_final_first_ends_at_the_first_level(spacing: str) -> None:
    """Stable Diffusion's set_alpha_to_one=False: the last row leaves x at alphas_cumprod[0]."""
    rows = sampler_rows("ddim", _sd, spacing, 25, eta=0.5, final="first")
    one = sampler_rows("ddim", _sd, spacing, 25, eta=0.5)
    np.testing.assert_array_equal(rows[:-1], one[:-1])
    last = dict(zip(ROW, rows[-1].astype(float), strict=False))
    assert last["c_x0"] ** 2 == pytest.approx(_sd[0], rel=3e-7)
    assert last["c_eps"] ** 2 + last["c_noise"] ** 2 == pytest.approx(1 - _sd[0], rel=1e-6)


@dataclass
class Diffusers:
    """diffusers' schedulers with our tables and our noise."""

    monkeypatch: pytest.MonkeyPatch
    torch: Any
    z: Any = None

    def make(self, file: str, name: str, case: Case, **config: Any) -> Any:
        """A scheduler whose random draws are `self.z` and whose table is the case's."""
        module = importlib.import_module(f"diffusers.schedulers.scheduling_{file}")
        self.monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: self.z)
        scheduler = getattr(module, name)(
            prediction_type=PREDICTIONS[case.prediction],
            **({"clip_sample": case.clip, "clip_sample_range": CLIP} if "dd" in file else {}),
            **config,
        )
        self.set_table(scheduler, case.table)
        return scheduler

    def set_table(self, scheduler: Any, table: Array) -> None:
        one = self.torch.ones(1, dtype=self.torch.float64)
        scheduler.alphas_cumprod = self.torch.from_numpy(table.copy())
        before = self.torch.cat([one, scheduler.alphas_cumprod[:-1]])
        scheduler.alphas = scheduler.alphas_cumprod / before
        scheduler.betas = 1 - scheduler.alphas
        if hasattr(scheduler, "final_alpha_cumprod"):
            scheduler.final_alpha_cumprod = (
                one[0] if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
            )

    def set_sigmas(self, scheduler: Any, case: Case, t: Array) -> None:
        """float64 sigmas in the place of the float32 ones, which they must round to."""
        exact = np.append(sigmas(case, t)[:-1], 0.0)
        if len(scheduler.sigmas) == len(exact):
            np.testing.assert_allclose(scheduler.sigmas.numpy(), exact, 2e-6)
        scheduler.sigmas = self.torch.from_numpy(exact)
        scheduler.set_begin_index(0)

    def trajectory(self, scheduler: Any, case: Case, t: Array, **step: Any) -> Array:
        """The final latent of the scheduler's own loop, f64."""
        x = self.torch.from_numpy(_START) * scheduler.init_noise_sigma
        for k, timestep in enumerate(scheduler.timesteps):
            last_noise = k == len(t) - 1 and "DDPM" in type(scheduler).__name__
            self.z = self.torch.from_numpy(_NOISE[k] * (not last_noise))
            seen = scheduler.scale_model_input(x, timestep).numpy()
            m = network(seen, t[k])
            if case.learned:
                m = np.concatenate([m, predicted_variance(seen)], axis=1)
            if "UnCLIP" in type(scheduler).__name__:
                step["prev_timestep"] = int(t[k + 1]) if k + 1 < len(t) else None
                timestep = int(timestep)
            x = scheduler.step(self.torch.from_numpy(m), timestep, x, **step).prev_sample
        return np.asarray(x.double().numpy())


@pytest.fixture
def diffusers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Diffusers]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    with torch.no_grad():
        yield Diffusers(monkeypatch, torch)


def spacing_config(spacing: str) -> dict[str, Any]:
    """diffusers' name of one of our spacings."""
    if spacing == "leading+1":
        return {"timestep_spacing": "leading", "steps_offset": 1}
    return {"timestep_spacing": spacing}


def assert_close(ours: Array, theirs: Array, *what: object) -> None:
    error = relative_error(ours, theirs)
    assert error <= TOLERANCE, (*what, error)


@pytest.mark.torch
@pytest.mark.parametrize("clip", [False, True], ids=["open", "clip"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "leading+1", "trailing"])
def test_ddim_matches_diffusers(
    diffusers: Diffusers, spacing: str, prediction: str, clip: bool
) -> None:
    for name, table in TABLES.items():
        case = Case(table, prediction, clip)
        if not case.defined:
            continue
        # trailing: counts that divide T, where t - T // n is the next listed timestep.
        for steps in (1, 2, 25) if spacing == "trailing" else (1, 3, 30):
            for eta, final in [(0.0, "one"), (0.0, "first"), (0.7, "one")]:
                scheduler = diffusers.make(
                    "ddim",
                    "DDIMScheduler",
                    case,
                    set_alpha_to_one=final == "one",
                    **spacing_config(spacing),
                )
                scheduler.set_timesteps(steps)
                t = SPACINGS[spacing](steps, T)
                np.testing.assert_array_equal(scheduler.timesteps.numpy(), t)
                theirs = diffusers.trajectory(
                    scheduler, case, t, eta=eta, use_clipped_model_output=True
                )
                rows = sampler_rows("ddim", table, spacing, steps, eta=eta, final=final)
                assert_close(denoise(rows, case), theirs, name, steps, eta, final)


@pytest.mark.torch
@pytest.mark.parametrize("clip", [False, True], ids=["open", "clip"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", schedule.VARIANCES)
def test_ddpm_matches_diffusers(
    diffusers: Diffusers, variance: str, prediction: str, clip: bool
) -> None:
    for name, table in TABLES.items():
        case = Case(table, prediction, clip, learned=variance == "learned_range")
        for spacing in SPACINGS if case.defined else ():
            for steps in (1, 17) if spacing != "linspace" else ():
                scheduler = diffusers.make("ddpm", "DDPMScheduler", case, variance_type=variance)
                t = SPACINGS[spacing](steps, T)
                scheduler.set_timesteps(timesteps=t.astype(int).tolist())
                theirs = diffusers.trajectory(scheduler, case, t)
                rows = sampler_rows("ddpm", table, spacing, steps, variance=variance)
                assert_close(denoise(rows, case), theirs, name, spacing, steps)


@pytest.mark.torch
@pytest.mark.parametrize("clip", [False, True], ids=["open", "clip"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize("variance", ["fixed_small_log", "learned_range"])
def test_ddpm_is_the_unclip_sampler(
    diffusers: Diffusers, variance: str, prediction: str, clip: bool
) -> None:
    for name, table in TABLES.items():
        case = Case(table, prediction, clip, learned=variance == "learned_range")
        for steps in (2, 7, 25) if case.defined else ():
            scheduler = diffusers.make(
                "unclip",
                "UnCLIPScheduler",
                case,
                variance_type=variance,
                clip_sample=clip,
                clip_sample_range=CLIP,
            )
            scheduler.set_timesteps(steps)
            t = SPACINGS["unclip"](steps, T)
            np.testing.assert_array_equal(scheduler.timesteps.numpy(), t)
            theirs = diffusers.trajectory(scheduler, case, t)
            rows = sampler_rows("ddpm", table, "unclip", steps, variance=variance)
            assert_close(denoise(rows, case), theirs, name, steps)


@pytest.mark.torch
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "leading+1", "trailing", "linspace"])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_euler_matches_diffusers(
    diffusers: Diffusers, sampler: str, spacing: str, prediction: str
) -> None:
    if sampler == "euler_ancestral" and prediction == "x0":
        pytest.skip("diffusers' EulerAncestralDiscreteScheduler has no x0 prediction")
    name = {"euler": "Euler", "euler_ancestral": "EulerAncestral"}[sampler]
    for table in [*TABLES.values(), NEARLY_ZERO_SNR]:
        case = Case(table, prediction)
        for steps in (1, 2, 30) if table[-1] > 0 else ():
            if spacing == "linspace" and steps == 1:
                continue  # starts at t = 0 there, at T - 1 here
            scheduler = diffusers.make(
                f"{sampler}_discrete", f"{name}DiscreteScheduler", case, **spacing_config(spacing)
            )
            scheduler.set_timesteps(steps)
            t = SPACINGS[spacing](steps, T)
            np.testing.assert_array_equal(scheduler.timesteps.numpy(), t.astype(np.float32))
            diffusers.set_sigmas(scheduler, case, t)
            theirs = diffusers.trajectory(scheduler, case, t)
            ours = denoise(sampler_rows(sampler, table, spacing, steps), case)
            assert_close(ours, theirs, table[-1], steps)


@pytest.mark.torch
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpmpp_2m_matches_diffusers(diffusers: Diffusers, spacing: str, prediction: str) -> None:
    for table in [*TABLES.values(), NEARLY_ZERO_SNR]:
        case = Case(table, prediction)
        for steps in (1, 2, 3, 14, 30) if table[-1] > 0 else ():
            scheduler = diffusers.make(
                "dpmsolver_multistep", "DPMSolverMultistepScheduler", case, solver_order=2
            )
            t = SPACINGS[spacing](steps, T)
            scheduler.set_timesteps(timesteps=t.tolist())
            if spacing == "linspace":
                scheduler.sigmas = scheduler.sigmas[:0]  # it cuts fractions off
            diffusers.set_sigmas(scheduler, case, t)
            theirs = diffusers.trajectory(scheduler, case, t)
            ours = denoise(sampler_rows("dpmpp_2m", table, spacing, steps), case)
            assert_close(ours, theirs, table[-1], steps)
