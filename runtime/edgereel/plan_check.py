"""What must hold inside and between the parts of a plan, checked before any engine loads.

Files, names, shapes, params and rows here; the flow of values through a mode in plan_flow.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from edgereel.errors import PlanError
from edgereel.plan_flow import check_flow
from edgereel.plan_format import (
    ChoiceParam,
    Document,
    FloatParam,
    GraphSpec,
    IntParam,
    Mode,
    Param,
    TensorSpec,
    TextParam,
    VideoParam,
)
from edgereel.plan_scope import names

__all__ = ["check"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", re.ASCII)
SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED = frozenset({"mode", "callback", "noise", "params"})  # keywords of Cascade.__call__


def check(plan: Document) -> None:
    """Raises PlanError, naming the place, if the parts of `plan` do not fit together."""
    _check_files(plan)
    for name, graph in plan.graphs.items():
        _check_name(f"graphs.{name}", name)
        for side, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            for tensor, spec in tensors.items():
                _check_shape(f"graphs.{name}.{side}.{tensor}", spec)
        _check_polynomials(f"graphs.{name}", graph)
    for name, tokenizer in plan.tokenizers.items():
        if tokenizer.length < 1 or tokenizer.pad_id < 0:
            raise PlanError.at(
                f"tokenizers.{name}",
                f"length {tokenizer.length}, pad_id {tokenizer.pad_id}",
                "a length of at least 1 and a pad_id of at least 0",
            )
    if not plan.modes:
        raise PlanError.at("modes", "is empty", "at least one mode")
    for name, mode in plan.modes.items():
        _check_name(f"modes.{name}", name)
        _check_mode(f"modes.{name}", mode)
        check_flow(plan, mode, f"modes.{name}")


def _check_files(plan: Document) -> None:
    for rel, sha256 in plan.files.items():
        place = f"files.{rel}"
        if not re.fullmatch(r"[^\\:\x00-\x1f\x7f]+", rel) or any(
            part in ("", ".", "..") for part in rel.split("/")
        ):
            raise PlanError.at(
                place, "is not a plain path", "a relative path with '/' that stays in the folder"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise PlanError.at(place, f"{sha256!r} is not a sha256", "64 lowercase hex digits")
    for place, rel in _named_files(plan):
        if rel not in plan.files:
            raise PlanError.at(
                place, f"{rel!r} is not listed in files", "its path and sha256 there"
            )


def _named_files(plan: Document) -> Iterator[tuple[str, str]]:
    for name, graph in plan.graphs.items():
        yield f"graphs.{name}.file", graph.file
        for index, rel in enumerate(graph.weights):
            yield f"graphs.{name}.weights[{index}]", rel
        if graph.golden is not None:
            yield f"graphs.{name}.golden", graph.golden
    for name, schedule in plan.schedules.items():
        yield f"schedules.{name}.file", schedule.file
    for name, tokenizer in plan.tokenizers.items():
        yield f"tokenizers.{name}.file", tokenizer.file


def _check_name(place: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise PlanError.at(place, f"{name!r} is not a name", "letters, digits, '_', '.', '+', '-'")


def _check_shape(place: str, spec: TensorSpec) -> None:
    for size in spec.shape:
        good = size > 0 if isinstance(size, int) else SYMBOL.fullmatch(size)
        if not good:
            raise PlanError.at(
                f"{place}.shape", f"{size!r} is not a size", "ints above 0 and symbols like 'G'"
            )


def _check_polynomials(place: str, graph: GraphSpec) -> None:
    known = {axis for spec in graph.inputs.values() for axis in spec.shape}
    entries = {
        f"{name}[{i}]": terms
        for name in ("activations", "activations_kernels")
        for i, terms in enumerate(getattr(graph, name))
    }
    for name, terms in {**entries, "flops": graph.flops, "traffic": graph.traffic}.items():
        for product, factor in terms.items():
            if product and not known >= set(product.split("*")):
                raise PlanError.at(
                    f"{place}.{name}",
                    f"{product!r} is no product of symbols of the inputs",
                    "one like 'F*h*w', or '' for 1",
                )
            if not 0 <= factor < math.inf:
                raise PlanError.at(f"{place}.{name}.{product}", f"{factor}", "at least 0")


def _check_mode(place: str, mode: Mode) -> None:
    _check_params(f"{place}.params", mode.params)
    for name, spec in mode.values.items():
        _check_name(f"{place}.values.{name}", name)
        _check_shape(f"{place}.values.{name}", spec)
    for symbol in mode.sizes:
        if not SYMBOL.fullmatch(symbol):
            raise PlanError.at(f"{place}.sizes", f"{symbol!r} is not a symbol", "one like 'H'")
    for name, rows in mode.rows.items():
        if not rows:
            raise PlanError.at(f"{place}.rows.{name}", "is empty", "at least one row")
        for index, row in enumerate(rows):
            where = f"{place}.rows.{name}[{index}]"
            if (row.param is None) == (row.text is None) or (row.append and row.param is None):
                raise PlanError.at(where, "is not a row", "either param (and append) or text")
            if row.param is not None and not isinstance(mode.params.get(row.param), TextParam):
                texts = [key for key, param in mode.params.items() if isinstance(param, TextParam)]
                raise PlanError.at(
                    f"{where}.param", f"{row.param!r} is not a text param", "one of " + names(texts)
                )
    if len({stage.name for stage in mode.stages}) < len(mode.stages):
        raise PlanError.at(f"{place}.stages", "two stages have one name", "a name for each stage")


def _check_params(place: str, params: Mapping[str, Param]) -> None:
    owners: dict[str, str] = {}
    for name, param in params.items():
        for word in (name, *param.aliases):
            _check_name(f"{place}.{name}", word)
            if word in RESERVED or word in owners:
                owner = f"param {owners[word]!r}" if word in owners else "Edgereel itself"
                raise PlanError.at(
                    f"{place}.{name}", f"the spelling {word!r} belongs to {owner}", "another one"
                )
            owners[word] = name
        _check_param(f"{place}.{name}", param)


def _check_param(place: str, param: Param) -> None:
    match param:
        case (
            IntParam(default=default, min=low, max=high)
            | FloatParam(default=default, min=low, max=high)
        ):
            bounds = (low if low is not None else -math.inf, high if high is not None else math.inf)
            if bounds[0] > bounds[1]:
                raise PlanError.at(place, f"min {low} is above max {high}", "min <= max")
            if default is not None and not bounds[0] <= default <= bounds[1]:
                raise PlanError.at(
                    f"{place}.default", f"{default} is out of range", f"{low} to {high}"
                )
            if isinstance(param, IntParam):
                _check_multiple(place, param)
        case ChoiceParam(default=default, choices=choices):
            if not choices or len(set(choices)) < len(choices):
                raise PlanError.at(
                    f"{place}.choices", f"{list(choices)}", "one or more different words"
                )
            if default is not None and default not in choices:
                raise PlanError.at(
                    f"{place}.default", f"{default!r} is not a choice", "one of " + names(choices)
                )
        case VideoParam(multiple=multiple, longest=longest, height=height, width=width):
            if (height is None) != (width is None) or (height is not None and longest is not None):
                raise PlanError.at(
                    place,
                    f"has longest {longest}, height {height} and width {width}",
                    "longest, or both others, or none",
                )
            if multiple < 1 or (multiple > 1 and longest is None):
                raise PlanError.at(
                    f"{place}.multiple",
                    f"is {multiple}, and longest is {longest}",
                    "at least 1, and 1 if nothing is scaled",
                )
        case TextParam():
            pass


def _check_multiple(place: str, param: IntParam) -> None:
    """A range that begins and ends with numbers that a user may give."""
    if param.multiple < 1:
        raise PlanError.at(f"{place}.multiple", f"is {param.multiple}", "at least 1")
    for field in ("default", "min", "max"):
        number = getattr(param, field)
        if number is not None and number % param.multiple:
            raise PlanError.at(
                f"{place}.{field}", f"is {number}", f"a multiple of {param.multiple}"
            )
