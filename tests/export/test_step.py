"""The denoising step against its definition in float64 numpy, and whole loops against diffusers.

Alone: pytest tests/export/test_step.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgereel import schedule  # noqa: E402
from edgereel_export.step import DenoiseStep, StepConfig  # noqa: E402

pytestmark = pytest.mark.torch

ROUNDING = 2e-5  # of float32 against float64, values of size 1
ROW = np.zeros(16)
ROW[:10] = [500.0, 0.6, 0.8, 0.7, 0.55, -0.15, 0.3, 0.0, 0.0, 1.0]
SCALED = ROW.copy()
SCALED[9] = 0.9
WEIGHTS = {1: [1.0], 2: [-2.0, 3.0], 3: [-0.5, -1.0, 2.5]}


class Network(nn.Module):
    """tanh of channel mixes, t/1000 and a condition: different for every row, simple in numpy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(3, 3)
        self.told = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, t: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """[G, B, 3, F] for x [G, B, 3, F], t [G], emb [G*B, 4]."""
        told = self.told(emb).view(*x.shape[:2], 1, 3)
        h = self.mix(x.transpose(2, 3)) + told + t.view(-1, 1, 1, 1) / 1000
        return torch.tanh(h).transpose(2, 3)

    def numpy(self, x: np.ndarray, t: float, emb: np.ndarray) -> np.ndarray:
        """The same in float64."""
        mix, mixed, told, add = (p.detach().double().numpy() for p in self.parameters())
        h = np.swapaxes(x, 1, 2) @ mix.T + mixed + (emb @ told.T + add)[:, None] + t / 1000
        return np.swapaxes(np.tanh(h), 1, 2)


def reference(
    config: StepConfig, row: np.ndarray, weights: list[float], given: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """x_next and x0 as DESIGN defines them, one network call per guidance row."""
    x, prev, noise, emb = given
    t, alpha, sigma, c_x0, c_eps, c_prev, c_noise, _, _, x_scale = row[:10]
    network, x = Network(), x * x_scale
    rows = emb.reshape(len(weights), len(x), -1)
    m = sum(w * network.numpy(x, t, told) for w, told in zip(weights, rows, strict=True))
    x0 = {
        "epsilon": lambda: (x - sigma * m) / alpha,
        "v": lambda: alpha * x - sigma * m,
        "x0": lambda: m,
    }[config.prediction]()
    if config.clip is not None:
        x0 = np.clip(x0, -config.clip, config.clip)
    eps = (x - alpha * x0) / sigma
    return c_x0 * x0 + c_eps * eps + c_prev * prev + c_noise * noise, x0


def run(
    config: StepConfig, row: np.ndarray, weights: list[float], given: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    x, prev, noise, emb = (torch.from_numpy(array).float() for array in given)
    step = DenoiseStep(Network(), config)
    with torch.no_grad():
        x_next, x0 = step(x, torch.from_numpy(row).float(), torch.tensor(weights), prev, noise, emb)
    assert x_next.dtype == x0.dtype == torch.float32
    return x_next.numpy(), x0.numpy()


def arrays(batch: int, groups: int) -> tuple[np.ndarray, ...]:
    """x, prev, noise [B, 3, 5] and emb [G*B, 4], group by group."""
    rng = np.random.default_rng(0)
    shapes = [(batch, 3, 5)] * 3 + [(groups * batch, 4)]
    return tuple(rng.standard_normal(shape).astype(np.float32).astype(float) for shape in shapes)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("row", [ROW, SCALED], ids=["plain", "x_scale"])
def test_step_equals_its_definition(
    row: np.ndarray, prediction: Any, clip: float | None, groups: int, batch: int
) -> None:
    config, given = StepConfig(prediction, clip), arrays(batch, groups)
    got = run(config, row, WEIGHTS[groups], given)
    expected = reference(config, row, WEIGHTS[groups], given)
    for ours, wanted in zip(got, expected, strict=True):
        assert np.abs(ours - wanted).max() < ROUNDING
    assert clip is None or np.abs(got[1]).max() == pytest.approx(clip)  # some element was clipped


def test_row_of_weight_zero_counts_for_nothing() -> None:
    x, prev, noise, emb = arrays(2, 2)
    config = StepConfig("v")
    both = run(config, ROW, [0.0, 1.0], (x, prev, noise, emb))
    one = run(config, ROW, [1.0], (x, prev, noise, emb[2:]))
    assert np.abs(both[0] - one[0]).max() < 1e-6


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_first_step_from_pure_noise_is_finite(prediction: Any) -> None:
    # Zero terminal SNR: alpha is 0 at the first row; eps is x there.
    table = schedule.alphas_cumprod_scaled_linear(0.00085, 0.012)
    table = schedule.rescale_zero_terminal_snr(table)
    row = schedule.ddim_rows(table, np.array([999.0, 499.0]))[0].astype(float)
    assert row[1] == 0
    for clip in (None, 1.0):
        config = StepConfig(prediction, clip)
        got = run(config, row, [1.0], arrays(1, 1))
        expected = reference(config, row, [1.0], arrays(1, 1))
        assert np.abs(got[0] - expected[0]).max() < ROUNDING


KINDS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("prediction", list(KINDS))
def test_whole_loop_equals_diffusers_ddim(prediction: Any, clip: float | None, eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=KINDS[prediction],
        clip_sample=clip is not None,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    steps, scale = 5, 3.0  # 5 divides 1000: only then is diffusers' next timestep the listed one
    scheduler.set_timesteps(steps)
    network, config = Network(), StepConfig(prediction, clip)
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(2, 3, 5, generator=rng)
    emb = torch.randn(4, 4, generator=rng)
    noise = torch.randn(steps, 2, 3, 5, generator=rng)
    table = schedule.alphas_cumprod_scaled_linear(0.00085, 0.012)
    rows = schedule.sampler_rows("ddim", table, "trailing", steps, eta=eta)
    step, weights = DenoiseStep(network, config), torch.tensor([1 - scale, scale])
    x, y = start, start
    with torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            without, given = network(torch.stack([y, y]), t.expand(2).float(), emb)
            guided = without + scale * (given - without)
            y = scheduler.step(
                guided, t, y, eta=eta, use_clipped_model_output=True, variance_noise=noise[k]
            ).prev_sample
            row = torch.from_numpy(rows[k])
            x, _ = step(x, row, weights, torch.zeros_like(x), noise[k], emb)
            assert float((x - y).abs().max()) < 1e-4  # diffusers' alphas_cumprod are float32


# A network that predicts its variance


class Doubled(nn.Module):
    """The network twice: its prediction, and on the same channels what it says of the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Network()

    def forward(self, x: torch.Tensor, t: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """[G, B, 6, F]."""
        return torch.cat([self.own(x, t, emb), self.own(-x, t, emb)], 2)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_whole_loop_with_learned_variance_equals_unclip(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UnCLIPScheduler(variance_type="learned_range", clip_sample_range=0.9)
    steps, batch = 6, 2
    scheduler.set_timesteps(steps)
    network = Doubled()
    step = DenoiseStep(network, StepConfig("epsilon", 0.9, learned=True))
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(batch, 3, 5, generator=rng)
    emb = torch.randn(2 * batch, 4, generator=rng)
    noise = torch.randn(steps, batch, 3, 5, generator=rng)
    table = schedule.alphas_cumprod_cosine()
    scheduler.alphas_cumprod = torch.from_numpy(table)  # its own are float32: 1e-4 at t = 999
    scheduler.alphas = torch.from_numpy(np.append(table[:1], table[1:] / table[:-1]))
    scheduler.betas = 1 - scheduler.alphas
    rows = schedule.sampler_rows("ddpm", table, "unclip", steps, variance="learned_range")
    weights, x, y = torch.tensor([1 - scale, scale]), start, start
    after = [*scheduler.timesteps[1:], None]
    with torch.no_grad():
        for k, (t, previous) in enumerate(zip(scheduler.timesteps, after, strict=True)):
            without, given = network(torch.stack([y, y]), t.expand(2).float(), emb)
            guided = without[:, :3] + scale * (given[:, :3] - without[:, :3])
            monkeypatch.setattr(
                "diffusers.schedulers.scheduling_unclip.randn_tensor",
                lambda shape, k=k, **_: noise[k].expand(shape),
            )
            both = torch.cat([guided, given[:, 3:]], 1)
            y = scheduler.step(both, t, y, prev_timestep=previous).prev_sample
            x, _ = step(x, torch.from_numpy(rows[k]), weights, torch.zeros_like(x), noise[k], emb)
            assert float((x - y).abs().max()) < ROUNDING


def test_samplers_without_learned_variance_add_their_own_noise() -> None:
    x, prev, noise, emb = (torch.from_numpy(array).float() for array in arrays(2, 1))
    told = torch.from_numpy(ROW).float(), torch.tensor([1.0]), prev, noise, emb
    with torch.no_grad():
        plain = DenoiseStep(Network(), StepConfig("epsilon"))(x, *told)
        learned = DenoiseStep(Doubled(), StepConfig("epsilon", learned=True))(x, *told)
    for ours, wanted in zip(learned, plain, strict=True):
        assert torch.equal(ours, wanted)
