"""Numbers as float16 engines have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_FLOAT16", "as_float16"]

MAX_FLOAT16 = 65504.0


def as_float16(array: NDArray[Any]) -> NDArray[np.float16]:
    """The nearest float16 of each; what is beyond its range its end, but infinities stay."""
    limited = np.where(np.isinf(array), array, np.clip(array, -MAX_FLOAT16, MAX_FLOAT16))
    return limited.astype(np.float16)
