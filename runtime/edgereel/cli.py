"""The command line: generate, batch, bench, explain, verify, doctor. The only module that prints.

Exit codes: 0 done; 1 something failed while running, or `verify` found something wrong; 2 the
command, an input or the cascade folder is wrong; 130 interrupted.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgereel import (
    __version__,
    cli_batch,
    cli_bench,
    cli_doctor,
    cli_explain,
    cli_options,
    cli_progress,
    cli_table,
    cli_verify,
    files,
    pipeline,
    plan,
    video,
)
from edgereel.errors import Cancelled, EdgereelError, InputError, PlanError

__all__ = ["main"]

_ABOUT = """usage: edgereel COMMAND ...

  generate DIR -p PROMPT -o out.mp4   make a video with the cascade in DIR
  batch DIR PROMPTS --out DIR         make a clip for every prompt of a file
  bench DIR                           measure how long it takes here, by stage
  explain DIR                         show what a cascade computes and what can be set
  verify DIR                          check that a cascade is right on this machine
  doctor                              show what this machine has and what will work

`edgereel COMMAND -h` shows the options; `edgereel generate DIR -h` also those of the cascade.
--debug with any command shows the traceback of an error; --version shows the version.
No setting comes from an environment variable."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv`, or of the one this process was started with."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _reported([word for word in words if word != "--debug"], debug="--debug" in words)
    except (KeyboardInterrupt, Cancelled) as stopped:
        kept = str(stopped) if isinstance(stopped, KeyboardInterrupt) else ""
        print(f"edgereel: interrupted; {kept or 'nothing was written.'}", file=sys.stderr)
        return 130


def generate(words: Sequence[str]) -> int:
    """`edgereel generate DIR -p PROMPT -o FILE`: flags become cascade calls and one file."""
    options, given = cli_options.generate_options(words)
    if options.help is not None:
        print(options.help)
        return 0
    if video.check_writable(options.output) == "gif" and options.times is not None:
        raise InputError(
            f"Cannot continue into {options.output}: the palette of a gif needs all frames at "
            "once. Expected .mp4, or a name without suffix for PNG frames. Change the name."
        )
    if options.metadata is not None:
        files.check_place(Path(options.metadata))
    started = time.monotonic()
    cascade = cli_options.load(options)
    if not options.quiet:
        print(f"backend {cascade.reason}", file=sys.stderr)
    shown = options.progress or (sys.stderr.isatty() and not options.quiet)
    with cli_progress.ProgressBar(sys.stderr, bar=shown) as bar:
        callback = (
            None
            if options.quiet and not options.progress
            else cli_progress.with_memory(cascade, bar)
        )
        call = {"mode": options.mode, "callback": callback, "noise": options.noise, "params": given}
        if options.times is None:
            clips = iter([cascade(**call)])
        else:
            clips = cascade.continued(times=options.times, **call)
        about, first = _write(clips, options, bar)
    for warning in first["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{options.output}: {about}, made in {time.monotonic() - started:.1f} s, "
        f"seed {first['seed']}, backend {first['backend']}"
    )
    return 0


def _write(
    clips: Iterator[pipeline.Video], options: argparse.Namespace, bar: cli_progress.ProgressBar
) -> tuple[str, dict[str, Any]]:
    """Writes clips into one file while they are made: what is in it, and the first's metadata.

    Whatever stops a clip but the first leaves the file with those before it, and the user is told.
    """
    clip = next(clips)
    height, width = clip.frames.shape[1:3]
    size = f"{width} x {height}, {clip.fps:g} fps"
    out, made = video.Writer(options.output, clip.fps), list[dict[str, Any]]()
    try:
        with out, suppress(StopIteration):
            while True:
                made.append(clip.metadata)
                out.add(clip.frames)
                del clip  # before the next is made
                clip = next(clips)
    except BaseException as error:
        if not out.parts:
            raise
        kept = f"{len(out.parts)} of {1 + (options.times or 0)} clips, {sum(out.parts)} frames"
        _write_metadata(made[: len(out.parts)], options)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{options.output} has {kept}.") from None
        bar.clear()
        print(f"{options.output} has {kept}.", file=sys.stderr)
        raise
    _write_metadata(made, options)
    number = f"{sum(out.parts)} frames" + (f" in {len(made)} clips" if len(made) > 1 else "")
    return f"{number}, {size}", made[0]


def _write_metadata(made: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """What was done, as JSON where the user wants it: of one clip, or of a list of them."""
    if options.metadata is not None:
        content = made[0] if options.times is None else {"clips": made}
        _write_json(Path(options.metadata), content)


def explain(words: Sequence[str]) -> int:
    """`edgereel explain DIR`: the plan as text."""
    parser = cli_options.Parser("edgereel explain", description="Show what a cascade computes.")
    parser.add_argument("folder", metavar="DIR", help="the cascade folder")
    parser.add_argument("--mode", help="the mode to show (default: the first)")
    options = parser.parse_args(words)
    print(cli_explain.explain(plan.load(options.folder), options.mode))
    return 0


def doctor(words: Sequence[str]) -> int:
    """`edgereel doctor`: what this machine has, what will work, what to install."""
    parser = cli_options.Parser("edgereel doctor", description="Show what will work here.")
    parser.parse_args(words)
    print("\n".join(cli_table.table(cli_doctor.doctor(), indent="")))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "generate": generate,
    "batch": cli_batch.run,
    "bench": cli_bench.run,
    "explain": explain,
    "verify": cli_verify.run,
    "doctor": doctor,
}


def _reported(words: Sequence[str], *, debug: bool) -> int:
    """The exit code of a command whose errors, if any, were printed as one message."""
    try:
        code = _command(words)
        sys.stdout.flush()  # a closed pipe shows here, not at exit
        return code
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Cancelled:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"edgereel: error: {_sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, InputError | PlanError) else 1


def _command(words: Sequence[str]) -> int:
    """Runs the command that the first word names."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(_ABOUT)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"edgereel {__version__}")
        return 0
    if words[0] not in COMMANDS:
        building = "Cascades are built and compiled by `python export/build.py`. "
        raise InputError(
            f"There is no command {words[0]!r}. Expected one of {', '.join(COMMANDS)}. "
            f"{building if words[0] in ('build', 'compile', 'export') else ''}"
            "`edgereel -h` says what each one does."
        )
    with _terminable():
        return COMMANDS[words[0]](cli_options.dashed(words[1:]))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, as `timeout` and batch systems send it, cleans up and ends like Ctrl-C."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns the process decides
        yield
        return
    try:
        yield
    finally:
        if not stopped:  # else the process ends, and a second one may still come
            signal.signal(signal.SIGTERM, before)


def _write_json(path: Path, content: object) -> None:
    with files.all_or_nothing(path) as temp:
        temp.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _sentence(error: Exception) -> str:
    """One message for any error: ours as they are, a bug named as one."""
    if isinstance(error, EdgereelError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({error}). Close other programs, or ask for fewer frames."
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"unexpected {text}. This is a bug: please report it with the output of --debug."


if __name__ == "__main__":
    sys.exit(main())
