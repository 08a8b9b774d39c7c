"""How many videos of the built `shapes` cascade show what was asked, and what one costs.

All 90 prompts (6 colours, 3 shapes, 5 motions), seed = number of the prompt, default settings, go
through the command line's own code: its reading of the options, `edgereel.load`, the call of the
cascade, and `save` as mp4; only the engines stay loaded between prompts. Colour, shape and motion
are read from the frames by shapes_measure.py, without any network. For one prompt the whole of
`edgereel generate` runs too, and its mp4 is decoded and compared with the frames that were
measured. Limit: standing shapes drift by less than 10 % of the frame.

    python benchmarks/shapes_quality.py --self-test
    python benchmarks/shapes_quality.py --resume shapes.jsonl --json shapes.json --sheet shapes.png
    python benchmarks/shapes_quality.py --limit 18 --set steps.decoder=10 --set sampler=dpmpp_2m
    python benchmarks/shapes_quality.py --cascade engines/lavie-shapes --mode interpolated

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np
import shapes_pictures
import shapes_report
from numpy.typing import NDArray
from shapes_measure import MEASURE_VERSION, measure
from shapes_results import Record, Results
from shapes_truth import PROMPTS, Asked, altered_clips, misread, true_clips
from tqdm import tqdm

from edgereel import EdgereelError, Video, cli_options, files, load
from edgereel_export.shapes import captions

__all__ = ["Job", "Maker", "jobs", "main", "result_key", "run", "self_test"]

WORDINGS = ("plain", "held-out")


class Job(NamedTuple):
    """One video to make: seed is the number of its prompt among the 90."""

    wording: str
    seed: int
    asked: Asked
    prompt: str


def jobs(wordings: Sequence[str], limit: int | None = None) -> list[Job]:
    """The videos to make; with a limit, prompts spread evenly over colours, shapes and motions."""
    order = [7 * n % len(PROMPTS) for n in range(len(PROMPTS))]  # 7 and 90 share no divisor
    numbers = sorted(order[:limit])
    return [
        Job(wording, number, PROMPTS[number], _worded(wording, number))
        for wording in wordings
        for number in numbers
    ]


def _worded(wording: str, number: int) -> str:
    if wording == "plain":
        return captions.plain(*PROMPTS[number])
    return captions.held_out(*PROMPTS[number], np.random.default_rng(number))


class Maker:
    """A loaded cascade that makes videos as `edgereel generate` does.

    Args:
        words: options of `edgereel generate` that every video gets, after the folder.
    """

    def __init__(self, folder: str, words: Sequence[str]) -> None:
        self._words = (folder, *words)
        options, _ = cli_options.generate_options(self._line(Job("", 0, PROMPTS[0], "-"), "a.mp4"))
        self._cascade = load(options.folder, backend=options.backend, threads=options.threads)

    def make(self, job: Job, path: Path) -> tuple[Video, float]:
        """The video, also written to `path`, and the seconds of both."""
        options, given = cli_options.generate_options(self._line(job, str(path)))
        started = time.monotonic()
        clip = self._cascade(mode=options.mode, noise=options.noise, params=given)
        clip.save(options.output)
        return clip, time.monotonic() - started

    def check(self, job: Job, clip: Video, folder: Path) -> Record:
        """How the mp4 of `edgereel generate` for the same job differs from the measured frames."""
        path = folder / "cli.mp4"
        command = [sys.executable, "-m", "edgereel.cli", "generate", *self._line(job, str(path))]
        done = subprocess.run([*command, "--quiet"], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
        shown = _decoded(path)
        same = shown.shape == clip.frames.shape
        error = np.square(shown.astype(np.float32) - clip.frames).mean() if same else np.inf
        return {
            "prompt": job.prompt,
            "frames": list(shown.shape),
            "same_size": same,
            "psnr_db": round(float(10 * np.log10(255**2 / max(error, 1e-3))), 2) if same else None,
            "same_measurement": measure(shown)[:3] == measure(clip.frames)[:3],
        }

    def _line(self, job: Job, path: str) -> list[str]:
        return cli_options.dashed(
            [*self._words, f"--prompt={job.prompt}", f"--seed={job.seed}", f"--output={path}"]
        )


def _decoded(path: Path) -> NDArray[np.uint8]:
    """u8 [F, H, W, 3]: the frames of an mp4."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-v", "error", "-i", path, "-f", "image2pipe", "-c:v", "ppm", "-"]
    pictures = subprocess.run(command, capture_output=True, check=True).stdout
    header = pictures[: pictures.index(b"255\n") + 4]  # the same before every frame: P6, size, 255
    width, height = map(int, header.split()[1:3])
    raw = np.frombuffer(pictures, np.uint8).reshape(-1, len(header) + height * width * 3)
    return raw[:, len(header) :].reshape(-1, height, width, 3)


def result_key(cascade: str, words: Sequence[str]) -> Record:
    """What must be equal for results to belong together: cascade, options, and the measuring."""
    plan = (Path(cascade) / "plan.json").read_bytes()  # holds the sha256 of every other file
    return {
        "plan": hashlib.sha256(plan).hexdigest(),
        "options": sorted(words),
        "measure": MEASURE_VERSION,
    }


def run(maker: Maker, wanted: Sequence[Job], results: Results, *, check: bool = True) -> None:
    """Makes and measures every video that has no result yet; `check` compares one mp4 as well."""
    left = [job for job in wanted if (job.wording, job.seed) not in results.records]
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(left), unit="video", file=sys.stderr)
    with bar, tempfile.TemporaryDirectory() as temporary:
        for job in left:
            clip, spent = maker.make(job, Path(temporary) / "clip.mp4")
            record = {
                "wording": job.wording,
                "seed": job.seed,
                "prompt": job.prompt,
                **job.asked._asdict(),
                "seen": measure(clip.frames)._asdict(),
                "seconds": spent,
                "stage_seconds": clip.metadata["seconds"],
                "frames": list(clip.frames.shape),
                "backend": clip.metadata["backend"],
                "params": {k: v for k, v in clip.metadata["params"].items() if k != "prompt"},
                "peak_rss_bytes": shapes_report.peak_rss_bytes(),
                "stills": shapes_pictures.stills(clip.frames),
            }
            results.add(record)
            if check and results.check is None:
                results.add({"check": maker.check(job, clip, Path(temporary))})
            bar.update()


def self_test() -> int:
    """0 if ground truth is measured as what it is and wrong clips are not, else 1."""
    with tqdm(total=2 * len(PROMPTS), unit="prompt", file=sys.stderr) as bar:
        found = misread(true_clips, PROMPTS, bar.update)
        found += misread(altered_clips, PROMPTS, bar.update, pixels=64, frames=16)
    print("\n".join(found) or "every clip was measured as what it is")
    print(json.dumps({"prompts": len(PROMPTS), "misread": len(found)}))
    return 1 if found else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cascade", default="engines/shapes", metavar="DIR", help="default: %(default)s")
    add("--mode", metavar="NAME", help="of the cascade (default: its first)")
    add("--wordings", choices=("plain", "held-out", "both"), default="plain")
    add("--limit", type=int, metavar="N", help="only N of the 90 prompts, evenly spread")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="as in edgereel generate")
    add("--backend", default="auto", metavar="NAME")
    add("--threads", type=int, metavar="N", help="CPU threads (default: the backend's choice)")
    add("--resume", type=Path, metavar="FILE", help="JSON lines: kept there, continued from there")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--sheet", type=Path, metavar="FILE.png", help="write a picture of all prompts")
    add("--strip", type=Path, metavar="FILE.png", help="write a picture of five prompts")
    add("--self-test", action="store_true", help="prove the measuring on clips that are known")
    options = parser.parse_args(argv)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; expected at least 1. Leave it out for all 90.")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of this command line."""
    options = _options(argv)
    if options.self_test:
        return self_test()
    command = shlex.join(
        ["python", "benchmarks/shapes_quality.py", *(sys.argv[1:] if argv is None else argv)]
    )
    try:
        _report(options, command)
    except EdgereelError as error:
        print(f"shapes_quality: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f"; {options.resume} holds what is done" if options.resume else ""
        print(f"shapes_quality: interrupted{kept}.", file=sys.stderr)
        return 130
    return 0


def _report(options: argparse.Namespace, command: str) -> None:
    """Runs what the options ask for and prints it."""
    for path in (options.resume, options.json, options.sheet, options.strip):
        if path is not None:
            files.check_place(path)  # before the long work, not after it
    words = [f"--backend={options.backend}", *(f"--set={item}" for item in options.set)]
    words += [] if options.threads is None else [f"--threads={options.threads}"]
    words += [] if options.mode is None else [f"--mode={options.mode}"]
    maker = Maker(options.cascade, words)
    wordings = WORDINGS if options.wordings == "both" else (options.wordings,)
    wanted = jobs(wordings, options.limit)
    results = Results(options.resume, result_key(options.cascade, words))
    run(maker, wanted, results)
    records = [results.records[job.wording, job.seed] for job in wanted]
    summary = _summary(records, results.check, command)
    for line in _lines(summary, records):
        print(line)
    _write(options, summary, records)
    print(json.dumps(summary))


def _summary(records: Sequence[Record], check: Record | None, command: str) -> Record:
    by_wording = {w: [r for r in records if r["wording"] == w] for w in WORDINGS}
    return {
        "quality": {w: shapes_report.quality(clips) for w, clips in by_wording.items() if clips},
        "seconds_per_video": shapes_report.seconds(records),
        "peak_rss_bytes": max(record["peak_rss_bytes"] for record in records),
        "video": records[0]["frames"],
        "backend": records[0]["backend"],
        "params": {name: v for name, v in records[0]["params"].items() if name != "seed"},
        "mp4_of_generate": check,
        "machine": shapes_report.machine(),
        "command": command,
    }


def _lines(summary: Record, records: Sequence[Record]) -> list[str]:
    """The readable report."""
    spent, check, machine = (
        summary[name] for name in ("seconds_per_video", "mp4_of_generate", "machine")
    )
    stages = ", ".join(f"{name} {value:.2f}" for name, value in spent["stages_p50"].items())
    lines = [
        *shapes_report.table(summary["quality"], records),
        "",
        f"seconds per video  mean {spent['mean']:.2f}, p50 {spent['p50']:.2f}, "
        f"p90 {spent['p90']:.2f}, max {spent['max']:.2f} ({summary['backend']}, mp4 included)",
        f"stages, p50        {stages}",
        f"peak memory        {summary['peak_rss_bytes'] / 2**20:.0f} MiB, this process with torch",
    ]
    if check is not None:
        lines.append(
            f"mp4 of generate    PSNR {check['psnr_db']} dB to the measured frames, "
            f"{'same' if check['same_measurement'] else 'NOT the same'} measurement"
        )
    return [*lines, f"machine            {machine['cpu']}, {machine['cores']} cores", ""]


def _write(options: argparse.Namespace, summary: Record, records: Sequence[Record]) -> None:
    """The files that were asked for."""
    if options.json is not None:
        clips = [{k: v for k, v in r.items() if k != "stills"} for r in records]
        with files.all_or_nothing(options.json) as temp:
            temp.write_text(json.dumps({**summary, "clips": clips}, indent=1) + "\n")
    first = [record for record in records if record["wording"] == records[0]["wording"]]
    if options.sheet is not None:
        title = f"{len(first)} prompts, seed = number of the prompt, default settings"
        if options.set:
            title = title.replace("default settings", " ".join(options.set))
        shapes_pictures.sheet(first, title, options.sheet)
    if options.strip is not None:
        shapes_pictures.strip(first, options.strip)


if __name__ == "__main__":
    sys.exit(main())
