"""Text-to-video diffusion cascades on ONNX engines.

cascade = edgereel.load("engines/shapes")
video = cascade("a red circle moving right", seed=7)
video.save("out.mp4")
"""

from edgereel.errors import (
    BackendUnavailable,
    BuildMismatch,
    Cancelled,
    EdgereelError,
    EngineError,
    InputError,
    OutputError,
    PlanError,
)
from edgereel.pipeline import Cascade, Progress, Video, load

__all__ = [
    "BackendUnavailable",
    "BuildMismatch",
    "Cancelled",
    "Cascade",
    "EdgereelError",
    "EngineError",
    "InputError",
    "OutputError",
    "PlanError",
    "Progress",
    "Video",
    "load",
]
__version__ = "0.1.0"
