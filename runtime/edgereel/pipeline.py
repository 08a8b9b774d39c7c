"""The Python interface: load a cascade, call it with a prompt, get a video."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edgereel import backends, continuing
from edgereel import plan as plans
from edgereel.errors import EngineError, InputError
from edgereel.interpreter import Interpreter
from edgereel.params import ParamValue, fill_params
from edgereel.running import Progress

__all__ = ["Cascade", "Progress", "Video", "load"]


@dataclass(frozen=True)
class Video:
    """A finished video: frames u8 [F, H, W, 3], sRGB 0..255."""

    frames: NDArray[np.uint8]
    fps: float
    metadata: dict[str, Any] = field(default_factory=dict)  # JSON values only

    def save(self, path: str | Path) -> Path:
        """The path written: .mp4, .gif, or a folder of PNG files (see `edgereel.video.save`).

        Raises:
            InputError: an unknown suffix.
            OutputError: it cannot be written.
        """
        from edgereel import video

        return video.save(self.frames, self.fps, path)


class Cascade:
    """A loaded cascade; engines stay loaded between calls, calls run one after the other."""

    def __init__(self, plan: plans.Plan, interpreter: Interpreter, reason: str) -> None:
        self.plan = plan
        self.backend = interpreter.backend
        self.reason = reason
        self._interpreter = interpreter
        self._cancelled = Event()
        self._lock = Lock()

    @overload
    def __call__(self, prompt: str | None = None, **options: Any) -> Video: ...
    @overload
    def __call__(self, prompt: list[str] | tuple[str, ...], **options: Any) -> list[Video]: ...
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        mode: str | None = None,
        callback: Callable[[Progress], None] | None = None,
        noise: str | Path | Mapping[str, NDArray[Any]] | None = None,
        params: Mapping[str, object] | None = None,
        **options: object,
    ) -> Video | list[Video]:
        """The video of a prompt; of a list of prompts, a list of videos.

        Args:
            prompt: what should be seen.
            mode: which of the plan's modes; the first if not given.
            callback: called after every step; it may raise `edgereel.Cancelled` to stop.
            noise: an .npz file or arrays to use instead of drawn noise (see engines/README.md).
            params: params by name, also those with a dot such as "steps.decoder".
            **options: params by name or alias, such as seed=7, steps=20, guidance_scale=3. A video
                param takes a path, or an array u8 [F, H, W, 3].

        Raises:
            InputError: a value cannot be used, or takes more memory than is free; nothing has been
                computed.
            PlanError: a file of the cascade is damaged.
            EngineError: a graph failed.
            Cancelled: `cancel` was called, or the callback raised it.
        """
        chosen = self._mode(mode)
        prompts = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        asked = [
            fill_params(self.plan.modes[chosen], _merged(one, params or {}, options))
            for one in prompts
        ]
        arrays = _noise_arrays(noise)
        with self._lock:
            self._cancelled.clear()
            videos = [
                self._make(chosen, values, arrays, callback or (lambda _: None)) for values in asked
            ]
        return videos if isinstance(prompt, (list, tuple)) else videos[0]

    def continued(
        self,
        prompt: str | None = None,
        *,
        times: int,
        mode: str | None = None,
        callback: Callable[[Progress], None] | None = None,
        params: Mapping[str, object] | None = None,
        **options: object,
    ) -> Iterator[Video]:
        """The clips of a long video, each made when it is asked for: the first and `times` more.

        For a mode that begins with one picture. Each later clip begins with the last frame of the
        clip before; that frame, its first, is left out of it. Clip k, from 0, has the seed of the
        call + k, which after the largest seed starts over. Nothing is kept of earlier clips but
        the last frame.

        Args:
            prompt: what should be seen in all clips.
            times: how often it is continued, 1 or more.
            mode, callback, params, **options: as in a call. There is no `noise`, which is that of
                one clip; progress is the share and the seconds of all clips.

        Raises:
            InputError: the mode cannot be continued, or a value cannot be used. Also, while clips
                are made: they have a single frame.
        """
        chosen, count = self._mode(mode), continuing.count(times, options.pop("noise", None))
        picture = continuing.picture(self.plan, chosen)
        values = fill_params(self.plan.modes[chosen], _merged(prompt, params or {}, options))
        return self._clips(chosen, picture, values, count, callback or (lambda _: None))

    @property
    def memory(self) -> dict[str, Any]:
        """Of the last call, known before it began: bytes `free`, and by stage what is predicted."""
        stages = {
            peak.stage: {
                "total": peak.total,
                "weights": peak.weights,
                "values": peak.values,
                "activations": peak.activations,
            }
            for peak in self._interpreter.peaks
        }
        return {"free": self._interpreter.free, "stages": stages}

    def swap(
        self,
        graph: str,
        weights: str | Path | Mapping[str, NDArray[Any]] | None = None,
        *,
        lora: str | Path | None = None,
        scale: float = 1.0,
        network: str = "unet",
    ) -> tuple[str, ...]:
        """Other weights for a graph, without compiling; with neither, the cascade's own again.

        Backend `trt`, with engines compiled by `build.py compile --refit`. What was swapped before
        is gone: going back and forth is exact.

        Args:
            graph: of the plan.
            weights: floats by name in the checkpoint, or a .safetensors file of them.
            lora: instead, a LoRA of kohya or PEFT, merged into the cascade's own weights.
            scale: of the LoRA.
            network: of its layers, "unet" or "text_encoder".

        Returns:
            The names of what was replaced.

        Raises:
            InputError: no such graph, or weights that do not fit it.
            EngineError: its engine takes no other weights.
        """
        if graph not in self.plan.graphs:
            known = ", ".join(self.plan.graphs)
            raise InputError(f"graph is {graph!r}; expected one of {known}. Correct the name.")
        if self._interpreter.low_vram:
            raise InputError(
                "low_vram drops engines after their stage, and what was swapped with them; "
                "expected a cascade loaded without it. Load it again."
            )
        with self._lock:
            engine = self._interpreter.engine(graph)
            if not hasattr(engine, "weights"):
                raise EngineError(
                    f"backend {self.backend.name} takes no other weights; expected trt. Build the "
                    "cascade from the other weights, or use its engines."
                )
            refitting: Any = engine.weights()
            if lora is not None:
                replaced: tuple[str, ...] = refitting.swap_lora(Path(lora), scale, network)
            else:
                given = {} if weights is None else weights
                replaced = refitting.swap(Path(given) if isinstance(given, str) else given)
        return replaced

    def cancel(self) -> None:
        """Stops the call in progress before its next step; that call raises `Cancelled`."""
        self._cancelled.set()

    def _clips(
        self,
        mode: str,
        picture: str,
        values: dict[str, ParamValue],
        count: int,
        callback: Callable[[Progress], None],
    ) -> Iterator[Video]:
        """The clips of `continued`; `picture` is the param they begin with."""
        started = time.perf_counter()
        for index in range(count):
            told = continuing.of_all(callback, index, count, started)
            with self._lock:
                if index == 0:
                    self._cancelled.clear()
                clip = self._make(mode, values, {}, told)
            values = continuing.next_values(self.plan.modes[mode], values, picture, clip.frames)
            yield clip if index == 0 else replace(clip, frames=clip.frames[1:])
            del clip  # before the next is made

    def _mode(self, name: str | None) -> str:
        modes = self.plan.modes
        if name is None:
            return next(iter(modes))
        if name not in modes:
            raise InputError(
                f"mode is {name!r}; expected one of {', '.join(modes)}. Choose one, or leave it "
                f"out for the first."
            )
        return name

    def _make(
        self,
        mode: str,
        values: dict[str, ParamValue],
        noise: Mapping[str, NDArray[Any]],
        callback: Callable[[Progress], None],
    ) -> Video:
        program, runner = self.plan.modes[mode], self._interpreter
        result = runner.run(
            program, values, noise=noise, callback=callback, cancelled=self._cancelled
        )
        graphs = plans.graphs_of(plans.ops([program]))
        metadata = {
            "cascade": self.plan.name,
            "mode": mode,
            "prompt": values.get("prompt"),
            "seed": values.get("seed"),
            "params": {name: _as_json(value) for name, value in values.items()},
            "given_noise": sorted(noise),
            "backend": self.backend.name,
            "backend_reason": self.reason,
            **self.backend.describe(),
            "engines": {graph: runner.hashes[graph] for graph in sorted(graphs)},
            "seconds": result.seconds,
            "memory": self.memory,
            "warnings": result.warnings,
        }
        return Video(result.frames, result.fps, metadata)


def load(
    path: str | Path,
    *,
    backend: str = "auto",
    threads: int | None = None,
    verify_hashes: bool = True,
    low_vram: bool = False,
    kernels: bool = True,
) -> Cascade:
    """The cascade in a folder; its graphs load at their first use.

    Args:
        path: a folder with plan.json, made by `python export/build.py`.
        backend: "auto" or a name from `edgereel.backends.BACKENDS`.
        threads: CPU threads of the backend; None leaves the choice to it.
        verify_hashes: compare each file with the plan's sha256 before it is used.
        low_vram: drop the engines of a stage after it; every call loads them again.
        kernels: use Edgereel's own kernels where they are installed.

    Raises:
        PlanError: the folder is not a cascade, or is damaged.
        InputError: an unknown backend or a wrong number of threads.
        BackendUnavailable: the backend cannot run here.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InputError(
            f"threads is {threads!r}; expected a whole number of at least 1. Leave it out to use "
            f"all cores."
        )
    plan = plans.load(path)
    chosen, reason = backends.choose(backend, plan, threads=threads, kernels=kernels)
    runner = Interpreter(plan, chosen, verify_hashes=verify_hashes, low_vram=low_vram)
    return Cascade(plan, runner, reason)


def _merged(
    prompt: object, params: Mapping[str, object], options: Mapping[str, object]
) -> dict[str, object]:
    """All that was given, by the spelling it was given in."""
    merged = {} if prompt is None else {"prompt": prompt}
    for word, value in (*params.items(), *options.items()):
        if word in merged:
            raise InputError(f"{word} is given twice; expected one value. Drop one of them.")
        merged[word] = value
    return merged


def _as_json(value: ParamValue) -> str | int | float:
    """A param for the metadata; of an array its type and shape."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else value


def _noise_arrays(noise: str | Path | Mapping[str, NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
    if noise is None or isinstance(noise, Mapping):
        return dict(noise or {})
    try:
        with np.load(noise, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"noise {str(noise)!r} cannot be read ({error}); expected an .npz file. Write one with "
            f"numpy.savez, keys as engines/README.md says."
        ) from None
