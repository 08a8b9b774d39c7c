"""`edgereel verify`: is a cascade right here? As a table, as JSON, as a page with pictures."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgereel import (
    checks,
    cli_doctor,
    cli_flags,
    cli_options,
    cli_progress,
    pipeline,
    plan,
    report,
    report_page,
    trace,
)
from edgereel.errors import BackendUnavailable, EngineError, InputError
from edgereel.files import all_or_nothing, check_place

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """0 if all is right here, 1 if it falls short; prints a table and, last, the verdict."""
    options, given = _options(words)
    if options.help is not None:
        print(options.help)
        return 0
    for place in (options.json, options.html, options.save_golden):
        if place is not None:
            check_place(Path(place))
    cascade = cli_options.load(options)
    names = _names(options.graph, cascade.plan)
    golden = _golden(options, given, cascade) if names is None and options.run else None
    print(f"graphs, backend {cascade.reason}", file=sys.stderr)
    graphs = list(checks.graphs(cascade.plan, cascade.backend, options.tolerance, names))
    wanted = cascade.plan.graphs if names is None else names
    found = report.Report(
        command=shlex.join(["edgereel", "verify", *words]),
        plan=cascade.plan,
        run=None if golden is None else _compared(options, cascade, golden),
        backend={"backend": cascade.reason, **cascade.backend.describe()},
        machine=[(subject, told) for subject, told, _ in cli_doctor.doctor() if subject],
        graphs=graphs,
        unchecked=[name for name in wanted if cascade.plan.graphs[name].golden is None],
    )
    print("\n".join(report.lines(found)))
    if options.json is not None:
        told = json.dumps(report.document(found), indent=1, allow_nan=False)
        _write(Path(options.json), told + "\n")
    if options.html is not None:
        _write(Path(options.html), report_page.page(found))
    return 1 if found.short else 0


def _options(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """The options, with `help` as in cli_options, and the params of the run."""
    parser = cli_options.cascade_parser(
        "verify",
        "DIR [options]",
        "Check that a cascade is right on this machine: every graph on its reference inputs, then "
        "a run beside one by ONNX Runtime on the CPU as exported, with the same noise. "
        "Exit code 1: it falls short.",
    )
    add = parser.add_argument
    add("--tolerance", type=float, metavar="SHARE", help="error allowed in a graph, as a share of "
        "the reference's largest magnitude (default: by precision)")  # fmt: skip
    add("--json", metavar="FILE", help="write the report there as JSON")
    add("--html", metavar="FILE", help="write the report there as one page, with frames")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--graph", action="append", metavar="NAME", help="check this graph alone, "
                     "without a run; may be given again")  # fmt: skip
    one.add_argument("--no-run", dest="run", action="store_false", help="check the graphs alone")
    one.add_argument("--golden", metavar="FILE", help="compare with the run in this file instead")
    one.add_argument("--save-golden", metavar="FILE.npz", help="keep the run compared with, for "
                     "--golden where that takes long; a video given must be there too")  # fmt: skip
    return cli_options.cascade_options(parser, words)


def _names(asked: Sequence[str] | None, of: plan.Plan) -> Sequence[str] | None:
    for name in asked or ():
        if name not in of.graphs:
            raise InputError(
                f"--graph {name!r}: the cascade has no such graph; expected one of "
                f"{', '.join(of.graphs)}. Correct the name."
            )
        if of.graphs[name].golden is None:
            raise InputError(
                f"--graph {name!r}: it has no reference vectors to compare with; expected a graph "
                f"that has. Leave --graph away: a run compares this one too."
            )
    return asked


def _golden(
    options: argparse.Namespace, given: Mapping[str, object], cascade: pipeline.Cascade
) -> trace.Trace:
    """The run to compare with: of a file, or made now."""
    if options.golden is not None:
        if given or options.mode is not None:
            raise InputError(
                f"--golden {options.golden} brings mode and parameters of its run; expected none "
                f"besides ({', '.join(given) or '--mode'}). Leave them away."
            )
        return trace.load(Path(options.golden), cascade.plan)
    try:
        exact = pipeline.load(options.folder, backend="ort", threads=options.threads, kernels=False)
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"{error} A run is compared with one by ONNX Runtime on the CPU: install that, take "
            f"a run from another machine (--golden), or check the graphs alone (--no-run)."
        ) from None
    name, mode = cli_flags.pick_mode(cascade.plan, options.mode)
    golden = _recorded(options, exact, name, cli_flags.with_prompt(mode, given))
    if golden.failed:
        raise EngineError(golden.failed)
    if options.save_golden is not None:
        trace.save(golden, cascade.plan, Path(options.save_golden))
    return golden


def _compared(
    options: argparse.Namespace, cascade: pipeline.Cascade, golden: trace.Trace
) -> report.Run:
    """The same run on the asked backend, beside the golden one."""
    here = _recorded(options, cascade, golden.mode, golden.params)
    steps = checks.steps(cascade.plan, here, golden)
    frames = None if here.failed else checks.frames(cascade.plan, here, golden)
    return report.Run(here, golden, steps, frames)


def _recorded(
    options: argparse.Namespace, cascade: pipeline.Cascade, mode: str, params: Mapping[str, object]
) -> trace.Trace:
    print(f"a run, backend {cascade.reason}", file=sys.stderr)
    try:
        with cli_progress.ProgressBar(sys.stderr, bar=sys.stderr.isatty()) as bar:
            return trace.record(cascade, mode, params, bar, low_vram=options.low_vram)
    except InputError as error:
        raise InputError(f"{error} Or check the graphs alone, without a run: --no-run.") from None


def _write(place: Path, text: str) -> None:
    with all_or_nothing(place) as temp:
        temp.write_text(text, encoding="utf-8")
