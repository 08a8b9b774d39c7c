"""How much SR_h flickers if all frames get the same noise, and if each gets its own.

Prompts of shapes that stand still go through the shapes cascade up to its last stage, which then
makes the same small frames larger several times: by each setting, with shared and with independent
noise. Told is the mean absolute difference of a pixel to the frame before, in levels of 255, where
the shape is in all frames, where it is in none, and at the edge between; beside it that of the
small frames made larger without a network, which is the least that can be expected.

    python benchmarks/shared_noise.py
    python benchmarks/shared_noise.py --prompts 1 --setting ddim,2 --picture flicker.png

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from shapes_measure import foreground
from shapes_report import machine
from shapes_truth import PROMPTS
from torch.nn import functional as F
from tqdm import tqdm

from edgereel import EdgereelError, backends
from edgereel import plan as p
from edgereel.interpreter import Interpreter
from edgereel.params import fill_params
from edgereel_export.shapes import captions

__all__ = ["flicker", "main"]

Array = NDArray[Any]
SETTINGS = ("ddim,2", "ddim,5", "ddpm,5")  # euler_ancestral makes what ddpm makes
_WAYS = ("shared", "independent")
_PLACES = ("inside", "outside", "edge")
_BRIGHT = 16  # levels that are white in a picture
_SMALL = "low_frames"  # the value that the last stage begins with


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 if an option is wrong."""
    options = _options(argv)
    try:
        cascade = _Cascade(options.cascade, options.threads)
    except EdgereelError as error:
        print(f"shared_noise.py: error: {error}", file=sys.stderr)
        return 2
    found = _measured(cascade, options)
    rows = [
        {"setting": setting, "noise": noise, **_means(each)}
        for (setting, noise), each in found.items()
    ]
    print("| sampler, steps | noise | inside | outside | edge |")
    print("|---|---|--:|--:|--:|")
    for row in rows:
        levels = " | ".join(f"{row[place]:.3f}" for place in _PLACES)
        print(f"| {row['setting']} | {row['noise']} | {levels} |")
    print(json.dumps({"flicker": rows, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def flicker(frames: Array, masks: Mapping[str, Array]) -> dict[str, float]:
    """The mean absolute difference to the frame before, in levels, by place.

    Args:
        frames: u8 [F, H, W, 3].
        masks: bool [H, W] by place.
    """
    moved = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((0, 3))  # [H, W]
    return {place: float(moved[mask].mean()) for place, mask in masks.items()}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cascade", default="engines/shapes", metavar="DIR")
    parser.add_argument("--prompts", type=int, default=3, help="that stand still, evenly spread")
    parser.add_argument("--frames", type=int, default=24, help="of each, from its beginning")
    parser.add_argument("--setting", action="append", metavar="SAMPLER,STEPS")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the backend's choice)")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="of the first prompt")
    return parser.parse_args(argv)


class _Cascade:
    """The shapes cascade in two parts: everything before SR_h, and SR_h."""

    def __init__(self, folder: str, threads: int | None) -> None:
        plan = p.load(folder)
        backend, _ = backends.choose("auto", plan, threads=threads, kernels=True)
        self.interpreter = Interpreter(plan, backend)
        self.mode = plan.modes["video"]

    def small(self, prompt: str, seed: int) -> Array:
        """f32 [F, 3, H, W] of a prompt, by the defaults."""
        output = replace(self.mode.output, value=_SMALL)
        mode = replace(self.mode, stages=self.mode.stages[:-1], output=output)
        return self._run(mode, {"prompt": prompt, "seed": seed}, {})

    def large(self, small: Array, setting: str, shared: bool, seed: int) -> Array:
        """u8 [F, H, W, 3] of small frames."""
        sampler, _, steps = setting.partition(",")
        given = p.Stage(name="given", ops=(p.Noise(value=_SMALL),))  # noise that is not drawn
        frames = len(small)  # may be fewer than the cascade makes
        values = {
            name: replace(spec, shape=(frames, *spec.shape[1:]))
            for name, spec in self.mode.values.items()
            if name in (_SMALL, self.mode.output.value)
        }
        stages = (given, self.mode.stages[-1])
        mode = replace(self.mode, stages=stages, values={**self.mode.values, **values})
        params = {"sampler": sampler, "steps.super_res_high": int(steps)}
        params |= {"shared_noise": int(shared), "prompt": "-", "seed": seed}
        return self._run(mode, params, {_SMALL: small})

    def _run(self, mode: p.Mode, params: dict[str, Any], noise: dict[str, Array]) -> Array:
        values = fill_params(mode, params)
        return self.interpreter.run(
            mode, values, noise=noise, callback=lambda _: None, cancelled=Event()
        ).frames


def _measured(
    cascade: _Cascade, options: argparse.Namespace
) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Of every prompt, by setting and noise; those of no network first."""
    told = [asked for asked in PROMPTS if asked.motion == "still"]
    told = told[:: max(1, len(told) // options.prompts)][: options.prompts]
    settings = options.setting or SETTINGS
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tqdm(total=len(told) * len(settings) * len(_WAYS), file=sys.stderr) as bar:
        for seed, asked in enumerate(told):
            small = cascade.small(captions.plain(*asked), seed)[: options.frames]
            masks, videos = _places(_bicubic(small)), _videos(cascade, small, settings, seed)
            shown = {}
            for setting, noise, frames in videos:
                found.setdefault((setting, noise), []).append(flicker(frames, masks))
                if setting in ("bicubic", settings[-1]):
                    shown[f"{setting} {noise}"] = frames
                bar.update(setting != "bicubic")
            if options.picture is not None and seed == 0:
                _draw(shown, options.picture)
    return found


def _videos(
    cascade: _Cascade, small: Array, settings: Sequence[str], seed: int
) -> Iterator[tuple[str, str, Array]]:
    yield "bicubic", "", _bicubic(small)
    for setting in settings:
        for noise in _WAYS:
            yield setting, noise, cascade.large(small, setting, noise == "shared", seed)


def _bicubic(small: Array) -> Array:
    """u8 [F, 3 H, 3 W, 3] of small frames f32 [F, 3, H, W]."""
    frames = torch.from_numpy(small).clamp(-1, 1)
    large = F.interpolate(frames, scale_factor=3, mode="bicubic", antialias=True)
    levels = (large.clamp(-1, 1) * 127.5 + 127.5).round().permute(0, 2, 3, 1)
    return levels.to(torch.uint8).numpy()


def _places(frames: Array) -> dict[str, Array]:
    """Masks, bool [H, W]."""
    shape = np.stack([foreground(frame) for frame in frames])
    inside, outside = shape.all(0), ~shape.any(0)
    return dict(zip(_PLACES, (inside, outside, ~inside & ~outside), strict=True))


def _means(each: list[dict[str, float]]) -> dict[str, float]:
    return {place: round(float(np.mean([one[place] for one in each])), 4) for place in _PLACES}


def _draw(videos: Mapping[str, Array], path: Path) -> None:
    """How much every pixel changes, a map per video."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(videos), figsize=(4 * len(videos), 4))
    for place, (name, frames) in zip(axes, videos.items(), strict=True):
        shown = place.imshow(frames.std(0).mean(2), vmin=0, vmax=_BRIGHT, cmap="magma")
        place.set(title=name, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes, label="standard deviation over frames, levels")
    figure.savefig(path, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    sys.exit(main())
