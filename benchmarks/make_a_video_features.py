"""What ↑F and D^t of the `shapes` cascade make of given frames, on clips whose truth is known.

Scenes of the world of shapes are drawn and given to the modes of `engines/shapes`; the seed of a
scene, and of the video made of it, is the number of its prompt and --seed. Two things are looked
at: the small frames that ↑F ends with, of every scene, and the finished video, of every scene, or
with `--finished N` only of the first N.

    python benchmarks/make_a_video_features.py --threads 1
    python benchmarks/make_a_video_features.py --threads 1 --only animate --sheet f.png

kept      dB of ↑F's own frames to the given ones, before these are put back
put_back  the same after that, which is as levels of 0 to 255 are rounded
new       dB of ↑F's other frames to the world's; blend: of a blend of the nearest given frames
finished  the same of the video's frames of 192 x 192 pixels
moves     percent of clips that move as the world's do, or as told, and stand still where these do;
          without a text, of those whose given frames show it: one may rest at a wall in them
straight  percent whose shape goes one way, or nowhere
shows     percent of videos of the given colour and shape

Of what is in dB the median and the least are told; of shares, the number of clips is behind them.
The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fewer_steps import psnr
from make_a_video_cases import PAST, Case, cases
from numpy.typing import NDArray
from PIL import Image
from shapes_measure import foreground, measure
from shapes_report import machine
from shapes_truth import PROMPTS, Asked, drawn, scene
from tqdm import tqdm

from edgereel import Cancelled, Cascade, EdgereelError, load
from edgereel.running import Progress
from edgereel_export.shapes import captions

__all__ = ["main"]

_FPS, _PIXELS = 20.0, 192
_STILL = 0.04  # of the frame: what moves less between two moments stands still
Array = NDArray[Any]


class Seen(NamedTuple):
    """What a call made: small frames, the same before given ones were put back, and the video."""

    small: Array  # u8 [F, 16, 16, 3]
    raw: Array
    frames: Array | None  # u8 [F, H, W, 3]


class Watched:
    """The cascade, and what its graph `keep_known` was given and gave."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade = cascade
        engine = cascade._interpreter.engine("keep_known")
        run = engine.run

        def noted(inputs: Any, outputs: Any) -> None:
            run(inputs, outputs)
            self.raw, self.small = _levels(inputs["video"]), _levels(outputs["out"])

        engine.run = noted  # type: ignore[method-assign]

    def __call__(self, prompt: str, finish: bool, **options: Any) -> Seen:
        """One video, or only its small frames."""

        def enough(progress: Progress) -> None:
            if progress.stage == "super_res_low" and not finish:
                raise Cancelled("the small frames are there")

        try:
            frames = self.cascade(prompt, callback=enough, **options).frames
        except Cancelled:
            frames = None
        return Seen(self.small, self.raw, frames)


def _levels(video: Array) -> Array:
    """f32 [1, 3, F, H, W] in -1..1 as u8 [F, H, W, 3]."""
    levels = (np.asarray(video)[0].clip(-1, 1) * 127.5 + 127.5).round()
    return levels.transpose(1, 2, 3, 0).astype(np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 if an option is wrong."""
    options = _options(argv)
    strips: list[Array] = []
    try:
        watched = Watched(load(options.cascade, threads=options.threads))
        found = {}
        for name, case in cases(options.frames):
            if not options.only or case.mode in options.only:
                found[name] = _feature(watched, case, options, strips)
                print(_line(name, found[name]), flush=True)
        if not options.only or "fps" in options.only:
            found["fps"] = _rates(watched, options.rates)
            print(f"fps: {found['fps']}")
    except EdgereelError as error:
        print(f"make_a_video_features.py: error: {error}", file=sys.stderr)
        return 2
    if options.sheet is not None and strips:
        Image.fromarray(np.concatenate(strips)).save(options.sheet)
    print(json.dumps({"features": found, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cascade", default="engines/shapes", metavar="DIR")
    parser.add_argument("--limit", type=int, default=30, help="scenes of each feature")
    parser.add_argument("--finished", type=int, help="only so many of them to the end")
    parser.add_argument("--frames", type=int, default=76, help="of videos but those between")
    parser.add_argument("--seed", type=int, default=0, help="added to that of every scene")
    parser.add_argument("--rates", type=int, default=12, help="scenes of each frame rate")
    parser.add_argument("--only", action="append", metavar="MODE", help="one mode, or fps")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the backend's choice)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="videos as rows of frames")
    return parser.parse_args(argv)


def _order(count: int) -> list[int]:
    """So many of the 90 prompts, evenly spread: 7 and 90 share no divisor."""
    return [7 * number % len(PROMPTS) for number in range(count)]


def _feature(
    watched: Watched, case: Case, options: argparse.Namespace, strips: list[Array]
) -> dict[str, Any]:
    """A case over all scenes; adds the first finished videos to `strips`."""
    records = []
    for index, number in enumerate(tqdm(_order(options.limit), desc=case.mode, leave=False)):
        finish = options.finished is None or index < options.finished
        record, frames = _scene(watched, case, number, number + options.seed, finish)
        records.append(record)
        if frames is not None and index < 2:
            strips.append(np.concatenate(list(frames[:: max(1, len(frames) // 8)][:8]), 1))
    return _summary(records)


def _scene(
    watched: Watched, case: Case, number: int, seed: int, finish: bool
) -> tuple[dict[str, Any], Array | None]:
    """What a case makes of one scene."""
    asked = PROMPTS[number]
    world, times = scene(asked, _FPS, seed), torch.arange(float(case.length))
    truth = drawn(world, times, _PIXELS)
    given = list(case.given) or list(range(0, case.length, 5))
    seen = watched(
        captions.plain(*asked) if case.told else "",
        finish,
        mode=case.mode,
        seed=seed,
        params=case.params(truth[given]),
    )
    record: dict[str, Any] = _motion(seen.small, case, asked, drawn(world, times, 16))
    if seen.frames is not None:
        found = measure(seen.frames)
        record["shows"] = found.colour == asked.colour and found.shape == asked.shape
    if case.given:
        record |= _distances(seen, given, truth)
    return record, seen.frames


def _distances(seen: Seen, given: list[int], truth: Array) -> dict[str, float]:
    """dB of given and new frames, small and finished."""
    side = len(seen.small[0])
    blocks = truth.reshape(len(truth), side, _PIXELS // side, side, _PIXELS // side, 3)
    small = blocks.mean((2, 4))
    new = np.setdiff1d(np.arange(len(truth)), given)
    eye, moments = np.eye(len(given)), np.arange(len(truth))
    mixed = np.stack([np.interp(moments, given, row) for row in eye], 1)[new]

    def blend(frames: Array) -> Array:
        return np.tensordot(mixed, frames[given], 1)

    found = {
        "kept": psnr(seen.raw[given], small[given]),
        "put_back": psnr(seen.small[given], small[given]),
        "new": psnr(seen.small[new], small[new]),
        "blend": psnr(blend(small), small[new]),
    }
    if seen.frames is not None:
        found["finished_given"] = psnr(seen.frames[given], truth[given])
        found["finished_new"] = psnr(seen.frames[new], truth[new])
        found["finished_blend"] = psnr(blend(truth), truth[new])
    return found


def _motion(small: Array, case: Case, asked: Asked, truth: Array) -> dict[str, bool]:
    """Whether it moves as it should, and whether it goes straight."""
    path, true = _path(small), _path(truth)
    start, end = 0, len(path) - 1
    if case.mode == "extend":
        start = PAST - 1
    if case.mode == "extend-start":
        end = len(path) - PAST
    steps = np.linalg.norm(np.diff(path[start : end + 1 : 5], axis=0), axis=1).sum()
    straight = np.linalg.norm(path[end] - path[start]) > 0.7 * steps
    found = {"straight": bool(straight or steps < 2 * _STILL)}
    way = _way(true[end] - true[start])
    told = case.told
    if not told and len(case.given) > 1:
        shown = true[list(case.given)]
        told = _way(shown[-1] - shown[0]) == way
    if told:
        found["moves"] = _way(path[end] - path[start]) == way
    return found


def _path(frames: Array) -> Array:
    """f64 [F, 2]: where the shape's centre is, of the frame; not a number where it is not seen."""
    found = []
    for frame in frames:
        ys, xs = np.nonzero(foreground(frame))
        found.append((xs.mean(), ys.mean()) if len(xs) else (np.nan, np.nan))
    return np.array(found) / frames.shape[1]


def _way(move: Array) -> str:
    """The direction of a displacement."""
    if np.isnan(move).any():
        return "lost"
    if abs(move).max() < _STILL:
        return "still"
    x, y = move
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def _rates(watched: Watched, count: int) -> dict[str, Any]:
    """Widths per second that moving shapes go at frame rates, by the rate; the world has 0.14."""
    moving = [number for number in _order(len(PROMPTS)) if PROMPTS[number].motion != "still"]
    found: dict[str, Any] = {}
    for fps in (10.0, 20.0, 30.0):
        speeds = []
        for number in tqdm(moving[:count], desc=f"{fps} fps", leave=False):
            prompt = captions.plain(*PROMPTS[number])
            path = _path(watched(prompt, finish=False, seed=number, fps=fps).small)
            last = min(round(2 * fps), len(path) - 1)  # two seconds: no wall is reached
            speeds.append(float(np.linalg.norm(path[last] - path[0])) / last * fps)
        found[f"{fps:g}"] = {"median": round(float(np.nanmedian(speeds)), 4), "clips": len(speeds)}
    return found


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares in percent; median and least of what is in dB."""
    summary: dict[str, Any] = {"clips": len(records)}
    for name in {name: None for record in records for name in record}:
        values = [record[name] for record in records if name in record]
        if isinstance(values[0], bool):
            summary[name] = [round(100 * float(np.mean(values)), 1), len(values)]
        else:
            summary[name] = [round(float(np.median(values)), 2), round(min(values), 2)]
    return summary


def _line(name: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    parts = [f"{key} {a:g} ({b:g})" for key, (a, b) in list(found.items())[1:]]
    return f"{name:18} {found['clips']:3} clips  " + "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
