"""How closely Emu Video of drawn shapes keeps to what it is given, and whether it moves as told.

Pictures and clips of the 90 prompts are drawn by the world of shapes and given to the cascade that
`python export/build.py emu-video --size shapes` makes, seed = number of the prompt:

animate      a picture: the first frame is compared with it, and with what the autoencoder makes of
             it; colour, shape and motion are read from the video's pixels by shapes_measure.py
interpolate  eight frames, in a folder of PNG files: frames 4, 8, ..., 32 of the 37 are compared
             with them, and the frames between with those of the world, all after the autoencoder

    python benchmarks/emu_quality.py animate
    python benchmarks/emu_quality.py interpolate --limit 12 --sheet emu.png

PSNR is of whole frames. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from fewer_steps import psnr
from numpy.typing import NDArray
from PIL import Image
from shapes_measure import measure
from shapes_report import machine
from shapes_truth import PROMPTS, drawn, scene
from tqdm import tqdm

from edgereel import Cascade, EdgereelError, load
from edgereel_export.modules.emu_glue import FEW, MOST_FRAMES
from edgereel_export.modules.sd_glue import unit_pictures
from edgereel_export.modules.sd_vae import SDVAE, SDDecoder, SDEncoder
from edgereel_export.shapes import captions
from edgereel_export.shapes.losses import frozen

__all__ = ["main"]

_PIXELS, _FPS, _EVERY = 128, 16.0, 4
Frames = NDArray[np.uint8]  # [F, H, W, 3]


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 if an option is wrong."""
    options = _options(argv)
    try:
        summary, strips = _run(options)
    except EdgereelError as error:
        print(f"emu_quality.py: error: {error}", file=sys.stderr)
        return 2
    for name, value in summary.items():
        print(f"{name:24} {value}")
    if options.sheet is not None:
        Image.fromarray(np.concatenate(strips)).save(options.sheet)
    print(json.dumps({**summary, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("animate", "interpolate"))
    parser.add_argument("--cascade", default="engines/emu-video-shapes", metavar="DIR")
    parser.add_argument("--limit", type=int, help="only so many of the 90 prompts, evenly spread")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the backend's choice)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="every video as a row")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> tuple[dict[str, Any], list[Frames]]:
    """What was measured, and a strip of frames of every video."""
    cascade = load(options.cascade, threads=options.threads)
    work = _animate if options.what == "animate" else _interpolate
    order = [7 * n % len(PROMPTS) for n in range(len(PROMPTS))]  # 7 and 90 share no divisor
    records, strips = [], []
    for number in tqdm(sorted(order[: options.limit]), unit="video"):
        started = time.perf_counter()
        record, frames = work(cascade, number)
        records.append({**record, "seconds": time.perf_counter() - started})
        strips.append(np.concatenate(list(frames[:: max(1, len(frames) // FEW)]), 1))
    return _summary(records), strips


def _animate(cascade: Cascade, number: int) -> tuple[dict[str, Any], Frames]:
    """A picture is animated: how its first frame and its motion are."""
    asked = PROMPTS[number]
    picture = drawn(scene(asked, _FPS, number), torch.zeros(1), _PIXELS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.png"
        Image.fromarray(picture[0]).save(path)
        video = cascade(
            captions.plain(*asked), mode="animate", seed=number, params={"image": str(path)}
        )
    seen = measure(video.frames)
    first, after = video.frames[:1], _autoencoded(picture)
    found = {
        "first_frame_db": psnr(first, after),
        "first_frame_to_given_db": psnr(first, picture),
        "autoencoder_db": psnr(after, picture),
    }
    right = {
        f"{name}_percent": 100 * (getattr(seen, name) == getattr(asked, name))
        for name in asked._fields
    }
    return {**found, **right}, video.frames


def _interpolate(cascade: Cascade, number: int) -> tuple[dict[str, Any], Frames]:
    """Frames are made between eight: how those and the new ones are."""
    asked = PROMPTS[number]
    truth = drawn(scene(asked, _FPS, number), torch.arange(float(MOST_FRAMES)), _PIXELS)
    with tempfile.TemporaryDirectory() as folder:
        for index, frame in enumerate(truth[_EVERY::_EVERY][:FEW]):
            Image.fromarray(frame).save(Path(folder) / f"{index:05}.png")
        video = cascade(
            captions.plain(*asked),
            mode="interpolate",
            seed=number,
            params={"video": folder, "frames": FEW, "sample_fps": _FPS / _EVERY},
        )
    given = np.zeros(MOST_FRAMES, bool)
    given[_EVERY : _EVERY * FEW + 1 : _EVERY] = True
    after = _autoencoded(truth)
    found = {
        "given_db": psnr(video.frames[given], after[given]),
        "between_db": psnr(video.frames[~given], after[~given]),
        "autoencoder_db": psnr(after, truth),
    }
    return found, video.frames


def _autoencoded(frames: Frames) -> Frames:
    """What the image model's autoencoder makes of frames."""
    vae = _vae()
    with torch.no_grad():
        x = SDDecoder(vae)(SDEncoder(vae)(unit_pictures(torch.from_numpy(frames))))
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return cast(Frames, levels.permute(0, 2, 3, 1).numpy())


@cache
def _vae() -> SDVAE:
    return cast(SDVAE, frozen("vae"))


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares over all videos in percent; median and least of what is in decibels."""
    summary: dict[str, Any] = {"clips": len(records)}
    for name in records[0]:
        values = [record[name] for record in records]
        if name.endswith("_percent"):
            summary[name] = round(float(np.mean(values)), 1)
        else:
            summary[f"{name}_p50"] = round(float(np.median(values)), 2)
        if name.endswith("_db"):
            summary[f"{name}_least"] = round(min(values), 2)
    return summary


if __name__ == "__main__":
    sys.exit(main())
