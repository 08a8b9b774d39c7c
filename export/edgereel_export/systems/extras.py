"""What a user can add to a checkpoint when a cascade is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgereel.errors import InputError

__all__ = ["NO_EXTRAS", "Extras", "read_extras"]


@dataclass(frozen=True)
class Extras:
    """LoRA files with their strengths, merged in order, and ControlNet folders by mode.

    `modes` are those that the cascade is to have, so that nothing else need be loaded; none = all.
    `temporal` is a file of layers over frames, or the word for layers that change nothing.
    `super_res_high` is the folder of an upscaler, or the word for none.
    """

    loras: tuple[tuple[Path, float], ...] = ()
    controlnets: Mapping[str, Path] = field(default_factory=dict)
    modes: tuple[str, ...] = ()
    temporal: str | None = None
    super_res_high: str | None = None

    def refuse(self, system: str) -> None:
        """Raises InputError if anything is given, for a system that can use nothing of it."""
        self.refuse_adapters(system)
        self.refuse_temporal(system)
        self.refuse_high(system)

    def refuse_temporal(self, what: str) -> None:
        """Raises InputError if layers over frames are given, for a checkpoint that takes none."""
        if self.temporal:
            raise InputError(
                f"--temporal {self.temporal} has no meaning with {what}; expected it with "
                f"make-a-video and a checkpoint of Karlo. Drop it."
            )

    def refuse_high(self, system: str) -> None:
        """Raises InputError if an upscaler is given, for a system that has no place for it."""
        if self.super_res_high:
            raise InputError(
                f"--super-res-high {self.super_res_high} has no meaning with {system}; expected it "
                f"with make-a-video. Drop it."
            )

    def refuse_adapters(self, system: str) -> None:
        """Raises InputError for LoRAs and ControlNets, for a system that can use none."""
        if self.loras or self.controlnets:
            raise InputError(
                f"--lora and --controlnet have no meaning with {system}; expected them with "
                f"systems over Stable Diffusion. Drop them."
            )


NO_EXTRAS = Extras()


def read_extras(
    loras: Sequence[str] = (),
    controlnets: Sequence[str] = (),
    modes: Sequence[str] = (),
    temporal: str | None = None,
    super_res_high: str | None = None,
) -> Extras:
    """The extras of `--lora FILE[:STRENGTH]`, `--controlnet MODE=DIR` and the flags of that name.

    Raises:
        InputError: a flag is not of that form, or a mode is given twice.
    """
    found: dict[str, Path] = {}
    for text in controlnets:
        mode, equals, folder = text.partition("=")
        if not (mode and equals and folder) or mode in found:
            twice = " is given twice for one mode" if mode in found else ""
            raise InputError(
                f"--controlnet {text}{twice}; expected MODE=DIR, as in canny=sd-controlnet-canny. "
                f"Correct it."
            )
        found[mode] = Path(folder)
    merged = tuple(_lora(text) for text in loras)
    return Extras(merged, found, tuple(modes), temporal, super_res_high)


def _lora(text: str) -> tuple[Path, float]:
    """A path, and what stands behind its last colon if that is a number."""
    path, colon, strength = text.rpartition(":")
    try:
        return (Path(path), float(strength)) if colon else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0
