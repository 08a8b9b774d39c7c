"""Functions of domain `edgereel` that a file holds the definitions of."""

from __future__ import annotations

import onnx
import onnx_ir as ir

__all__ = ["DOMAIN", "add", "to_standard"]

DOMAIN = "edgereel"


def add(model: ir.Model, body: str) -> None:
    """Gives a model a definition in ONNX's text form, in place."""
    function = ir.serde.deserialize_function(onnx.parser.parse_function(body))
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1


def to_standard(model: ir.Model, name: str, standard: str) -> None:
    """Makes every call of a function the standard's operator, without its definition, in place."""
    for node in model.graph.all_nodes():
        if (node.domain, node.op_type) == (DOMAIN, name):
            node.domain, node.op_type = "", standard
    model.functions.pop((DOMAIN, name, ""), None)
