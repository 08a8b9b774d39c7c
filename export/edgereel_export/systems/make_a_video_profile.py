"""What a Make-A-Video checkpoint says about the cascade as a whole: its cascade.json."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgereel_export.step import Prediction

__all__ = ["GUIDED", "STEPS", "Profile"]

STEPS = {  # stage: how its steps param is described
    "prior": "steps of the prior",
    "decoder": "denoising steps of the decoder",
    "interpolation": "denoising steps of frame interpolation",
    "super_res_low": "denoising steps of the space-time super-resolution",
    "super_res_high": "denoising steps of the per-frame super-resolution",
}
GUIDED = ("prior", "decoder")  # stages with classifier-free guidance
Count = Annotated[int, msgspec.Meta(ge=1)]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the stages' configs do not say: cascade.json of a checkpoint.

    size: side of D^t's frames in pixels. frames: of D^t. skip: ↑F makes (frames-1)*skip+1 frames.
    scale_low, scale_high: factors of SR_l^t and SR_h. steps, guidance: defaults by stage.
    fps: default frame rate of the video. prediction: of the pixel networks. shift: factor on
    the noise of the schedule of D^t and ↑F. chunk: frames that SR_h works on at a time.
    """

    name: str
    description: str
    size: Count
    frames: Count
    skip: Count
    scale_low: Count
    scale_high: Count
    prediction: Prediction
    fps: Annotated[float, msgspec.Meta(ge=1, le=30)]
    steps: dict[str, Annotated[int, msgspec.Meta(ge=1, le=1000)]]
    guidance: dict[str, Annotated[float, msgspec.Meta(ge=0, le=30)]]
    chunk: Count = 4
    shift: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        for name, found, stages in (
            ("steps", self.steps, STEPS),
            ("guidance", self.guidance, GUIDED),
        ):
            if found.keys() != set(stages):
                raise ValueError(f"{name} has the keys {sorted(found)}, expected {sorted(stages)}")

    @property
    def length(self) -> int:
        """Frames of the whole video."""
        return (self.frames - 1) * self.skip + 1
