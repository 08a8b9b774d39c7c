"""The denoising step as one module: network, guidance and update (DESIGN: the denoise graph)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .graph import Graph

__all__ = ["DenoiseStep", "Prediction", "StepConfig", "step_graph"]

Prediction = Literal["epsilon", "v", "x0"]


@dataclass(frozen=True)
class StepConfig:
    """What a network predicts and whether the predicted x0 is clipped to [-clip, clip].

    learned: it gives as many channels again, which say how large the variance of its step is
    (Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.1).
    """

    prediction: Prediction
    clip: float | None = None
    learned: bool = False


class DenoiseStep(nn.Module):
    """One row of a schedule applied to x, guidance and update included: (x_next, x0).

    The network is called once, as `network(x [G, B, ...], t [G], *conditions)`; everything around
    it is float32. See `edgereel.schedule.ROW` for the columns of `row`. Guidance leaves a learned
    variance alone: the last row, which has the prompt, says it (diffusers' UnCLIPPipeline).
    """

    def __init__(self, network: nn.Module, config: StepConfig) -> None:
        super().__init__()
        self.network, self.config = network, config

    def forward(
        self,
        x: Tensor,
        row: Tensor,
        weights: Tensor,
        prev: Tensor,
        noise: Tensor,
        *conditions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """x_next and x0, both f32 like x.

        Args:
            x: f32 [B, ...], state at the row's timestep, variance preserving.
            row: f32 [16], a row of a schedule.
            weights: f32 [G], guidance weights.
            prev: f32 like x, x0 of the step before.
            noise: f32 like x, fresh normal draws.
            conditions: leading axis G*B, row order as in `weights`.
        """
        _, alpha, sigma, c_x0, c_eps, c_prev, c_noise, _, _, x_scale = row[:10].unbind()
        x = x * x_scale
        out = self._rows(x, row[:1], weights.shape[0], conditions)
        if self.config.learned:
            out, spread = out.chunk(2, dim=2)
            noise = noise * _multiplier(spread[-1], row)
        m = (weights.view(-1, *[1] * x.ndim) * out).sum(0)
        if self.config.prediction == "epsilon":
            x0 = (x - sigma * m) / alpha
        elif self.config.prediction == "v":
            x0 = alpha * x - sigma * m
        else:
            x0 = m
        if self.config.clip is not None:
            x0 = x0.clamp(-self.config.clip, self.config.clip)
        clean = self.config.clip is None
        if self.config.prediction == "epsilon" and clean:
            eps = m
        elif self.config.prediction == "v" and clean:
            eps = alpha * m + sigma * x
        else:
            eps = (x - alpha * x0) / sigma
        return c_x0 * x0 + c_eps * eps + c_prev * prev + c_noise * noise, x0

    def _rows(self, x: Tensor, t: Tensor, rows: int, conditions: tuple[Tensor, ...]) -> Tensor:
        """The network's prediction for x in every guidance row, f32 [G, B, ...]."""
        out: Tensor = self.network(x.expand(rows, *x.shape), t.expand(rows), *conditions)
        return out.float()


def _multiplier(spread: Tensor, row: Tensor) -> Tensor:
    """What a learned variance, -1 .. 1 within the row's bounds, makes of fresh noise."""
    least, most = row[7], row[8]  # logvar_min, logvar_max
    share = (spread + 1) / 2
    return torch.exp(0.5 * (share * most + (1 - share) * least))


def step_graph(
    network: nn.Module,
    config: StepConfig,
    shape: tuple[int, ...],
    conditions: Mapping[str, Tensor],
    free: Mapping[str, Mapping[int, str]],
) -> Graph:
    """The denoise graph of a network, with example inputs of a row in the middle of a trajectory.

    Args:
        network: called as in DenoiseStep.
        config: what it predicts.
        shape: of the example state x.
        conditions: example conditions, by the names they get in the graph.
        free: names of the free axes of `x`, which hold for everything shaped like it, and of
            conditions; a condition with a free axis "G" has two guidance rows.
    """
    row = torch.zeros(16)
    row[:10] = torch.tensor([500.0, 0.7, 0.714, 0.75, 0.6, 0.1, 0.2, 0.0, 0.0, 1.0])
    named = {name: free[name] for name in conditions if name in free}
    guided = any("G" in axes.values() for axes in named.values())
    generator = torch.Generator().manual_seed(1)
    x, prev, noise = (torch.randn(shape, generator=generator) for _ in range(3))
    inputs = {
        "x": x,
        "row": row,
        "weights": torch.tensor([-2.0, 3.0] if guided else [1.0]),
        "prev": prev,
        "noise": noise,
        **conditions,
    }
    if guided:
        named["weights"] = {0: "G"}
    if "x" in free:
        named |= dict.fromkeys(("x", "prev", "noise", "x_next", "x0"), free["x"])
    return Graph(DenoiseStep(network, config), inputs, ("x_next", "x0"), named)
