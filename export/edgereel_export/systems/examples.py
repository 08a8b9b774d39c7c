"""Example inputs of graphs, the same at every call."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ids", "pictures", "rand", "randn"]


def randn(*shape: int) -> Tensor:
    """Normal numbers, f32."""
    return torch.randn(shape, generator=_generator())


def rand(*shape: int) -> Tensor:
    """Numbers in 0..1, f32."""
    return torch.rand(shape, generator=_generator())


def pictures(*shape: int) -> Tensor:
    """Levels, u8."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=_generator())


def ids(rows: int, length: int) -> Tensor:
    """Tokens that every vocabulary has, i64 [rows, length]."""
    return torch.randint(0, 200, (rows, length), generator=_generator())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
