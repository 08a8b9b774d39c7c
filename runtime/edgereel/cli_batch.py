"""`edgereel batch`: every prompt of a file, by one process or several on this machine."""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

from edgereel import batch, batch_ray, cli_options, pipeline
from edgereel.cli_progress import clock
from edgereel.errors import EngineError, InputError
from edgereel.files import all_or_nothing, check_place

__all__ = ["FAILED", "run"]

FAILED = "failed.jsonl"  # in the output folder: a line per clip that could not be made
_KINDS = {"mp4": ".mp4", "gif": ".gif", "png": ""}
_loaded: pipeline.Cascade  # of a worker process


def run(words: Sequence[str]) -> int:
    """0 if every clip is there, 1 if some could not be made."""
    options, given = _options(words)
    if options.help is not None:
        print(options.help)
        return 0
    todo = batch.clips(
        Path(options.prompts), given, samples=options.samples, by_prompt=options.names == "prompt"
    )
    out = Path(options.out)
    check_place(out)
    out.mkdir(exist_ok=True)
    (out / FAILED).unlink(missing_ok=True)
    started, made, failed = time.monotonic(), 0, list[batch.Outcome]()
    try:
        with closing(_outcomes(todo, options)) as outcomes:
            for number, outcome in enumerate(outcomes, 1):
                made += not outcome.skipped
                failed += [outcome] if outcome.error else []
                if not options.quiet:
                    left = (time.monotonic() - started) / max(made, 1) * (len(todo) - number)
                    print(_line(outcome, number, len(todo), left), file=sys.stderr)
                if outcome.error:
                    _write_failed(out / FAILED, failed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"what is finished is in {out}; --resume goes on with the rest."
        ) from None
    there = len(todo) - len(failed)
    print(
        f"{out}: {there} of {len(todo)} clips, {made} made in {clock(time.monotonic() - started)}"
    )
    if failed:
        print(f"{len(failed)} could not be made, see {out / FAILED}", file=sys.stderr)
    return 1 if failed else 0


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """The options, with `help` as in cli_options, and the params of all clips."""
    parser = cli_options.cascade_parser(
        "batch",
        "DIR PROMPTS --out DIR [options]",
        "Make a clip for every prompt of a file. Engines stay loaded; a clip that cannot be made "
        "does not stop the rest.",
    )
    add = parser.add_argument
    add("prompts", metavar="PROMPTS", nargs="?", help="one on each line, or .jsonl with params")
    add("--out", metavar="DIR", help="where the clips and their metadata go")
    add("--samples", type=int, default=1, metavar="N", help="clips of every prompt (default 1)")
    add("--format", choices=tuple(_KINDS), default="mp4", help="of the clips (default mp4)")
    add("--names", choices=("line", "prompt"), default="line",
        help="clips are named by line, or by prompt and sample as VBench wants them")  # fmt: skip
    add("--resume", action="store_true", help="leave clips that are whole as they are")
    add("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    add("--ray", action="store_true",
        help="let workers run on a Ray cluster (RAY_ADDRESS, or one on this machine), each with "
        "--threads CPUs; folders must be seen by all")  # fmt: skip
    add("--gpus", type=float, default=0, metavar="N",
        help="GPUs of each worker of a Ray cluster (default 0)")  # fmt: skip
    add("--quiet", action="store_true", help="no line per clip")
    options, given = cli_options.cascade_options(parser, words)
    if options.help is None:
        for what, value in (("PROMPTS", options.prompts), ("--out", options.out)):
            if value is None:
                raise InputError(
                    f"No {what} is given. Expected `edgereel batch DIR PROMPTS --out DIR`. Add it."
                )
        if options.workers < 1:
            raise InputError(f"--workers is {options.workers}; expected at least 1. Correct it.")
    return options, given


def _outcomes(
    todo: Sequence[batch.Clip], options: argparse.Namespace
) -> Generator[batch.Outcome, None, None]:
    """What comes of every clip, in the order in which they are finished."""
    if options.ray:
        options.folder, options.out = (
            str(Path(p).resolve()) for p in (options.folder, options.out)
        )
        yield from batch_ray.outcomes(todo, options, cli_options.load, _make)
        return
    if options.workers == 1:
        cascade = cli_options.load(options)
        yield from (_make(options, clip, cascade) for clip in todo)
        return
    if options.threads is None:
        options.threads = max((os.cpu_count() or 1) // options.workers, 1)
    cli_options.load(options)  # what is wrong with it is said here, once
    context = multiprocessing.get_context("spawn")  # ONNX Runtime does not survive a fork
    pool = ProcessPoolExecutor(options.workers, context, _start, (options,))
    try:
        for done in as_completed([pool.submit(_make, options, clip) for clip in todo]):
            yield done.result()
    except BrokenProcessPool:
        raise EngineError(
            f"a process of {options.workers} ended before its clip was done, perhaps for want of "
            "memory; expected room for all. Use fewer --workers, and --resume for the rest."
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start(options: argparse.Namespace) -> None:
    global _loaded
    _loaded = cli_options.load(options)


def _make(
    options: argparse.Namespace, clip: batch.Clip, cascade: pipeline.Cascade | None = None
) -> batch.Outcome:
    cascade = cascade or _loaded
    target = Path(options.out) / f"{clip.name}{_KINDS[options.format]}"
    if options.resume and batch.is_done(cascade, clip, target, options.mode):
        return batch.Outcome(clip.name, skipped=True)
    return batch.make(cascade, clip, target, options.mode)


def _line(outcome: batch.Outcome, number: int, count: int, left: float) -> str:
    told = f"{outcome.seconds:.1f} s"
    if outcome.skipped:
        told = "is there"
    elif outcome.error:
        told = f"failed: {outcome.error}"
    return f"[{number}/{count}] {outcome.name}: {told}, {clock(left)} left"


def _write_failed(path: Path, failed: Sequence[batch.Outcome]) -> None:
    with all_or_nothing(path) as new:
        rows = ({"name": one.name, "error": one.error} for one in failed)
        new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
