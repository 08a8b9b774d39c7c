"""`edgereel::TemporalAttention`, version 1, as a function of the file: its definition.

A runtime with a kernel for it (kernels/) takes that; any other computes these standard operators.

    qkv   T   [B, F, S, 3C]       queries, keys and values of S pixels in F frames
    cos   f32 [F, r/2], optional  queries and keys are turned by frame, their first r channels of a
    sin   f32 [F, r/2]            head in pairs: (2i, 2i + 1) if interleaved, else (i, i + r/2)
    bias  f32 [heads, F, F]       optional; added to the scores, query frames first
    out   T   [B, F, S, C]
    heads, scale                  attributes: C is a multiple of heads; scores are scaled
    interleaved                   attribute, 0 or 1; without it r is the width of a head

Which of its inputs there are changes the operators, so a file has the definition that its nodes
need, and all of them need the same.
"""

from __future__ import annotations

import onnx_ir as ir

from edgereel.errors import EngineError

from . import own_functions

__all__ = ["body", "define"]

_DOMAIN, _NAME = own_functions.DOMAIN, "TemporalAttention"
_SHAPES = """
    one = Constant <value_ints = [1]> ()
    rest = Constant <value_ints = [-1]> ()
    same = Constant <value_ints = [0]> ()
    three = Constant <value_ints = [3]> ()
    count = Constant <value_int: int = @heads> ()
    heads = Reshape(count, one)
    rows = Shape <start = 0, end = 1> (qkv)
    frames = Shape <start = 1, end = 2> (qkv)
    pixels = Shape <start = 2, end = 3> (qkv)
    split = Concat <axis = 0> (same, same, same, three, heads, rest)
    parts = Reshape(qkv, split)
    width = Shape <start = 5, end = 6> (parts)
    by_part = Transpose <perm = [3, 0, 2, 4, 1, 5]> (parts)
    q_part, k_part, v_part = Split <axis = 0, num_outputs = 3> (by_part)
    by_pixel = Concat <axis = 0> (rest, heads, frames, width)
    q = Reshape(q_part, by_pixel)
    k = Reshape(k_part, by_pixel)
    v = Reshape(v_part, by_pixel)
"""
# Channels that are not turned are turned by 0.
_TABLES = """
    half = Shape <start = 1, end = 2> (cos)
    two = Constant <value_ints = [2]> ()
    most = Div(width, two)
    missing = Sub(most, half)
    beside = Concat <axis = 0> (same, same, same, missing)
    unit = Constant <value_float = 1.0> ()
    zero = Constant <value_float = 0.0> ()
    cos_all = Pad(cos, beside, unit)
    sin_all = Pad(sin, beside, zero)
    cos_like = CastLike(cos_all, qkv)
    sin_like = CastLike(sin_all, qkv)
"""
_TURN = """
    {x}_a, {x}_b = Split <axis = -1, num_outputs = 2> ({pairs})
    {x}_a_cos = Mul({x}_a, {cos})
    {x}_a_sin = Mul({x}_a, {sin})
    {x}_b_cos = Mul({x}_b, {cos})
    {x}_b_sin = Mul({x}_b, {sin})
    {x}_first = Sub({x}_a_cos, {x}_b_sin)
    {x}_second = Add({x}_b_cos, {x}_a_sin)
    {x}_both = Concat <axis = -1> ({x}_first, {x}_second)
"""
_PAIRS = """
    pairs = Concat <axis = 0> (same, same, same, rest, two)
    whole = Concat <axis = 0> (same, same, same, rest)
    cos_turn = Unsqueeze(cos_like, rest)
    sin_turn = Unsqueeze(sin_like, rest)
    q_pairs = Reshape(q, pairs)
    k_pairs = Reshape(k, pairs)
"""
_JOINED = """
    q_turned = Reshape(q_both, whole)
    k_turned = Reshape(k_both, whole)
"""
_OUT = """
    by_row = Concat <axis = 0> (rows, pixels, heads, frames, width)
    attended_rows = Reshape(attended, by_row)
    by_frame = Transpose <perm = [0, 3, 1, 2, 4]> (attended_rows)
    joined = Concat <axis = 0> (same, same, same, rest)
    out = Reshape(by_frame, joined)
"""


def body(*, turned: bool, biased: bool, interleaved: bool) -> str:
    """The definition in ONNX's text form, for nodes with these inputs and this attribute."""
    lines, q, k, mask = [_SHAPES], "q", "k", ""
    if turned and interleaved:
        tables = {"cos": "cos_turn", "sin": "sin_turn"}
        turns = (_TURN.format(x=x, pairs=f"{x}_pairs", **tables) for x in "qk")
        lines += [_TABLES, _PAIRS, *turns, _JOINED]
        q, k = "q_turned", "k_turned"
    elif turned:
        turns = (_TURN.format(x=x, pairs=x, cos="cos_like", sin="sin_like") for x in "qk")
        lines += [_TABLES, *turns]
        q, k = "q_both", "k_both"
    if biased:
        lines.append("    bias_1 = Unsqueeze(bias, same)\n    mask = CastLike(bias_1, qkv)\n")
        mask = ", mask"
    attend = f"    attended = Attention <scale: float = @scale> ({q}, {k}, v{mask})\n"
    return "".join(
        (
            f'<domain: "{_DOMAIN}", opset_import: ["" : 23]>\n',
            f"{_NAME} <heads, interleaved, scale> (qkv, cos, sin, bias) => (out)\n{{",
            *lines,
            attend,
            _OUT,
            "}\n",
        )
    )


def define(model: ir.Model) -> None:
    """Adds the definition that the nodes of a model need, in place.

    Raises:
        EngineError: they need different ones.
    """
    found = [
        node for node in model.graph.all_nodes() if (node.domain, node.op_type) == (_DOMAIN, _NAME)
    ]
    if not found:
        return
    kinds = {_kind(node) for node in found}
    if len(kinds) > 1:
        raise EngineError(
            f"{model.graph.name}: calls of {_NAME} with different inputs; expected all with the "
            f"same, as a file has one definition. Export their networks as graphs of their own."
        )
    turned, biased, interleaved = kinds.pop()
    text = body(turned=turned, biased=biased, interleaved=interleaved)
    own_functions.add(model, text)


def _kind(node: ir.Node) -> tuple[bool, bool, bool]:
    """Whether queries and keys are turned, scores get a bias, turned pairs are interleaved."""
    _, cos, _, bias = (*node.inputs, None, None, None)[:4]
    return cos is not None, bias is not None, bool(node.attributes["interleaved"].as_int())
