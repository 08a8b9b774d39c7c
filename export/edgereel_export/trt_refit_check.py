"""Whether engines whose weights can be replaced can be compiled here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgereel.backends.trt_library import Library, device
from edgereel.errors import BackendUnavailable, InputError
from edgereel.plan import Plan
from edgereel_export import trt_weights

__all__ = ["check"]


def check(trt: Library, plan: Plan, graphs: Iterable[str], wanted: Sequence[str]) -> None:
    """Nothing.

    Args:
        trt: the library.
        plan: of the cascade.
        graphs: that are to be compiled.
        wanted: patterns of names of weights.

    Raises:
        InputError: a pattern names no weight of any of the graphs.
        BackendUnavailable: no GPU is here.
    """
    known = [
        one
        for graph in graphs
        for one in trt_weights.stored(plan.check_file(plan.graphs[graph].file)).values()
    ]
    for pattern in wanted:
        if not any(trt_weights.matches(one, [pattern]) for one in known):
            some = ", ".join(sorted({part for one in known for part in one.parts})[:5])
            raise InputError(
                f"--refit-weights {pattern} names no weight; expected a pattern of names such as "
                f"{some or 'none, no graph has weights that can be replaced'}. Correct it."
            )
    if device() is None:
        raise BackendUnavailable(
            f"{trt} compiles engines whose weights can be replaced only where a CUDA GPU is, and "
            "none answers here; --refit expects one. Leave --refit out, or run this on the machine "
            "with the GPU."
        )
