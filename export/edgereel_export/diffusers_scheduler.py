"""What the scheduler_config.json of a diffusers checkpoint says: noise schedule and prediction."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgereel.levels import (
    F64,
    alphas_cumprod_cosine,
    alphas_cumprod_linear,
    alphas_cumprod_scaled_linear,
    rescale_zero_terminal_snr,
)
from edgereel.plan import Final, Spacing
from edgereel_export.step import Prediction

__all__ = ["SchedulerConfig"]


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What scheduler_config.json says of the training, whichever sampler wrote it.

    Missing fields have DDIM's defaults, as diffusers' `DDIMScheduler.from_config` reads them.
    """

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    beta_end: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    num_train_timesteps: Annotated[int, msgspec.Meta(ge=2)] = 1000
    trained_betas: None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    rescale_betas_zero_snr: bool = False
    thresholding: bool = False

    def __post_init__(self) -> None:
        if self.thresholding:
            raise ValueError("thresholding is true, which latents do not allow; expected false")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError("rescale_betas_zero_snr leaves epsilon undefined; expected false")

    def alphas_cumprod(self) -> F64:
        """The noise schedule, f64 [T]."""
        betas = (self.beta_start, self.beta_end, self.num_train_timesteps)
        if self.beta_schedule == "linear":
            table = alphas_cumprod_linear(*betas)
        elif self.beta_schedule == "scaled_linear":
            table = alphas_cumprod_scaled_linear(*betas)
        else:
            table = alphas_cumprod_cosine(self.num_train_timesteps)
        return rescale_zero_terminal_snr(table) if self.rescale_betas_zero_snr else table

    @property
    def prediction(self) -> Prediction:
        """What the network predicts."""
        names: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
        return names[self.prediction_type]

    @property
    def spacing(self) -> Spacing:
        """Which timesteps DDIM visits."""
        if self.timestep_spacing == "leading":
            return "leading+1" if self.steps_offset else "leading"
        return "trailing" if self.timestep_spacing == "trailing" else "unclip"

    @property
    def final(self) -> Final:
        """alphas_cumprod after DDIM's last step: 1, or the first of the schedule."""
        return "one" if self.set_alpha_to_one else "first"
