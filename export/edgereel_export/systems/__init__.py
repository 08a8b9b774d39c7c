"""The systems that can be exported, one module each: load, graphs, modes and tiny."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import InputError
from edgereel.plan import Mode
from edgereel_export.diffusers_folder import Tokens
from edgereel_export.graph import Graph

from .extras import NO_EXTRAS, Extras

__all__ = ["SYSTEMS", "Cascade", "system"]

SYSTEMS = {
    "make-a-video": "edgereel_export.systems.make_a_video",
    "text2video-zero": "edgereel_export.systems.text2video_zero",
    "lavie": "edgereel_export.systems.lavie",
    "emu-video": "edgereel_export.systems.emu_video",
}


class Cascade(Protocol):
    """A loaded cascade, ready to be written as a folder."""

    @property
    def tokenizers(self) -> Mapping[str, Tokens]:
        """What turns texts into ids, by the name that `tokenize` ops use."""

    def graphs(self) -> dict[str, Graph]:
        """Every graph by name, with example inputs."""

    def schedules(self) -> dict[str, NDArray[np.float64]]:
        """alphas_cumprod, f64 [T], by name."""

    def modes(self) -> dict[str, Mode]:
        """What a user can ask for; the first is the default."""


class System(Protocol):
    """What a module of SYSTEMS offers."""

    CHECKPOINTS: dict[str, Path]

    def load(self, checkpoint: Path, extras: Extras = NO_EXTRAS) -> Cascade:
        """The cascade of a checkpoint folder with what a user adds to it."""

    def tiny(self, folder: Path) -> Cascade:
        """The same cascade, very small, with random weights; may write files into `folder`."""


def system(name: str) -> System:
    """The module of a system.

    Raises:
        InputError: there is no such system.
    """
    if name not in SYSTEMS:
        raise InputError(
            f"unknown system {name!r}; expected one of {', '.join(SYSTEMS)}, or shapes. "
            f"Choose one of these."
        )
    module: System = import_module(SYSTEMS[name])
    return module
