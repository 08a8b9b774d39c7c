"""The noise of a call: every draw has a name, and may be given instead of drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel import noise
from edgereel.errors import InputError
from edgereel.plan import Denoise, Mode, Noise, Renoise, ops

__all__ = ["Draws"]

Array = NDArray[Any]


class Draws:
    """The noise of one call: drawn by name, or taken from arrays the user gave.

    Keys of given arrays: `name` for a noise or renoise op, `name.k` for step k of a denoise op,
    either with `[c]` behind it in chunk c of a chunked stage. Shared noise has no chunk and no
    axis 0.
    """

    def __init__(self, seed: int, given: Mapping[str, Array], mode: Mode) -> None:
        self._seed, self._given = seed, given
        once = {
            op.value if isinstance(op, Noise) else op.noise
            for op in ops([mode])
            if isinstance(op, Noise | Renoise)
        }
        steps = {op.noise for op in ops([mode]) if isinstance(op, Denoise) and op.noise is not None}
        for key in given:
            whole = re.sub(r"\[\d+\]$", "", key)
            name, _, step = whole.rpartition(".")
            if whole not in once and not (name in steps and step.isdecimal()):
                known = sorted(once | {f"{stream}.0" for stream in steps})
                raise InputError(
                    f"the given noise {key!r} is not drawn in this mode; expected keys like "
                    f"{', '.join(known) or '(it draws none)'}. Correct the key, or drop it."
                )

    def draw(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        step: int | None = None,
        chunk: int | None = None,
        part: bool = False,
    ) -> NDArray[np.float32]:
        """Standard normal noise, f32 of the shape.

        Args:
            name: of the stream.
            shape: of the result; the leading axes that a caller shares are left to it.
            step: index in the trajectory, or None for a draw outside a loop.
            chunk: index of the chunk, or None outside chunks and for shared noise.
            part: only the first entries of the draw are wanted.
        """
        key = name if step is None else f"{name}.{step}"
        key += "" if chunk is None else f"[{chunk}]"
        if key not in self._given:
            return noise.normal(self._seed, name, chunk or 0, step or 0, shape)
        array = np.asarray(self._given[key])
        if part and array.shape[1:] == shape[1:]:
            array = array[: shape[0]]
        if array.shape != shape or array.dtype.kind != "f":
            raise InputError(
                f"the given noise {key!r} is {array.dtype} {list(array.shape)}; expected float32 "
                f"{list(shape)}. Save it in that shape."
            )
        return array.astype(np.float32)
