"""Whether Text2Video-Zero keeps a shape, and moves the view as far as it was asked to.

All 18 pairs of a colour and a shape, seed = number of the pair, go through the cascade that
`python export/build.py text2video-zero --size shapes` makes. Colour and shape are read from the
pixels of every video by shapes_measure.py. The displacement per frame is the slope of a line
through the places of the shape's rear edge, since its front may leave the picture, as a share of
the motion that was asked for.

    python benchmarks/zero_quality.py
    python benchmarks/zero_quality.py --motion-x 24 --frames 12 --sheet zero.png

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapes_measure import foreground, measure
from shapes_report import machine
from tqdm import tqdm

from edgereel import EdgereelError, load
from edgereel_export.shapes.world import COLOURS, SHAPES

__all__ = ["main", "moved"]

_GRID = 512  # motion is given in 512ths of the side
_LEAST = 6  # frames that shapes_measure needs


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 if an option is wrong."""
    options = _options(argv)
    try:
        records, strips = _run(options)
    except EdgereelError as error:
        print(f"zero_quality.py: error: {error}", file=sys.stderr)
        return 2
    summary = _summary(records)
    for name, value in summary.items():
        print(f"{name:22} {value}")
    for record in records:
        if not record["right"]:
            print(f"  {record['prompt']} (seed {record['seed']}): {record['seen']}")
    if options.sheet is not None:
        Image.fromarray(np.concatenate(strips)).save(options.sheet)
    print(json.dumps({**summary, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cascade", default="engines/text2video-zero-shapes", metavar="DIR")
    parser.add_argument("--motion-x", type=float, default=12.0)
    parser.add_argument("--motion-y", type=float, default=0.0)
    parser.add_argument("--guidance-scale", type=float, help="default: the cascade's")
    parser.add_argument("--frames", type=int, default=8, help=f"at least {_LEAST}")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the backend's choice)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="every video as a row")
    options = parser.parse_args(argv)
    if options.frames < _LEAST:
        parser.error(f"--frames is {options.frames}; expected at least {_LEAST}, to measure by")
    return options


def _run(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Any]]:
    """A record and a strip of frames of every video."""
    cascade = load(options.cascade, threads=options.threads)
    asked = {"motion_x": options.motion_x, "motion_y": options.motion_y, "frames": options.frames}
    if options.guidance_scale is not None:
        asked["guidance"] = options.guidance_scale
    records, strips = [], []
    for seed, (colour, shape) in enumerate(tqdm(list(product(COLOURS, SHAPES)), unit="video")):
        started = time.perf_counter()
        frames = cascade(f"a {colour} {shape}", seed=seed, **asked).frames
        seconds = time.perf_counter() - started
        seen = measure(frames)
        right = (seen.colour, seen.shape) == (colour, shape)
        records.append(
            {
                "prompt": f"a {colour} {shape}",
                "seed": seed,
                "right": right,
                "colour": seen.colour == colour,
                "shape": seen.shape == shape,
                "seen": f"{seen.colour} {seen.shape}",
                "moved": moved(frames, (options.motion_x, options.motion_y)),
                "seconds": seconds,
            }
        )
        strips.append(np.concatenate(list(frames), 1))
    return records, strips


def moved(frames: NDArray[np.uint8], asked: tuple[float, float]) -> float | None:
    """How far a shape went per frame, as a share of how far the view was asked to move.

    Args:
        frames: u8 [F, H, W, 3].
        asked: x and y, in 512ths of the side; what is seen moves the other way.

    Returns:
        The mean of both axes, weighed by what was asked; None if nothing was asked, or fewer than
        three frames show a shape.
    """
    masks = [foreground(frame) for frame in frames]
    seen = [index for index, mask in enumerate(masks) if mask.any()]
    length = float(np.square(asked).sum())
    if len(seen) < 3 or not length:
        return None
    share = 0.0
    for axis, wanted in enumerate(asked):
        lines = [np.nonzero(masks[index].any(axis))[0] for index in seen]
        rear = [line.max() if wanted > 0 else line.min() for line in lines]
        slope = np.polyfit(seen, rear, 1)[0] / masks[0].shape[1 - axis]
        share += -slope * _GRID * wanted / length
    return round(float(share), 3)


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of all videos, and how far they moved."""
    count = len(records)
    far = [record["moved"] for record in records if record["moved"] is not None]
    return {
        "clips": count,
        "colour_percent": round(100 * sum(r["colour"] for r in records) / count, 2),
        "shape_percent": round(100 * sum(r["shape"] for r in records) / count, 2),
        "moved_of_asked": round(statistics.mean(far), 3) if far else None,
        "moved_least": min(far, default=None),
        "moved_most": max(far, default=None),
        "not_measured": count - len(far),
        "seconds_p50": round(statistics.median(r["seconds"] for r in records), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
