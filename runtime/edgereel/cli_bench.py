"""`edgereel bench`: a table of times, the machine they hold for, the same as JSON and picture."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgereel import __version__, bench, cli_flags, cli_options, host_memory, plan
from edgereel.backends.trt_library import device
from edgereel.cli_table import size, table
from edgereel.errors import InputError
from edgereel.files import all_or_nothing, check_place

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """0; prints a table and, last, one line of JSON."""
    words = _joined(words)
    options, given = _options(words)
    if options.help is not None:
        print(options.help)
        return 0
    asked = _percentiles(options.percentile)
    for path in (options.export_times, options.plot):
        if path is not None:
            check_place(Path(path))
    settings = [_setting("measured", options, given)]
    if options.baseline is not None:
        settings.append(_setting("baseline", *_options(_other(words, options))))
    limits = bench.Limits(options.warmup / 1000, options.iterations, options.duration)
    timings = bench.measure(settings, limits, partial(_tell, options))
    print("\n".join(_report(timings, asked)))
    document = _document(timings, asked, words)
    if options.export_times is not None:
        with all_or_nothing(Path(options.export_times)) as new:
            times = [{"name": t.name, "cold": t.cold, "warm": t.warm} for t in timings]
            new.write_text(json.dumps(times, indent=1), encoding="utf-8")
    if options.plot is not None:
        _plot(timings, Path(options.plot))
    print(json.dumps(document))
    return 0


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """The options, with `help` as in cli_options, and the params of the call."""
    parser = cli_options.cascade_parser(
        "bench",
        "DIR [options]",
        "Measure how long a cascade takes: percentiles of warm runs by stage, and the first run "
        "apart. With --baseline two settings take turns in the same process.",
    )
    add = parser.add_argument
    add("--warmup", type=float, default=200, metavar="MS",
        help="milliseconds of runs that do not count, at least one (default 200)")  # fmt: skip
    add("--iterations", type=int, default=10, metavar="N", help="runs at least (default 10)")
    add("--duration", type=float, default=3, metavar="S", help="seconds at least (default 3)")
    add("--percentile", default="50,90,95,99", metavar="P,...", help="default 50,90,95,99")
    add("--export-times", metavar="FILE", help="write the seconds of every run there, as JSON")
    add("--plot", metavar="FILE.png", help="draw a bar for every stage (needs matplotlib)")
    add("--baseline", metavar="OPTIONS", help="options that differ, in quotation marks, or another "
        "cascade folder with options: '--no-kernels', 'engines/other --steps 8'")  # fmt: skip
    add("--quiet", action="store_true", help="no progress")
    options, given = cli_options.cascade_options(parser, words)
    if options.help is None:
        for name in ("warmup", "duration"):
            if getattr(options, name) < 0:
                raise InputError(
                    f"--{name} is {getattr(options, name)}; expected at least 0. Change it."
                )
        if options.iterations < 1:
            raise InputError(
                f"--iterations is {options.iterations}; expected at least 1. Change it."
            )
    return options, given


def _joined(words: Sequence[str]) -> list[str]:
    """The words with `--baseline X` as one: argparse would take an X such as --no-kernels apart."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--baseline":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _other(words: Sequence[str], options: argparse.Namespace) -> list[str]:
    """The command line of the baseline: this one with what differs behind it."""
    try:
        changes = shlex.split(options.baseline)
    except ValueError as error:
        raise InputError(f"--baseline {options.baseline!r}: {error}. Correct it.") from None
    kept = [word for word in words if not word.startswith("--baseline=")]
    if changes and not changes[0].startswith("-"):
        kept.remove(options.folder)
    return [*kept, *changes]


def _setting(name: str, options: argparse.Namespace, given: dict[str, object]) -> bench.Setting:
    _, mode = cli_flags.pick_mode(plan.load(options.folder), options.mode)
    params = cli_flags.with_prompt(mode, given)
    return bench.Setting(name, partial(cli_options.load, options), options.mode, params)


def _percentiles(text: str) -> list[float]:
    try:
        asked = [float(word) for word in text.split(",")]
    except ValueError:
        asked = [-1.0]
    if not all(0 <= one <= 100 for one in asked):
        raise InputError(
            f"--percentile {text!r} cannot be read; expected numbers from 0 to 100 such as 50,99. "
            "Correct it."
        )
    return asked


def _tell(options: argparse.Namespace, name: str, runs: int) -> None:
    if not options.quiet:
        what = f"run {runs} of {options.iterations} or more" if runs else "first run"
        print(f"{name}: {what}", file=sys.stderr)


def _report(timings: Sequence[bench.Timings], asked: Sequence[float]) -> list[str]:
    """Milliseconds of warm runs by stage, with the ratio to the baseline; then the first runs."""
    first, *others = timings
    marks = [f"p{mark:g}" for mark in asked]
    head = ["stage", *marks, "mean", *(f"{o.name} p50" for o in others), *("ratio" for _ in others)]
    rows = [tuple(head)]
    for stage, seconds in first.warm.items():
        row = [stage, *map(_ms, bench.percentiles(seconds, asked))]
        row.append(_ms(sum(seconds) / len(seconds)))
        middle = bench.percentiles(seconds, [50])[0]
        for other in others:
            theirs = other.warm.get(stage)
            base = bench.percentiles(theirs, [50])[0] if theirs else float("nan")
            row += [_ms(base), f"{base / middle:.2f}x" if middle else "-"]
        rows.append(tuple(row))
    count = len(first.warm[bench.TOTAL])
    lines = [f"{count} runs, milliseconds", *table(rows)]
    for timing in timings:
        cold = timing.load + timing.cold[bench.TOTAL]
        told = f", {size(timing.device_bytes)} on the GPU" if timing.device_bytes else ""
        about = timing.metadata
        lines.append(
            f"{timing.name}: cold start {cold:.2f} s, backend {about['backend']}, "
            f"{about['precision']}, {about['library']}, {about['device']}{told}"
        )
    peak = host_memory.peak_memory()
    return lines if peak is None else [*lines, f"peak memory of this process {size(peak)}"]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _document(
    timings: Sequence[bench.Timings], asked: Sequence[float], words: Sequence[str]
) -> dict[str, Any]:
    found = []
    for timing in timings:
        warm = {
            stage: {
                "runs": len(seconds),
                "mean": sum(seconds) / len(seconds),
                **{
                    f"p{mark:g}": value
                    for mark, value in zip(asked, bench.percentiles(seconds, asked), strict=True)
                },
            }
            for stage, seconds in timing.warm.items()
        }
        facts = ("cascade", "mode", "backend", "library", "device", "precision", "params")
        found.append(
            {
                "name": timing.name,
                **{name: timing.metadata[name] for name in facts},
                "load": timing.load,
                "cold": timing.cold,
                "warm": warm,
                "device_bytes": timing.device_bytes,
            }
        )
    return {
        "command": shlex.join(["edgereel", "bench", *words]),
        "seconds": found,
        "peak_host_bytes": host_memory.peak_memory(),
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What times depend on, as far as it can be read here."""
    facts: dict[str, Any] = {
        "edgereel": __version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "cpu": _line("/proc/cpuinfo", "model name"),
        "cpu_governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }
    if device() is not None:
        asked = "name,driver_version,pstate,clocks.sm,clocks.mem,power.limit,power.draw"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        facts["gpu"] = dict(zip(asked.split(","), _said(command).split(", "), strict=False))
        facts["power_mode"] = _said(["nvpmodel", "-q"])  # of a Jetson
    return {name: value for name, value in facts.items() if value}


def _said(command: Sequence[str]) -> str:
    """The first line a program prints; empty if it is not here or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _line(path: str, key: str) -> str:
    rows = (row.partition(":") for row in _text(path).splitlines())
    return next((value.strip() for name, _, value in rows if name.strip() == key), "")


def _plot(timings: Sequence[bench.Timings], path: Path) -> None:
    """A bar for every stage of every setting: the median, with a line from p10 to p90."""
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            "--plot needs matplotlib, which is not installed. Run `pip install matplotlib`, or "
            "leave --plot away."
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    stages = list(timings[0].warm)
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.5 * len(stages) * len(timings)))
    height = 0.8 / len(timings)
    for index, timing in enumerate(timings):
        low, middle, high = zip(
            *(bench.percentiles(timing.warm.get(s, [0.0]), (10, 50, 90)) for s in stages),
            strict=True,
        )
        spread = [
            [m - a for m, a in zip(middle, low, strict=True)],
            [b - m for m, b in zip(middle, high, strict=True)],
        ]
        places = [place + index * height for place in range(len(stages))]
        bars = axes.barh(places, middle, height, xerr=spread, label=timing.name)
        axes.bar_label(bars, fmt="%.3g s", padding=4)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(stages))], stages)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("seconds, median; lines from p10 to p90")
    if len(timings) > 1:
        axes.legend()
    figure.tight_layout()
    with all_or_nothing(path) as new:
        figure.savefig(new, format="png", dpi=110)
    pyplot.close(figure)
