"""Rows that a denoising step is measured with: of the tables that a plan's defaults give."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from edgereel.errors import EdgereelError
from edgereel.plan import Denoise, Mode, Plan, Ref
from edgereel.schedule import sampler_rows

__all__ = ["PLACES", "some_rows"]

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # in a table: from the first row to the last


def some_rows(plan: Plan, graph: str) -> tuple[tuple[float, ...], ...]:
    """Some rows of each table that the modes run a graph with, without repetitions.

    A table that only the user's params decide is left out.
    """
    found: dict[tuple[float, ...], None] = {}
    for mode in plan.modes.values():
        for stage in mode.stages:
            for op in stage.ops:
                if isinstance(op, Denoise) and op.graph == graph:
                    with suppress(LookupError, ValueError, EdgereelError):
                        found.update(dict.fromkeys(_of(plan, mode, op)))
    return tuple(found)


def _of(plan: Plan, mode: Mode, op: Denoise) -> list[tuple[float, ...]]:
    def value(field: Any) -> Any:
        default = (
            getattr(mode.params[field.param], "default", None) if isinstance(field, Ref) else field
        )
        if default is None:
            raise LookupError(field)
        return default

    table = np.load(plan.check_file(plan.schedules[op.schedule].file), allow_pickle=False)
    sampler = value(op.sampler)
    spacing = op.spacings.get(sampler) or value(op.spacing)
    rows = sampler_rows(
        sampler, table, spacing, value(op.steps), eta=value(op.eta), final=op.final,
        variance=op.variance,
    )  # fmt: skip
    return [tuple(map(float, rows[round(place * (len(rows) - 1))])) for place in PLACES]
