"""The drift of a run after each call of a graph, as a picture in SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby

from edgereel.checks import Step

__all__ = ["chart"]

_WIDTH, _HEIGHT = 960, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 40, 28
_LEAST, _MOST = -8, 1  # powers of ten; what is less lies on the lower edge


def chart(steps: Sequence[Step]) -> str:
    """One point per call from left to right, on a logarithmic scale; steps of a loop are joined.

    What is allowed is a dashed line, the first call beyond it is marked. A point tells its call.
    """
    places = [_LEFT + (_WIDTH - _LEFT - _RIGHT) * (i + 0.5) / len(steps) for i in range(len(steps))]
    first = next((index for index, step in enumerate(steps) if not step.ok), None)
    parts = [*_stages(steps), *_scale(), _allowed(steps, places)]
    parts += [*_lines(steps, places), *_points(steps, places)]
    if first is not None:
        x, y = places[first], _y(steps[first].drift)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="var(--bad)"/>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="drift after each call" '
        f'font-size="12" fill="var(--soft)">{"".join(parts)}</svg>'
    )


def _y(drift: float) -> float:
    """The height of a drift; 0 lies on the lower edge, what is not finite on the upper."""
    power = _LEAST if drift == 0 else _MOST if math.isinf(drift) else math.log10(drift)
    share = (min(max(power, _LEAST), _MOST) - _LEAST) / (_MOST - _LEAST)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _stages(steps: Sequence[Step]) -> Iterator[str]:
    """A band for every stage with its name, in two rows so that neighbours do not meet."""
    width, begin = (_WIDTH - _LEFT - _RIGHT) / len(steps), 0
    for number, (stage, calls) in enumerate(groupby(steps, lambda step: step.stage)):
        count = len(list(calls))
        x = _LEFT + begin * width
        begin += count
        if number % 2 == 0:
            yield (
                f'<rect x="{x:.1f}" y="{_TOP}" width="{count * width:.1f}" '
                f'height="{_HEIGHT - _TOP - _BOTTOM}" fill="var(--band)"/>'
            )
        yield f'<text x="{x + 3:.1f}" y="{14 + 16 * (number % 2)}">{escape(stage)}</text>'


def _scale() -> Iterator[str]:
    for power in range(_LEAST, _MOST + 1):
        y = _y(10.0**power)
        yield (
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>'
        )
    y = _HEIGHT - 8
    yield f'<text x="{_LEFT}" y="{y}">calls of graphs, in order; the lowest line is 1e-8 or less'
    yield "</text>"


def _allowed(steps: Sequence[Step], places: Sequence[float]) -> str:
    """What may drift, which rises where a less exact engine begins."""
    ends = [(_LEFT, steps[0]), *zip(places, steps, strict=True), (_WIDTH - _RIGHT, steps[-1])]
    line = " ".join(f"{x:.1f},{_y(step.allowed):.1f}" for x, step in ends)
    return (
        f'<polyline points="{line}" fill="none" stroke="var(--bad)" stroke-dasharray="5 4"/>'
        f'<text x="{_LEFT + 4}" y="{_y(steps[0].allowed) - 5:.1f}" fill="var(--bad)">allowed</text>'
    )


def _lines(steps: Sequence[Step], places: Sequence[float]) -> Iterator[str]:
    """The steps of each sampling loop, joined."""
    calls = zip(places, steps, strict=True)
    for _, loop in groupby(calls, lambda call: (call[1].stage, call[1].chunk, call[1].graph)):
        line = " ".join(f"{x:.1f},{_y(step.drift):.1f}" for x, step in loop)
        yield f'<polyline points="{line}" fill="none" stroke="var(--good)" stroke-width="1.5"/>'


def _points(steps: Sequence[Step], places: Sequence[float]) -> Iterator[str]:
    for x, step in zip(places, steps, strict=True):
        colour = "good" if step.ok else "bad"
        told = f"stage {step.stage}, chunk {step.chunk + 1}, step {step.step} of {step.steps}: "
        told += f"graph {step.graph}, drift {step.drift:.3g}, allowed {step.allowed:.3g}"
        yield (
            f'<circle cx="{x:.1f}" cy="{_y(step.drift):.1f}" r="3" fill="var(--{colour})">'
            f"<title>{escape(told)}</title></circle>"
        )
