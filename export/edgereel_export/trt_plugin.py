"""Attention over frames as TensorRT's plugin in place of its definition, where a build asks for it.

TensorRT's parser takes a node for which no importer is known as a plugin of that name. Plugins have
no optional inputs, so a node keeps only those that there are and says in attributes which.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgereel import kernel_library
from edgereel.backends.trt_library import Library
from edgereel.errors import BackendUnavailable

__all__ = ["OP", "check", "has_op", "keep"]

OP = ("edgereel", "TemporalAttention")


def has_op(path: Path) -> bool:
    """Whether the graph of a file has attention over frames as our operator."""
    return any((node.domain, node.op_type) == OP for node in ir.load(path).graph.all_nodes())


def keep(model: ir.Model) -> int:
    """The number of nodes, now calls of the plugin that are not inlined, in place."""
    found = [node for node in model.graph.all_nodes() if (node.domain, node.op_type) == OP]
    for node in found:
        qkv, cos, sin, bias = (*node.inputs, None, None, None)[:4]
        given = [value for value in (qkv, cos, sin, bias) if value is not None]
        for index in range(len(node.inputs)):
            node.replace_input_with(index, given[index] if index < len(given) else None)
        node.resize_inputs(len(given))
        for name, there in (("turned", cos is not None), ("biased", bias is not None)):
            node.attributes.add(ir.AttrInt64(name, int(there)))
        node.attributes.add(ir.AttrString("plugin_namespace", OP[0]))
        node.attributes.add(ir.AttrString("plugin_version", "1"))
    for identifier in [key for key in model.functions if key[:2] == OP]:
        del model.functions[identifier]
    return len(found)


def check(trt: Library) -> dict[str, str]:
    """The plugin as build.json names it.

    Raises:
        BackendUnavailable: this TensorRT takes no plugins, or the plugin is not installed.
    """
    if not trt.takes_plugins:
        raise BackendUnavailable(
            f"{trt} takes no plugins; --plugin expects `tensorrt`. Leave it out, which "
            "compiles attention over frames from its definition, or run `pip install tensorrt` "
            "on a machine with a GPU."
        )
    plugin = kernel_library.plugin()
    if plugin is None:
        raise BackendUnavailable(
            f"The plugin for {trt} is not installed; --plugin expects edgereel-kernels built with "
            f"it. {kernel_library.INSTALL_PLUGIN}, or leave --plugin out."
        )
    return plugin
