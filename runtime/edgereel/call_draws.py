"""The noise of a call: every draw has a name, and may be given instead of drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel import noise
from edgereel.errors import InputError
from edgereel.plan import Denoise, Mode, Noise, Ref, Renoise

__all__ = ["Draws"]

Array = NDArray[Any]


class Draws:
    """The noise of one call: drawn by name, or taken from arrays the user gave.

    Keys of given arrays: `name` for a noise or renoise op, `name.k` for step k of a denoise op,
    either with `[c]` behind it in chunk c of a chunked stage. Shared noise has no chunk and no
    axis 0.
    """

    def __init__(self, params: Mapping[str, Any], given: Mapping[str, Array], mode: Mode) -> None:
        self._seed, self._given = params.get("seed", 0), given
        once, steps = _first_keys(mode, params)
        for key in given:
            first = re.sub(r"\[\d+\]$", "[0]", key)
            if first not in once and re.sub(r"\.\d+(\[0\])?$", r".0\1", first) not in steps:
                raise InputError(
                    f"the given noise {key!r} is not drawn in this mode; expected keys like "
                    f"{', '.join(sorted(once | steps)) or '(it draws none)'}. Correct the key, or "
                    f"drop it."
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


def _first_keys(mode: Mode, params: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The keys of the draws of noise and renoise ops, and of denoise ops: step 0, chunk 0."""
    once: set[str] = set()
    steps: set[str] = set()
    for stage in mode.stages:
        for op in stage.ops:
            match op:
                case Noise(value=key, shared=shared):
                    found = once
                case Renoise(noise=key, shared_noise=shared):
                    found = once
                case Denoise(noise=str(stream), shared_noise=shared):
                    found, key = steps, f"{stream}.0"
                case _:
                    continue
            if isinstance(shared, Ref):
                shared = params[shared.param]
            found.add(key if stage.each is None or shared else f"{key}[0]")
    return once, steps
