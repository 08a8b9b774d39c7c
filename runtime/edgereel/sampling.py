"""The sampling loop: one graph called once per step, while values move between fixed buffers.

Nothing in it needs the results of a step on the host, so a device is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgereel.backends import Array, Backend, Buffer, Engine
from edgereel.call import C_NOISE, Steps

__all__ = ["Loop"]


@dataclass(frozen=True)
class Loop:
    """What a denoise op runs with."""

    backend: Backend
    engine: Engine
    steps: Steps
    x: Buffer  # f32, what the first step begins with; it stays as it is
    conditions: dict[str, Buffer]  # by input of the graph, equal in all steps
    made: frozenset[str]  # of prev and noise, those that the graph reads
    noise: Callable[[int], Array] | None  # of a step, where the sampler draws any

    def run(
        self,
        before: Callable[[], None],
        after: Callable[[int], None],
        is_wanted: Callable[[Buffer], bool] = lambda _: True,
    ) -> Buffer:
        """What the last step made, f32 of the shape of `x`.

        Args:
            before: called before every step; it may raise.
            after: called with the number of finished steps.
            is_wanted: asked of what each step made; the loop ends at the first that is not.
        """
        backend, shape, x = self.backend, self.x.shape, self.x
        inputs = {**self.conditions, "weights": backend.put(self.steps.weights)}
        inputs |= {name: backend.put(np.zeros(shape, np.float32)) for name in self.made}
        pairs = [{n: backend.empty("float32", shape) for n in ("x_next", "x0")} for _ in range(2)]
        rows = backend.put(self.steps.rows)
        inputs["row"] = row = backend.empty("float32", rows.shape[1:])
        for k in range(len(self.steps.rows)):
            before()
            backend.copy(rows[k], row)
            if self.noise is not None and self.steps.rows[k, C_NOISE] != 0:
                backend.copy(self.noise(self.steps.first + k), inputs["noise"])
            outputs = pairs[k % 2]
            self.engine.run({**inputs, "x": x}, outputs)
            x = outputs["x_next"]
            if "prev" in self.made:
                inputs["prev"] = outputs["x0"]
            after(k + 1)
            if not is_wanted(x):
                break
        return x

    def is_finite(self, x: Buffer) -> bool:
        """Whether all values are numbers; waits for them."""
        return self.backend.is_finite(x)

    def first_not_finite(self, before: Callable[[], None]) -> int | None:
        """The step, from 1, whose result is not finite; 0 for `x`; None if all are.

        Runs the loop once more, as far as that, and waits after each step.
        """
        if not self.is_finite(self.x):
            return 0
        done: list[int] = []
        last = self.run(before, done.append, self.is_finite)
        return None if self.is_finite(last) else done[-1]
