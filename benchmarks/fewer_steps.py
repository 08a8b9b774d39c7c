"""How far fewer or other steps of one stage lead from the result of a reference setting.

Some prompts go through the cascade with the reference and with every other setting, the same noise
for all. For each: seconds of that stage as a share of the reference's, measured in the same run,
and the PSNR between the frames, whose median and worst are told. With --plot both as a picture.

    python benchmarks/fewer_steps.py
    python benchmarks/fewer_steps.py --prompts 3 --setting dpmpp_2m,8 --plot docs/lavie_steps.png
    python benchmarks/fewer_steps.py --cascade engines/lavie-shapes --mode video --param "" \\
        --stage unet --setting ddim,20

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapes_report import machine
from shapes_truth import PROMPTS
from tqdm import tqdm

from edgereel import Cascade, EdgereelError, load
from edgereel_export.shapes import captions

__all__ = ["main", "psnr"]

SETTINGS = ("ddim,25", "ddim,10", "dpmpp_2m,25", "dpmpp_2m,15", "dpmpp_2m,10", "dpmpp_2m,6")
_MOST_DB = 100.0  # said of equal frames


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 if an option is wrong."""
    options = _options(argv)
    try:
        rows = _run(options)
    except EdgereelError as error:
        print(f"fewer_steps.py: error: {error}", file=sys.stderr)
        return 2
    print(f"| {options.stage}: sampler, steps | time of {options.reference} | PSNR | worst |")
    print("|---|--:|--:|--:|")
    for row in rows:
        worst = f"{row['psnr_least']:.1f} dB"
        print(f"| {row['setting']} | {row['time']:.2f} | {row['psnr_p50']:.1f} dB | {worst} |")
    if options.plot is not None:
        _plot(rows, options)
    print(json.dumps({"settings": rows, "machine": machine(), "command": " ".join(sys.argv)}))
    return 0


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Between frames u8 of one shape, in dB."""
    error = float(np.square(one.astype(np.float32) - other).mean())
    return _MOST_DB if error == 0 else min(float(10 * np.log10(255**2 / error)), _MOST_DB)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cascade", default="engines/lavie-shapes", metavar="DIR")
    parser.add_argument("--mode", default="upscaled")
    parser.add_argument("--stage", default="upscaling", help="of the plan, whose time is compared")
    parser.add_argument("--param", default=".upscaling", help="end of its params steps, sampler")
    parser.add_argument("--reference", default="ddim,50", metavar="SAMPLER,STEPS")
    parser.add_argument("--setting", action="append", metavar="SAMPLER,STEPS")
    parser.add_argument("--prompts", type=int, default=6, help="of the 90, evenly spread")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the backend's choice)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per setting."""
    cascade = load(options.cascade, threads=options.threads)
    settings = [options.reference, *(options.setting or SETTINGS)]
    told = PROMPTS[:: max(1, len(PROMPTS) // options.prompts)][: options.prompts]
    seconds: dict[str, list[float]] = {setting: [] for setting in settings}
    found: dict[str, list[float]] = {setting: [] for setting in settings}
    with tqdm(total=len(told) * len(settings), unit="video", file=sys.stderr) as bar:
        for seed, asked in enumerate(told):
            reference = None
            for setting in settings:
                video = _video(cascade, options, captions.plain(*asked), seed, setting)
                reference = video.frames if reference is None else reference
                seconds[setting].append(video.metadata["seconds"][options.stage])
                found[setting].append(psnr(video.frames, reference))
                bar.update()
    base = statistics.median(seconds[options.reference])
    return [
        {
            "setting": setting,
            "time": round(statistics.median(seconds[setting]) / base, 3),
            "psnr_p50": round(statistics.median(found[setting]), 2),
            "psnr_least": round(min(found[setting]), 2),
        }
        for setting in settings[1:]
    ]


def _video(
    cascade: Cascade, options: argparse.Namespace, prompt: str, seed: int, setting: str
) -> Any:
    sampler, _, steps = setting.partition(",")
    given = dict(word.split("=", 1) for word in options.set)
    params: dict[str, object] = {name: _number(value) for name, value in given.items()}
    params |= {f"sampler{options.param}": sampler, f"steps{options.param}": int(steps)}
    return cascade(prompt, mode=options.mode, seed=seed, params=params)


def _number(word: str) -> object:
    """The number that a word is, or the word."""
    try:
        return float(word) if "." in word else int(word)
    except ValueError:
        return word


def _plot(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Distance over time, a line per sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for sampler in dict.fromkeys(row["setting"].partition(",")[0] for row in rows):
        own = [row for row in rows if row["setting"].startswith(f"{sampler},")]
        own.sort(key=lambda row: float(row["time"]))
        axes.plot([r["time"] for r in own], [r["psnr_p50"] for r in own], "o-", label=sampler)
        for row in own:
            steps = row["setting"].partition(",")[2]
            axes.annotate(steps, (row["time"], row["psnr_p50"]), (4, 4), textcoords="offset points")
    axes.set(
        xlabel=f"time of {options.stage}, of that of {options.reference}",
        ylabel=f"PSNR to {options.reference}, dB",
    )
    axes.legend(title="sampler, steps")
    figure.savefig(options.plot, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
