"""Whether Text2Video-Zero keeps a shape and moves the view as far as it was asked to.

All 18 pairs of a colour and a shape, seed = number of the pair, go through the cascade that
`python export/build.py text2video-zero --size shapes` makes. Colour and shape are read from the
pixels of every video by shapes_measure.py; the displacement per frame is that of the foreground's
centroid, first three frames to last three, against the motion that was asked for.

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
from PIL import Image
from shapes_measure import measure
from shapes_report import machine
from tqdm import tqdm

from edgereel import EdgereelError, load
from edgereel_export.shapes.world import COLOURS, SHAPES

__all__ = ["main"]

_GRID = 512  # motion is given in 512ths of the side
_ENDS = 3  # frames that shapes_measure averages at each end


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 if an option is wrong."""
    options = _options(argv)
    try:
        records, strips = _run(options)
    except EdgereelError as error:
        print(f"zero_quality.py: error: {error}", file=sys.stderr)
        return 2
    summary = _summary(records, options)
    for name in ("colour_percent", "shape_percent", "moved_of_asked", "seconds_p50"):
        print(f"{name:16} {summary[name]}")
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
    parser.add_argument("--frames", type=int, default=8, help="at least 6")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the backend's choice)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="every video as a row")
    options = parser.parse_args(argv)
    if options.frames < 2 * _ENDS:
        parser.error(f"--frames is {options.frames}; expected at least {2 * _ENDS}, to measure by")
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
                "seen": f"{seen.colour} {seen.shape}, moved {seen.move}",
                "move": seen.move,
                "seconds": seconds,
            }
        )
        strips.append(np.concatenate(list(frames), 1))
    return records, strips


def _summary(records: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Shares, and the mean displacement along the asked direction as a share of the asked one."""
    # the view moves on, so what it sees moves back
    asked = -np.array([options.motion_x, options.motion_y]) / _GRID
    gap = options.frames - _ENDS
    moves = np.array([r["move"] for r in records if r["move"] is not None]).reshape(-1, 2) / gap
    length = float(np.linalg.norm(asked))
    along = moves @ asked / length**2 if length else np.zeros(0)
    count = len(records)
    return {
        "clips": count,
        "colour_percent": round(100 * sum(r["colour"] for r in records) / count, 2),
        "shape_percent": round(100 * sum(r["shape"] for r in records) / count, 2),
        "moved_of_asked": round(float(along.mean()), 3) if len(along) else None,
        "moved_of_asked_spread": round(float(along.std()), 3) if len(along) else None,
        "seconds_p50": round(statistics.median(r["seconds"] for r in records), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
