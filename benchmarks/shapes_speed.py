"""What one video of the `shapes` cascade costs on this machine, and what fewer steps give up.

First, `edgereel generate` with default settings as a process of its own, N times: wall seconds from
start to mp4, loading included, and the most memory the process held. --max-seconds and --max-mb
state limits: the exit code is 1 if one is not held. Then, unless --no-steps, other numbers of steps
on a fixed subset of the prompts of shapes_quality.py: seconds per video with loaded engines, and
the share of videos that show what was asked.

    python benchmarks/shapes_speed.py
    python benchmarks/shapes_speed.py --runs 5 --no-steps
    python benchmarks/shapes_speed.py --prompts 30 --setting 10,8,4,2,dpmpp_2m --resume steps

A setting is decoder,interpolation,super_res_low,super_res_high,sampler; an empty place, as in
`10,,,,` is the default. The output is markdown; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["SETTINGS", "main", "measured_child", "sets"]

PROMPT = "a red circle moving right"
_PLACES = (
    "steps.decoder",
    "steps.interpolation",
    "steps.super_res_low",
    "steps.super_res_high",
    "sampler",
)
SETTINGS = (
    ",,,,",
    "50,,,,",
    "12,,,,",
    "8,,,,",
    "12,,,,dpmpp_2m",
    "8,,,,dpmpp_2m",
    "5,,,,dpmpp_2m",
    ",,,,euler",
    ",4,,,",
    ",2,,,",
    ",,2,,",
    ",,,1,",
    "12,4,2,2,dpmpp_2m",
    "8,4,2,1,dpmpp_2m",
)
Result = dict[str, Any]


def sets(setting: str) -> list[str]:
    """The name=value texts of a setting such as `10,8,4,2,dpmpp_2m`.

    Raises:
        ValueError: not five places.
    """
    values = [value.strip() for value in setting.split(",")]
    if len(values) != len(_PLACES):
        raise ValueError(
            f"--setting {setting} has {len(values)} places; expected {len(_PLACES)}: "
            f"{', '.join(_PLACES)}. Leave a place empty for its default, as in 10,,,,"
        )
    return [f"{name}={value}" for name, value in zip(_PLACES, values, strict=True) if value]


def measured_child(words: Sequence[str]) -> Result:
    """Seconds, peak memory and stage seconds of one `edgereel generate` with these options.

    The kernel counts what this process held when it started the child as the child's, which is
    why nothing large is imported at the top of this file. Of the child and its ffmpeg, the larger
    counts; they do not run at their peaks together.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "metadata.json"
        output = ["-o", str(Path(folder) / "clip.mp4"), "--metadata", str(told)]
        command = [sys.executable, "-m", "edgereel.cli", "generate", *words, *output]
        started = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        spent = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(child.returncode)
        document = json.loads(told.read_text(encoding="utf-8"))
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(spent, 2),
        "peak_rss_bytes": usage.ru_maxrss * unit,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "stages": {name: round(value, 3) for name, value in document["seconds"].items()},
        "backend": document["backend"],
    }


def _alone(runs: Sequence[Result]) -> Result:
    """Several runs of the command as one result."""
    seconds = [run["seconds"] for run in runs]
    peak = max(run["peak_rss_bytes"] for run in runs)
    return {
        "runs": list(runs),
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "peak_rss_bytes": peak,
        "stages_median": {
            name: round(statistics.median(run["stages"][name] for run in runs), 3)
            for name in runs[0]["stages"]
        },
    }


def _alone_lines(result: Result) -> list[str]:
    """The processes as markdown."""
    median, runs = result["seconds_median"], result["runs"]
    stages = [f"| {name} | {value:.2f} |" for name, value in result["stages_median"].items()]
    rest = median - sum(result["stages_median"].values())
    return [
        f"`edgereel generate`, default settings, {len(runs)} runs, backend {runs[0]['backend']}",
        "",
        f"* wall: median {median:.1f} s, {result['seconds_min']:.1f} to "
        f"{result['seconds_max']:.1f} s",
        f"* peak memory: {result['peak_rss_bytes'] / 1e6:.0f} MB",
        "",
        "| stage | seconds, median |",
        "|---|--:|",
        *stages,
        f"| start, loading, mp4 | {rest:.2f} |",
        "",
    ]


def _broken(result: Result, max_seconds: float | None, max_mb: float | None) -> list[str]:
    """A sentence for each stated limit that the slowest or largest run did not hold."""
    measured = (
        ("wall time", "s", result["seconds_max"], max_seconds),
        ("peak memory", "MB", result["peak_rss_bytes"] / 1e6, max_mb),
    )
    return [
        f"{what} is {value:.1f} {unit}; expected at most {limit:g} {unit}."
        for what, unit, value, limit in measured
        if limit is not None and value > limit
    ]


def _tried(options: argparse.Namespace, setting: str, common: Sequence[str]) -> Result:
    """Seconds and quality of one setting on the subset."""
    import shapes_quality  # brings torch: only after the processes above were measured
    import shapes_report
    from shapes_results import Results

    words = [*common, *(f"--set={item}" for item in sets(setting))]
    maker = shapes_quality.Maker(options.cascade, words)
    wanted = shapes_quality.jobs(("plain",), options.prompts)
    path = None
    if options.resume is not None:
        options.resume.mkdir(parents=True, exist_ok=True)
        path = options.resume / f"{setting.replace(',', '_')}.jsonl"
    results = Results(path, shapes_quality.result_key(options.cascade, words))
    shapes_quality.run(maker, wanted, results, check=False)
    records = [results.records[job.wording, job.seed] for job in wanted]
    return {
        "params": {name: records[0]["params"].get(name) for name in _PLACES},
        "seconds_p50": shapes_report.seconds(records)["p50"],
        **shapes_report.quality(records),
    }


def _step_lines(results: Sequence[Result]) -> list[str]:
    """The trade-off as a markdown table; the first row is the default."""
    lines = [
        f"{results[0]['clips']} prompts, engines loaded; steps of decoder, interpolation, "
        "super_res_low, super_res_high",
        "",
        "| steps | sampler | s/video | colour | shape | motion | all three | drift, standing |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        *steps, sampler = (result["params"][name] for name in _PLACES)
        shares = [
            f"{result[f'{field}_percent']:.0f} %"
            for field in ("colour", "shape", "motion", "all_three")
        ]
        drift = result["standing_drift_max"]
        shown = "none" if drift is None else f"{drift:.1%}"
        if result["standing_unmeasured"]:
            shown += f" ({result['standing_unmeasured']} not measurable)"
        row = [", ".join(map(str, steps)), str(sampler), f"{result['seconds_p50']:.2f}"]
        lines.append("| " + " | ".join([*row, *shares, shown]) + " |")
    return [*lines, ""]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cascade", default="engines/shapes", metavar="DIR", help="default: %(default)s")
    add("--runs", type=int, default=3, metavar="N", help="processes (default: %(default)s)")
    add("--backend", default="auto", metavar="NAME")
    add("--threads", type=int, metavar="N", help="CPU threads (default: the backend's choice)")
    add("--prompts", type=int, default=15, metavar="N", help="of the 90 (default: %(default)s)")
    add("--setting", action="append", metavar="D,I,L,H,SAMPLER", help="instead of the usual ones")
    add("--max-seconds", type=float, metavar="S", help="limit of the slowest process")
    add("--max-mb", type=float, metavar="MB", help="limit of the peak memory, in 10^6 bytes")
    add("--no-steps", action="store_true", help="only the processes")
    add("--resume", type=Path, metavar="DIR", help="finished videos are kept and continued from")
    options = parser.parse_args(argv)
    for name in ("runs", "prompts"):
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name} is {value}; expected at least 1. Leave it out for the default.")
    try:
        for setting in options.setting or ():
            sets(setting)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of this command line."""
    options = _options(argv)
    common = [f"--backend={options.backend}"]
    common += [] if options.threads is None else [f"--threads={options.threads}"]
    words = [options.cascade, *common, f"--prompt={PROMPT}", "--quiet"]
    runs = []
    for number in range(options.runs):
        runs.append(measured_child(words))
        print(f"run {number + 1}/{options.runs}: {runs[-1]['seconds']} s", file=sys.stderr)
    result: Result = {"generate": _alone(runs), "steps": []}
    print("\n".join(_alone_lines(result["generate"])), flush=True)
    result["limits_broken"] = _broken(result["generate"], options.max_seconds, options.max_mb)
    if not options.no_steps:
        settings = options.setting or SETTINGS
        for number, setting in enumerate(settings):
            print(f"setting {number + 1}/{len(settings)}: {setting}", file=sys.stderr)
            result["steps"].append(_tried(options, setting, common))
        print("\n".join(_step_lines(result["steps"])))
    import shapes_report  # numpy: after the processes, as above

    result["machine"] = shapes_report.machine()
    result["command"] = shlex.join(
        ["python", "benchmarks/shapes_speed.py", *(sys.argv[1:] if argv is None else argv)]
    )
    print(f"{result['machine']['cpu']}, {result['machine']['cores']} cores\n")
    for sentence in result["limits_broken"]:
        print(f"shapes_speed: {sentence}", file=sys.stderr)
    print(json.dumps(result))
    return 1 if result["limits_broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
