"""Weights that nobody has: drawn from their names while a file is written, never all in memory.

For latency, memory and size of a network before, or without, its training. Such a network is on
torch's meta device, where parameters have shapes and no values; each carries the name that its
values are drawn from, so networks that share names share weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

__all__ = ["draw", "has_drawn_weights", "name_weights", "put_into", "take_from"]

_NAME = "drawn_from"


def name_weights(module: nn.Module, name: Callable[[str], str]) -> None:
    """Name what the parameters of a module on the meta device are drawn from, by their keys."""
    for key, parameter in module.named_parameters():
        setattr(parameter, _NAME, name(key))


def has_drawn_weights(module: nn.Module) -> bool:
    """Whether a network has weights that are yet to be drawn."""
    return any(hasattr(parameter, _NAME) for parameter in module.parameters())


def take_from(model: ir.Model) -> None:
    """Leave the weights of an exported network without values, so that nothing reads them."""
    for value in model.graph.initializers.values():
        if getattr(getattr(value.const_value, "raw", None), "is_meta", False):
            value.const_value = None


def put_into(model: ir.Model, module: nn.Module) -> None:
    """Give the weights of an exported network, which have no values, those of their names."""
    for key, parameter in module.named_parameters(remove_duplicate=False):
        value = model.graph.initializers.get(key)
        if value is not None and hasattr(parameter, _NAME):
            make = partial(_drawn, getattr(parameter, _NAME), tuple(parameter.shape))
            value.const_value = ir.LazyTensor(
                make, ir.DataType.FLOAT, ir.Shape(parameter.shape), name=key
            )


def _drawn(name: str, shape: tuple[int, ...]) -> ir.Tensor[NDArray[np.float32]]:
    return ir.Tensor(draw(name, shape))


def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The values of a parameter, f32: normal, of a size that keeps the variance of what goes in.

    Biases are zero; other vectors, which are scales of norms, are one.
    """
    if len(shape) == 1:
        return np.full(shape, 0 if name.endswith("bias") else 1, np.float32)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(shape, np.float32)
    values /= np.float32(math.sqrt(math.prod(shape[1:])))
    return values
