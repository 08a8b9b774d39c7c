"""What the sampling loop guards, and what loads beside it: `pytest tests/test_sampling.py`."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import memory
from edgereel.backends import Buffer, Footprint, ort
from edgereel.interpreter import Interpreter
from edgereel.pipeline import Cascade
from edgereel.plan import GraphSpec, load

pytest.importorskip("onnxruntime")


class Overflowing(ort.Ort):
    """The `ort` backend whose decoder overflows at one step, in one element."""

    def __init__(self, folder: Path, step: int | None) -> None:
        super().__init__(load(folder), threads=1)
        self.calls, self._at = 0, step
        self._steps: dict[float, int] = {}  # by their timestep

    def load(self, path: Path, spec: GraphSpec) -> ort.Engine:
        engine = super().load(path, spec)
        run = engine.run

        def overflow(inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
            run(inputs, outputs)
            if "x_next" in outputs and path.stem == "decoder":
                timestep = float(np.asarray(inputs["row"])[0])
                self._steps.setdefault(timestep, len(self._steps))
                self.calls += 1
                if self._steps[timestep] == self._at:
                    np.asarray(outputs["x_next"]).flat[5] = np.inf

        engine.run = overflow  # type: ignore[method-assign]
        return engine


def cascade_of(backend: ort.Ort, **options: Any) -> Cascade:
    return Cascade(backend._plan, Interpreter(backend._plan, backend, **options), "a test")


@pytest.mark.parametrize("step", [0, 4, 8])
def test_the_step_that_overflows_is_named(toy: Path, step: int) -> None:
    """The loop runs to its end without a look at its values, then once more up to the step."""
    backend = Overflowing(toy, step)
    words = re.escape(
        f"stage 'decoder': latent after step {step + 1} of 9 holds values that are not finite "
        f"(graph decoder, as exported); expected finite numbers. `edgereel verify`"
    )
    with pytest.raises(edgereel.EngineError, match=words):
        cascade_of(backend)("a", steps=9)
    assert backend.calls == 9 + step + 1


def test_what_a_loop_begins_with_is_told_apart(toy: Path) -> None:
    noise = np.zeros((1, 3, 6, 4, 4), np.float32)
    noise[0, 0, 0, 0, 0] = np.nan
    cascade = cascade_of(Overflowing(toy, None))
    with pytest.raises(edgereel.EngineError, match="'decoder': decoder_noise before the first ste"):
        cascade("a", noise={"decoder_noise": noise})


class Ahead(ort.Ort):
    """The `ort` backend, where loading may go on beside the work.

    The decoder's first step does not end before the graph of the next stage is there.
    """

    loads_ahead = True

    def __init__(self, folder: Path) -> None:
        super().__init__(load(folder), threads=1)
        self.loaded: dict[str, str] = {}  # graph -> thread
        self.there = threading.Event()

    def load(self, path: Path, spec: GraphSpec) -> ort.Engine:
        self.loaded[path.stem] = threading.current_thread().name
        engine = super().load(path, spec)
        run = engine.run

        def waiting(inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
            assert path.stem != "decoder" or self.there.wait(60)
            run(inputs, outputs)

        engine.run = waiting  # type: ignore[method-assign]
        if path.stem == "sr":
            self.there.set()
        return engine


def test_the_next_stage_loads_beside_the_present_one(toy: Path) -> None:
    """On one thread, in the order in which graphs are needed, and once."""
    expected = edgereel.load(toy, backend="ort", threads=1)("a").frames
    backend = Ahead(toy)
    cascade = cascade_of(backend)
    np.testing.assert_array_equal(cascade("a").frames, expected)
    assert list(backend.loaded) == ["text_encoder", "decoder", "to_clip", "sr", "pixels"]
    assert all(thread.startswith("edgereel-load") for thread in backend.loaded.values())
    backend.loaded.clear()
    np.testing.assert_array_equal(cascade("a").frames, expected)
    assert not backend.loaded


def test_with_low_vram_nothing_loads_early(toy: Path) -> None:
    backend = Ahead(toy)
    backend.there.set()
    cascade_of(backend, low_vram=True)("a")
    assert not any(thread.startswith("edgereel-load") for thread in backend.loaded.values())


def test_an_engine_that_does_not_load_ahead_is_an_error_where_it_is_used(toy: Path) -> None:
    backend = Ahead(toy)
    original = backend.load

    def fail(path: Path, spec: GraphSpec) -> ort.Engine:
        if path.stem == "sr":
            backend.there.set()
            raise edgereel.EngineError("sr: no room")
        return original(path, spec)

    backend.load = fail  # type: ignore[method-assign]
    seen: list[str] = []
    with pytest.raises(edgereel.EngineError, match="sr: no room"):
        cascade_of(backend)("a", callback=lambda progress: seen.append(progress.stage))
    assert seen[-1] == "sr"


def test_memory_is_predicted_from_compiled_engines(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of the present and the next stage, and one block that all engines work in."""
    gib = 2**30

    def footprint(graph: str) -> Footprint:
        return Footprint(weights=gib, activations={"decoder": 5 * gib}.get(graph, gib))

    plan = load(toy)
    mode = plan.modes["video"]
    sizes = [{"G": 2, "B": 1, "K": 4}] * len(mode.stages)
    asked = memory.Asked(plan, mode, sizes, footprint=footprint, ahead=True)
    told = {
        low: [
            (p.weights // gib, p.activations // gib)
            for p in memory.stage_peaks(asked, low_vram=low)
        ]
        for low in (False, True)
    }
    # text_encoder; decoder and to_clip; sr and pixels, in the block that the decoder needed
    assert told[False] == [(3, 1), (5, 5), (5, 5)]
    assert told[True] == [(1, 1), (2, 5), (2, 5)]

    backend = Ahead(toy)
    monkeypatch.setattr(backend, "footprint", footprint)
    monkeypatch.setattr(backend, "free_memory", lambda: 8 * gib)
    with pytest.raises(edgereel.InputError, match=r"'decoder' needs 10 GiB .* Use --low-vram"):
        cascade_of(backend)("a")
    assert not backend.loaded
    backend.there.set()
    cascade_of(backend, low_vram=True)("a")
