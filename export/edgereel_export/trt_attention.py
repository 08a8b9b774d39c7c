"""Attention layers for which the library has no fused kernel, found by asking it.

A parsed Attention must become one fused kernel, or the build fails, unless it is marked
`decomposable`. Marking all of them would hide the slow ones, so each distinct kind is first built
alone, which takes milliseconds; only the refused ones are marked, and listed in build.json.
tensorrt_rtx 1.7 has fused float16 kernels for head sizes 12 to 256, but none for one head of one
batch entry, and none in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgereel.backends.trt_library import Library

__all__ = ["decompose"]

_SOME_TOKENS = 64  # stands for a number of tokens that is not fixed
_SOME_BATCH, _SOME_HEADS = 1, 2  # a batch that is not fixed may be one


def decompose(trt: Library, network: Any, configure: Callable[[Any], None]) -> list[str]:
    """Names of the attention layers that were marked decomposable, in the graph's order.

    Args:
        trt: the library.
        network: a parsed network; its attention layers are marked in place.
        configure: sets a builder config to the GPUs that are compiled for.
    """
    fused: dict[Any, bool] = {}
    marked = []
    for attention in _attentions(trt, network):
        kind = _kind(attention)
        if kind not in fused:
            fused[kind] = _has_kernel(trt, kind, attention.norm_op, configure)
        if not fused[kind]:
            attention.decomposable = True
            marked.append(str(attention.name))
    return marked


def _attentions(trt: Library, network: Any) -> list[Any]:
    """The IAttention objects of a network, reached through their input layers."""
    module = trt.module
    kind = getattr(module.LayerType, "ATTENTION_INPUT", None)
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if kind is not None and layer.type == kind:
            layer.__class__ = module.IAttentionInputLayer  # the API's own way to downcast
            found.append(layer.attention)
    return found


def _kind(attention: Any) -> tuple[Any, ...]:
    """What the choice of a kernel can depend on: types, shapes, mask, causality."""
    tensors = [attention.get_input(i) for i in range(3)]
    mask = attention.mask
    return (
        tensors[0].dtype,
        tuple(_shape(t) for t in tensors),
        None if mask is None else (mask.dtype, _mask_shape(mask, tensors)),
        bool(attention.causal),
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    """[batch, heads, tokens, head size] with numbers for what is not fixed."""
    unknown = (_SOME_BATCH, _SOME_HEADS, _SOME_TOKENS, _SOME_TOKENS)
    return tuple(d if d > 0 else u for d, u in zip(tensor.shape, unknown, strict=True))


def _mask_shape(mask: Any, tensors: list[Any]) -> tuple[int, ...]:
    query, key = _shape(tensors[0]), _shape(tensors[1])
    whole = (query[0], query[1], query[2], key[2])
    return tuple(d if d > 0 else w for d, w in zip(mask.shape, whole, strict=True))


def _has_kernel(
    trt: Library, kind: tuple[Any, ...], norm: Any, configure: Callable[[Any], None]
) -> bool:
    """Whether a network of just this attention builds undecomposed."""
    module = trt.module
    dtype, shapes, mask, causal = kind
    logger = module.Logger(module.Logger.INTERNAL_ERROR)
    builder = module.Builder(logger)
    network = builder.create_network(
        1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        if hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        else 0
    )
    tensors = [network.add_input(n, dtype, s) for n, s in zip("qkv", shapes, strict=True)]
    attention = network.add_attention(*tensors, norm, causal)
    if mask is not None:
        attention.mask = network.add_input("mask", *mask)
    network.mark_output(attention.get_output(0))
    config = builder.create_builder_config()
    configure(config)
    return builder.build_serialized_network(network, config) is not None
