"""The interpreter against a numpy version of the toy cascade: `pytest tests/test_interpreter.py`.

Tolerance: frames equal to one level of 255, since ONNX Runtime may order sums differently.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgereel
from edgereel import schedule
from edgereel.backends import Buffer, ort
from edgereel.interpreter import Interpreter
from edgereel.noise import normal
from edgereel.pipeline import Cascade
from edgereel.plan import GraphSpec, load

pytest.importorskip("onnxruntime")

Array = NDArray[Any]
EditToy = Callable[[Callable[[dict[str, Any]], object]], Path]
WORDS = [
    "<pad>",
    "<start>",
    "<end>",
    "<unknown>",
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "moving",
    "right",
    "left",
    "up",
]
EMBEDDINGS = ((np.arange(56).reshape(14, 4) * 7 % 17 - 8) / 16).astype(np.float32)
TABLE = schedule.alphas_cumprod_linear(0.001, 0.04, 100)


# The toy cascade, written down a second time


def softsign(x: Array) -> Array:
    return np.asarray(x / (1 + np.abs(x)))


def embedding(text: str, row: int) -> Array:
    ids = [1, *(WORDS.index(word) if word in WORDS else 3 for word in text.split()[:6]), 2]
    return np.asarray(EMBEDDINGS[ids].sum(0) + row / 8)


def update(x: Array, m: Array, row: Array, prev: Array, z: Array) -> tuple[Array, Array]:
    _, alpha, sigma, c_x0, c_eps, c_prev, c_noise = row[:7]
    x0 = np.clip((x - sigma * m) / alpha, -3, 3)
    eps = (x - alpha * x0) / sigma
    return c_x0 * x0 + c_eps * eps + c_prev * prev + c_noise * z, x0


def decode(
    rows: list[tuple[str, int, float]], seed: int, steps: int, sampler: str, fps: float
) -> Array:
    """The decoder's clip f32 [6, 3, 4, 4]; a row is text, declared index, guidance weight."""
    shape = (1, 3, 6, 4, 4)
    x, prev = normal(seed, "decoder_noise", 0, 0, shape), np.zeros(shape, np.float32)
    for k, row in enumerate(schedule.sampler_rows(sampler, TABLE, "trailing", steps)):
        x = x * row[9]
        bias = {i: embedding(text, i).sum() / 4 + row[0] / 128 - fps / 64 for text, i, _ in rows}
        m = np.sum([weight * softsign(x + bias[index]) for _, index, weight in rows], axis=0)
        x, prev = update(x, m, row, prev, normal(seed, "decoder.z", 0, k, shape))
    return np.asarray(x[0].transpose(1, 0, 2, 3))


def enlarge(clip: Array, seed: int, size: int) -> Array:
    """Frames u8 [6, 8, 8, 3] from the decoder's clip."""
    chunks = []
    for chunk, start in enumerate(range(0, len(clip), size)):
        part = clip[start : start + size]
        c_x, c_z = schedule.renoise_coefficients(TABLE, None, 20)
        noisy = c_x * part + c_z * normal(seed, "lr.z", chunk, 0, part.shape)
        large = noisy.repeat(2, axis=2).repeat(2, axis=3)
        x = np.broadcast_to(normal(seed, "sr_noise", 0, 0, (3, 8, 8)), large.shape)
        for k, row in enumerate(schedule.sampler_rows("ddpm", TABLE, "leading", 3)):
            z = normal(seed, "sr.z", 0, k, (3, 8, 8))
            x, _ = update(x, softsign(x - large), row, np.zeros(1, np.float32), z)
        chunks.append(np.clip((x + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8))
    return np.asarray(np.concatenate(chunks).transpose(0, 2, 3, 1))


def reference(prompt: str, *, negative_prompt: str = "", seed: int = 0, steps: int = 4,
              guidance: float = 3.0, sampler: str = "ddim", fps: float = 8.0) -> Array:  # fmt: skip
    rows = [(negative_prompt, 0, 1 - guidance), (prompt + " right", 1, guidance)]
    return enlarge(decode(rows, seed, steps, sampler, fps), seed, 4)


def close(frames: Array, expected: Array) -> bool:
    return frames.shape == expected.shape and bool(
        np.abs(frames.astype(int) - expected.astype(int)).max() <= 1
    )


# A backend that writes down what it is asked to do


class Recording(ort.Ort):
    """The `ort` backend with a list of calls: file, and shape of every input."""

    def __init__(self, folder: Path) -> None:
        super().__init__(load(folder), threads=1)
        self.calls: list[tuple[str, dict[str, tuple[int, ...]]]] = []

    def load(self, path: Path, spec: GraphSpec) -> ort.Engine:
        engine, calls = super().load(path, spec), self.calls
        run = engine.run

        def recorded(inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
            calls.append((path.stem, {name: buffer.shape for name, buffer in inputs.items()}))
            run(inputs, outputs)

        engine.run = recorded  # type: ignore[method-assign]
        return engine


def recording(folder: Path) -> tuple[Cascade, Recording]:
    backend = Recording(folder)
    return Cascade(backend._plan, Interpreter(backend._plan, backend), "a test"), backend


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return edgereel.load(Path(__file__).parent / "data" / "toy", backend="ort", threads=1)


# Tests


@pytest.mark.parametrize("sampler", schedule.SAMPLERS)
def test_every_sampler_equals_numpy(cascade: Cascade, sampler: str) -> None:
    """dpmpp_2m reads prev, ddpm and euler_ancestral read noise, euler reads x_scale."""
    video = cascade("a red circle", sampler=sampler, steps=6, seed=5)
    assert close(video.frames, reference("a red circle", sampler=sampler, steps=6, seed=5))


def test_every_param_reaches_the_graphs(cascade: Cascade) -> None:
    given = {"negative_prompt": "blue square left", "seed": 2**40, "steps": 3, "fps": 29.0}
    video = cascade("green up", guidance_scale=7.5, **given)
    assert close(video.frames, reference("green up", guidance=7.5, **given))  # type: ignore[arg-type]
    assert video.fps == 29.0
    for change in ({"negative_prompt": "a"}, {"seed": 1}, {"steps": 4}, {"fps": 1.0}):
        other = cascade("green up", guidance_scale=7.5, **{**given, **change})
        assert not np.array_equal(other.frames, video.frames), change


@pytest.mark.parametrize(("guidance", "kept"), [(0.0, [0]), (1.0, [1]), (3.0, [0, 1])])
def test_rows_of_weight_zero_are_dropped(toy: Path, guidance: float, kept: list[int]) -> None:
    cascade, backend = recording(toy)
    video = cascade("a red circle", guidance_scale=guidance, negative_prompt="blue")
    expected = reference("a red circle", guidance=guidance, negative_prompt="blue")
    assert close(video.frames, expected)
    shapes = dict(backend.calls)
    assert shapes["text_encoder"]["ids"] == (len(kept), 8)
    assert shapes["decoder"]["weights"] == (len(kept),)
    assert shapes["decoder"]["emb"] == (len(kept), 4)


def test_a_row_stays_when_one_of_two_denoise_ops_needs_it(edit_toy: EditToy) -> None:
    cascade, backend = recording(edit_toy(split_at(49)))
    plan = cascade.plan
    assert [op.graph for op in plan.modes["video"].stages[1].ops[1:3]] == ["decoder"] * 2  # type: ignore[union-attr]
    cascade("a", guidance_scale=1.0)
    assert dict(backend.calls)["text_encoder"]["ids"] == (2, 8)


def test_only_the_graphs_of_the_mode_are_loaded(toy: Path) -> None:
    cascade, _ = recording(toy)
    video = cascade("a red circle", mode="preview")
    assert video.frames.shape == (6, 4, 4, 3)
    assert set(video.metadata["engines"]) == {"text_encoder", "decoder", "to_clip", "pixels"}


def each_of(size: int | dict[str, str]) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["modes"]["video"]["stages"][2]["each"]["windows"][0]["size"] = size
        if isinstance(size, dict):
            chunk = {"type": "int", "default": 4, "min": 1}
            document["modes"]["video"]["params"][size["param"]] = chunk

    return change


def test_chunks_equal_unchunked(edit_toy: EditToy) -> None:
    """With the same noise for every frame, how frames are grouped changes nothing."""
    cascade = edgereel.load(
        edit_toy(each_of({"param": "frames_at_once"})), backend="ort", threads=1
    )
    noise = normal(3, "any", 0, 0, (6, 3, 4, 4))
    videos = []
    for size in (6, 1, 4, 5, 100):
        starts = range(0, 6, size)
        given = {f"lr.z[{c}]": noise[start : start + size] for c, start in enumerate(starts)}
        videos.append(cascade("a red circle", frames_at_once=size, noise=given).frames)
    for frames in videos[1:]:
        np.testing.assert_array_equal(frames, videos[0])


def split_at(t: float) -> Callable[[dict[str, Any]], None]:
    """Cuts the decoder's trajectory in two; the first part has a guidance of its own weights."""

    def change(document: dict[str, Any]) -> None:
        mode = document["modes"]["video"]
        ops = mode["stages"][1]["ops"]
        first, second = ops[1], {**ops[1], "x": "half"}
        first.update(out="half", range={"from": 99, "to": t})
        second.update(range={"from": t})
        first["guidance"] = {**first["guidance"], "weights": [{"const": -2.0}, {"const": 3.0}]}
        mode["values"]["half"] = mode["values"]["latent"]
        ops.insert(2, second)

    return change


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "euler_ancestral"])
@pytest.mark.parametrize("t", [98, 49, 0])
def test_a_split_trajectory_equals_the_whole(
    cascade: Cascade, edit_toy: EditToy, sampler: str, t: float
) -> None:
    """Also where one part has no step at all, and with noise, which is numbered by the whole."""
    split = edgereel.load(edit_toy(split_at(t)), backend="ort", threads=1)
    options = {"sampler": sampler, "steps": 7, "guidance_scale": 3.0, "seed": 11}
    np.testing.assert_array_equal(
        split("a red circle", **options).frames, cascade("a red circle", **options).frames
    )


def test_a_sampler_can_have_a_spacing_of_its_own(cascade: Cascade, edit_toy: EditToy) -> None:
    def spaced(**changes: Any) -> Cascade:
        def change(document: dict[str, Any]) -> None:
            document["modes"]["video"]["stages"][1]["ops"][1].update(changes)

        return edgereel.load(edit_toy(change), backend="ort", threads=1)

    own = spaced(spacings={"ddpm": "linspace", "euler": "leading"})
    for sampler, same in (("ddim", cascade), ("ddpm", spaced(spacing="linspace"))):
        frames = own("a", sampler=sampler, steps=7).frames
        np.testing.assert_array_equal(frames, same("a", sampler=sampler, steps=7).frames)
    assert (own("a", sampler="ddpm", steps=7).frames != cascade("a", sampler="ddpm").frames).any()


def test_given_noise_is_used(cascade: Cascade, tmp_path: Path) -> None:
    """The noise of seed 4, given by name, makes the video of seed 4 under any seed."""
    noise = {
        "decoder_noise": normal(4, "decoder_noise", 0, 0, (1, 3, 6, 4, 4)),
        "lr.z[0]": normal(4, "lr.z", 0, 0, (4, 3, 4, 4)),
        "lr.z[1]": normal(4, "lr.z", 1, 0, (2, 3, 4, 4)),
        "sr_noise": normal(4, "sr_noise", 0, 0, (3, 8, 8)),
    }
    noise |= {f"sr.z.{k}": normal(4, "sr.z", 0, k, (3, 8, 8)) for k in range(3)}
    noise |= {f"decoder.z.{k}": normal(4, "decoder.z", 0, k, (1, 3, 6, 4, 4)) for k in range(5)}
    np.savez(tmp_path / "noise.npz", **noise)  # type: ignore[arg-type]
    options = {"sampler": "ddpm", "steps": 5}
    expected = cascade("a", seed=4, **options).frames
    np.testing.assert_array_equal(cascade("a", seed=9, noise=noise, **options).frames, expected)
    given = cascade("a", seed=9, noise=tmp_path / "noise.npz", **options)
    np.testing.assert_array_equal(given.frames, expected)
    assert given.metadata["given_noise"] == sorted(noise)


def test_noise_that_the_rows_do_not_use_is_not_drawn(
    cascade: Cascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def noted(seed: int, name: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        drawn.append((name, chunk, step))
        return normal(seed, name, chunk, step, shape)

    monkeypatch.setattr("edgereel.noise.normal", noted)
    cascade("a", sampler="ddim")
    shared = [("sr_noise", 0, 0), ("sr.z", 0, 0), ("sr.z", 0, 1)]
    assert drawn == [("decoder_noise", 0, 0), ("lr.z", 0, 0), *shared, ("lr.z", 1, 0), *shared]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddpm"])
def test_sampler_that_the_graph_cannot_do(edit_toy: EditToy, sampler: str) -> None:
    """sr has no prev; without noise, ddpm is impossible too."""

    def change(document: dict[str, Any]) -> None:
        denoise = document["modes"]["video"]["stages"][2]["ops"][2]
        denoise["sampler"] = sampler
        if sampler == "ddpm":
            del document["graphs"]["sr"]["inputs"]["noise"], denoise["noise"]
            del denoise["shared_noise"]

    cascade = edgereel.load(edit_toy(change), backend="ort")
    missing = "prev" if sampler == "dpmpp_2m" else "noise"
    with pytest.raises(edgereel.InputError, match=f"stage 'sr'.*{missing}|{missing}.*'sr'"):
        cascade("a")
    assert not cascade._interpreter.engines


def test_symbols_of_params_as_values(edit_toy: EditToy) -> None:
    """A param declared with a symbol is filled to the number of rows that are kept."""

    def change(document: dict[str, Any]) -> None:
        mode = document["modes"]["video"]
        mode["params"]["strength"] = {"type": "float", "default": 0.5, "min": 0, "max": 1}
        mode["values"]["strength"] = {"dtype": "float32", "shape": ["G", 4]}
        mode["stages"][1]["ops"][1]["conditions"]["emb"] = "strength"

    cascade, backend = recording(edit_toy(change))
    frames = {s: cascade("a red circle", strength=s).frames for s in (0.0, 1.0)}
    assert dict(backend.calls)["decoder"]["emb"] == (2, 4)
    assert not np.array_equal(frames[0.0], frames[1.0])


def test_callback_order_and_share(cascade: Cascade) -> None:
    seen: list[edgereel.Progress] = []
    cascade("a red circle", steps=2, callback=seen.append)
    assert [(p.stage, p.chunk, p.step, p.steps) for p in seen] == [
        ("text", 0, 0, 1), ("text", 0, 1, 1),
        ("decoder", 0, 0, 1), ("decoder", 0, 1, 2), ("decoder", 0, 2, 2), ("decoder", 0, 1, 1),
        ("sr", 0, 0, 1), *[("sr", 0, k, 3) for k in (1, 2, 3)], ("sr", 0, 1, 1),
        *[("sr", 1, k, 3) for k in (1, 2, 3)], ("sr", 1, 1, 1),
    ]  # fmt: skip
    shares = [p.done for p in seen]
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)
    assert {(p.stages, p.stage_index, p.chunks) for p in seen} == {(3, 0, 1), (3, 1, 1), (3, 2, 2)}


def test_cancel(cascade: Cascade) -> None:
    seen: list[edgereel.Progress] = []

    def stop(progress: edgereel.Progress) -> None:
        seen.append(progress)
        if progress.stage == "decoder" and progress.step == 2:
            cascade.cancel()

    def throw(progress: edgereel.Progress) -> None:
        raise edgereel.Cancelled("enough")

    with pytest.raises(edgereel.Cancelled):
        cascade("a", steps=9, callback=stop)
    assert (seen[-1].stage, seen[-1].step) == ("decoder", 2)
    with pytest.raises(edgereel.Cancelled, match="enough"):
        cascade("a", callback=throw)
    assert close(cascade("a").frames, reference("a"))


def test_values_are_freed_after_their_last_stage(toy: Path) -> None:
    cascade, backend = recording(toy)
    alive: list[set[str]] = []
    original = backend.empty

    buffers: list[weakref.ref[Any]] = []

    def counted(dtype: str, shape: Any) -> Any:
        array = original(dtype, shape)
        buffers.append(weakref.ref(array))
        return array

    backend.empty = counted  # type: ignore[method-assign]

    def look(progress: edgereel.Progress) -> None:
        if progress.stage == "sr" and progress.chunk == 1 and progress.step == 1:
            gc.collect()
            alive.append({str(b().shape) for b in buffers if b() is not None})  # type: ignore[union-attr]

    cascade("a", callback=look)
    # The text (2, 8, 4) and the latents (1, 3, 6, 4, 4) are gone, the clip is still being read.
    assert alive and all("(6, 3, 4, 4)" in shapes for shapes in alive)
    assert not any({"(2, 8, 4)", "(2, 4)", "(1, 3, 6, 4, 4)"} & shapes for shapes in alive)


def test_what_graphs_took_is_given_back_after_every_stage(toy: Path) -> None:
    """So the memory that is free for the next call is not counted twice."""
    cascade, backend = recording(toy)
    given: list[int] = []

    def counted() -> bool:
        given.append(len(backend.calls))
        return True

    backend.free_scratch = counted  # type: ignore[method-assign]
    backend.free_memory = lambda: 10**12  # type: ignore[method-assign]
    for _ in range(2):
        cascade("a")
        assert cascade._interpreter.free == 10**12
    stages = len(cascade.plan.modes["video"].stages)
    assert len(given) == 2 * stages == 2 * len(set(given[:stages]))


def test_too_little_memory_is_said(toy: Path) -> None:
    cascade, backend = recording(toy)

    def full(dtype: str, shape: Any) -> Any:
        raise MemoryError("no room")

    backend.empty = full  # type: ignore[method-assign]
    with pytest.raises(edgereel.EngineError, match=r"memory ran out \(no room\)"):
        cascade("a")
