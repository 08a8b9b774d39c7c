"""Group norms of PyTorch to compare others with.

In float32 PyTorch has the fault that group_norm.py speaks of: the latents of a grey picture are off
by a thousandth with one thread, and not with two. (Apart from that file, as engines are compiled
without torch, which takes seconds to load.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["exact_group_norm"]


@contextmanager
def exact_group_norm() -> Iterator[None]:
    """PyTorch with group norms computed in float64."""
    plain = F.group_norm

    def exact(
        x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
    ) -> Tensor:
        scale, shift = (None if t is None else t.double() for t in (weight, bias))
        return plain(x.double(), groups, scale, shift, eps).to(x.dtype)

    with patch.object(torch.nn.functional, "group_norm", exact):
        yield
