"""The exceptions a user of Edgereel can meet, one tree.

    EdgereelError
      PlanError            the cascade folder or its plan.json is wrong
      InputError           a prompt, parameter or option is wrong
      BackendUnavailable   the chosen backend cannot run on this machine
      BuildMismatch        a compiled engine belongs to another graph, GPU or library
      EngineError          a graph failed to load or to run
      OutputError          the video could not be written
      Cancelled            the caller asked to stop

Every message says what was wrong (with the value), what was expected, and what to do.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "BuildMismatch",
    "Cancelled",
    "EdgereelError",
    "EngineError",
    "InputError",
    "OutputError",
    "PlanError",
]


class EdgereelError(Exception):
    """Base of every error this package raises on purpose."""


class PlanError(EdgereelError):
    """The cascade folder or its plan.json is wrong; the message starts with the place."""

    @classmethod
    def at(cls, place: str, problem: str, expected: str = "") -> PlanError:
        """An error about one place of plan.json, such as `modes.video.stages[2].ops[0].graph`."""
        wanted = f"; expected {expected}" if expected else ""
        return cls(f"{place}: {problem}{wanted}. Correct it there, or export the cascade again.")


class InputError(EdgereelError):
    """A prompt, parameter or option has a value that cannot be used."""


class BackendUnavailable(EdgereelError):
    """The chosen backend cannot run here; the message says what to install."""


class BuildMismatch(EdgereelError):
    """A compiled engine was built for another graph, GPU or library version."""


class EngineError(EdgereelError):
    """A graph failed to load or to run."""


class OutputError(EdgereelError):
    """The video could not be written."""


class Cancelled(EdgereelError):
    """The caller stopped the work, by `Cascade.cancel()` or from a callback."""
