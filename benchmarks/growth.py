"""How time and memory of a cascade grow with frames, pixels and steps, by stage.

Every point is a process of its own, with one thread, that makes the same video twice. The first
call, which loads the engines, tells the most memory that each stage held beyond what Python and the
libraries take, and what was predicted of it, as `edgereel explain` does; the second, the processor
time of each stage. A line through log(value) over log(size) gives the exponent: 1 is proportional,
0 is flat. Stages that take less than 0.05 s at most are left out.

    python export/build.py text2video-zero --size shapes
    python benchmarks/growth.py --plot growth.png
    python benchmarks/growth.py --cascade engines/lavie-shapes --axis frames=8,32,128
    python benchmarks/growth.py --cascade engines/lavie-shapes --mode upscaled \\
        --axis frames=8,16,32,64 --set steps=2 --set steps.upscaling=2

`side` is height and width together, and the exponents are of pixels. Linux only: the most memory of
a stage comes from /proc. The output is markdown; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["exponent", "main"]

ROOT = Path(__file__).parents[1]
PROMPT = "a red circle moving right"
AXES = ("frames=8,16,32,64,128", "side=64,96,128,192,256", "steps=4,8,16,32,64")
_LEAST_SECONDS = 0.05
Point = dict[str, Any]

# A stage ends where the next begins; writing 5 there sets the process's VmHWM to what it holds now.
CHILD = """
import json, sys, time, edgereel, onnxruntime
cascade, prompt, mode, params = json.loads(sys.argv[1])

def memory(name):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines[name].split()[0]) * 1024

def call():
    found, last = {}, []

    def mark():
        if last:
            spent = time.process_time() - last[1]
            found[last[0]] = {"seconds": spent, "bytes": memory("VmHWM") - bare}
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    def told(progress):
        if not last or progress.stage != last[0]:
            mark()
            last[:] = progress.stage, time.process_time()

    frames = cascade(prompt, mode=mode, params=params, callback=told).frames
    mark()
    return found, list(frames.shape)

bare = memory("VmRSS")
cascade = edgereel.load(cascade, backend="ort", threads=1)
stages, shape = call()
for name, predicted in cascade.memory["stages"].items():
    stages[name]["predicted"] = predicted["total"]
for name, again in call()[0].items():
    stages[name]["seconds"] = again["seconds"]
print(json.dumps({"stages": stages, "frames": shape}))
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, fits and prints; returns the exit code."""
    options = _options(argv)
    axes = dict(_axis(text) for text in options.axis or AXES)
    base = _pairs(options.set)
    points = {
        axis: [_measured(options, base, _asked(axis, value)) for value in values]
        for axis, values in axes.items()
    }
    fits = {axis: _fits(axis, axes[axis], points[axis]) for axis in axes}
    _report(axes, points, fits)
    if options.plot is not None:
        _plot(axes, points, options.plot)
    import shapes_report  # brings torch

    facts = {"axes": axes, "points": points, "exponents": fits}
    print(json.dumps({**facts, "machine": shapes_report.machine(), "command": sys.argv}))
    return 0


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of the line log(value) = p log(size) + q that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT / "engines" / "text2video-zero-shapes"
    parser.add_argument("--cascade", type=Path, default=default, metavar="DIR")
    parser.add_argument("--mode", help="default: the first")
    parser.add_argument("--axis", action="append", metavar="NAME=V,V,…", help=f"default: {AXES}")
    parser.add_argument(
        "--set",
        action="append",
        default=["frames=8", "side=128", "steps=4"],
        metavar="NAME=VALUE",
        help="what is not varied (default: 8 frames, 128 x 128 pixels, 4 steps)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args(argv)
    if not (options.cascade / "plan.json").is_file():
        parser.error(f"{options.cascade} is no cascade. Build one with python export/build.py.")
    return options


def _axis(text: str) -> tuple[str, list[int]]:
    name, _, values = text.partition("=")
    return name, [int(value) for value in values.split(",")]


def _pairs(words: Sequence[str]) -> dict[str, int]:
    params: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        params |= _asked(name, int(value))
    return params


def _asked(axis: str, value: int) -> dict[str, int]:
    return {"height": value, "width": value} if axis == "side" else {axis: value}


def _measured(options: argparse.Namespace, base: Mapping[str, int], asked: dict[str, int]) -> Point:
    """What a call takes by stage."""
    params = {**base, **asked}
    given = [str(options.cascade), PROMPT, options.mode, params]
    path = os.pathsep.join([str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", CHILD, json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"a call with {params} failed")
    point: Point = json.loads(done.stdout)
    return point


def _sizes(axis: str, values: Sequence[int]) -> list[int]:
    """The values, or the pixels of sides."""
    return [value * value for value in values] if axis == "side" else list(values)


def _fits(axis: str, values: Sequence[int], points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """The exponents of time and memory of the stages that take some time."""
    fits = {}
    for stage in points[0]["stages"]:
        rows = [point["stages"][stage] for point in points]
        if max(row["seconds"] for row in rows) >= _LEAST_SECONDS:
            fits[stage] = {
                field: round(exponent(_sizes(axis, values), [row[field] for row in rows]), 2)
                for field in ("seconds", "bytes", "predicted")
            }
    return fits


def _report(
    axes: Mapping[str, Sequence[int]],
    points: Mapping[str, Sequence[Point]],
    fits: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> None:
    print("| with | stage | time ~ | s | memory ~ | MiB | predicted ~ | measured / predicted |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for axis, stages in fits.items():
        for stage, fit in stages.items():
            rows = [point["stages"][stage] for point in points[axis]]
            ratios = [row["bytes"] / row["predicted"] for row in rows]
            name = "pixels" if axis == "side" else axis
            values = _sizes(axis, axes[axis])
            ends = (rows[0], rows[-1])
            print(
                f"| {name} {values[0]} to {values[-1]} | {stage} "
                f"| {fit['seconds']:.2f} | {_ends(ends, 'seconds', 1, 2)} "
                f"| {fit['bytes']:.2f} | {_ends(ends, 'bytes', 2**20, 0)} "
                f"| {fit['predicted']:.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
            )
    print()


def _ends(rows: Sequence[Point], field: str, unit: float, digits: int) -> str:
    return " to ".join(f"{row[field] / unit:.{digits}f}" for row in rows)


def _plot(
    axes: Mapping[str, Sequence[int]], points: Mapping[str, Sequence[Point]], path: Path
) -> None:
    """Processor time and memory of the stages, predictions dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, grid = pyplot.subplots(
        2, len(axes), figsize=(4 * len(axes), 7), squeeze=False, sharey="row", layout="constrained"
    )
    for column, (axis, values) in enumerate(axes.items()):
        sizes = _sizes(axis, values)
        for index, stage in enumerate(points[axis][0]["stages"]):
            rows = [point["stages"][stage] for point in points[axis]]
            seconds = [row["seconds"] for row in rows]
            if max(seconds) < _LEAST_SECONDS:
                continue
            colour = f"C{index}"
            grid[0][column].plot(sizes, seconds, "o-", color=colour, label=stage)
            for field, style in (("bytes", "o-"), ("predicted", "--")):
                mib = [row[field] / 2**20 for row in rows]
                label = stage + (", predicted" if field == "predicted" else "")
                grid[1][column].plot(sizes, mib, style, color=colour, label=label)
        for row, what in enumerate(("processor time, s", "most memory, MiB")):
            name = "pixels of a frame" if axis == "side" else axis
            grid[row][column].set(xscale="log", yscale="log", xlabel=name)
            grid[row][column].set_xticks(sizes, [str(size) for size in sizes], minor=False)
            grid[row][column].xaxis.set_minor_locator(ticker.NullLocator())
            grid[row][column].legend(fontsize="small")
            if not column:
                grid[row][column].set_ylabel(what)
    for axis in (axes[0].yaxis for axes in grid):
        axis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 1)))
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
