"""Which graphs of a cascade are compiled."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from edgereel.errors import InputError
from edgereel.plan import graphs_of, load, ops
from edgereel_export import trt_plugin

__all__ = ["chosen"]


def chosen(
    folder: str | Path, graphs: Collection[str] | None = None, *, plugin: bool = False
) -> list[str]:
    """The graphs to compile, in the plan's order; with `plugin`, of those that it concerns.

    Raises:
        InputError: one is asked for that is not among them, or there is none.
    """
    plan = load(folder)
    used = graphs_of(ops(plan.modes.values()))
    known = [name for name in plan.graphs if name in used or graphs is not None]
    if plugin:
        known = [n for n in known if trt_plugin.has_op(plan.check_file(plan.graphs[n].file))]
    found = known if graphs is None else [name for name in known if name in graphs]
    unknown = sorted(set(graphs or ()) - set(found))
    if unknown or not found:
        having = "with attention over frames as our operator " if plugin else ""
        raise InputError(
            f"graphs names {', '.join(unknown) or 'none'}; {plan.name} has {having}"
            f"{', '.join(known) or 'none'}. Choose from these, or leave it out for all."
        )
    return found
