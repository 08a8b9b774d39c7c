"""Stages in chunks: the parts of values that a chunk sees, and what is made of all chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgereel.backends import Backend, Buffer
from edgereel.call import Call
from edgereel.plan import Stage, cut
from edgereel.windows import Span

__all__ = ["joined", "part_of"]


def part_of(backend: Backend, whole: Buffer, cuts: Sequence[tuple[int, Span]]) -> Buffer:
    """The part of a value within a span of each of some axes; led, if the span says so."""
    for axis, span in cuts:
        body = backend.cut(whole, axis, span.start, span.stop)
        if span.lead:  # of axis 0
            both = backend.empty(whole.dtype.name, (span.size, *whole.shape[1:]))
            backend.copy(whole[: span.lead], both[: span.lead])
            backend.copy(body, both[span.lead :])
            body = both
        whole = body
    return whole


def joined(
    backend: Backend,
    call: Call,
    stage: Stage,
    run: Callable[[Sequence[Span]], dict[str, Buffer]],
    chosen: tuple[Span, ...] = (),
) -> dict[str, Buffer]:
    """What a stage collects in all its chunks, joined, by the names inside.

    Args:
        backend: owner of the values.
        call: the sizes.
        stage: with `each`.
        run: what one chunk makes, given its span of every window.
        chosen: spans of the first windows; only chunks within them are run.
    """
    assert stage.each is not None
    if len(chosen) == len(stage.each.windows):
        return run(chosen)
    spans = call.spans[stage.name][len(chosen)]
    if len(spans) == 1:
        return joined(backend, call, stage, run, (*chosen, spans[0]))
    whole: dict[str, Buffer] = {}
    done = 0
    for span in spans:
        for name, part in joined(backend, call, stage, run, (*chosen, span)).items():
            found = cut(call.mode, name, stage.each.windows[len(chosen)].symbol)
            assert found is not None  # the plan was checked
            axis, times = found
            if name not in whole:
                shape = list(part.shape)
                shape[axis] = spans[-1].stop * times
                whole[name] = backend.empty(part.dtype.name, shape)
            backend.join(whole[name], part, axis, span.start * times, done * times)
        done = span.stop
    return whole
