"""`python export/build.py`: trained stages to a cascade folder, and a folder to engines.

    build.py shapes                          the small trained cascade that comes with Edgereel
    build.py make-a-video --checkpoint DIR   your own stages, or Karlo in diffusers' layout
    build.py text2video-zero --checkpoint DIR
                                             any Stable Diffusion 1.x in diffusers' layout
    build.py lavie --checkpoint DIR          LaVie as it was published
    build.py emu-video --checkpoint DIR      your own layers over frames, as Emu Video has them
    build.py compile engines/NAME            TensorRT engines for a folder that is there already

Exit codes: 0 done; 1 something failed; 2 the command or a checkpoint is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edgereel.errors import Cancelled, EdgereelError, InputError, OutputError, PlanError

from .cli_options import parser

__all__ = ["main"]

_SHORT = {"shapes": ("make-a-video", "shapes")}  # command word: system and --size


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv`, or of this process's."""
    options = parser(__doc__).parse_args(argv)
    try:
        _run(options)
    except (KeyboardInterrupt, Cancelled):
        print("build.py: interrupted; nothing unfinished was left.", file=sys.stderr)
        return 130
    except EdgereelError as error:
        if options.debug:
            traceback.print_exc()
        print(f"build.py: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError | PlanError) else 1
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.system == "compile":
        if options.folder is None:
            raise InputError(
                "compile needs a cascade folder, for example `build.py compile engines/shapes`."
            )
        given = ("checkpoint", "size", "out", "lora", "controlnet", "mode", "temporal")
        _refuse(options, *given, "super-res-high")
        _compile(options.folder, options)
        return
    if options.folder is not None:
        raise InputError(
            f"unexpected argument {str(options.folder)!r}; only compile takes a folder. "
            f"Use --checkpoint for trained stages and --out for the folder to write."
        )
    out = _export(options)
    if options.backend == "trt":
        _compile(out, options)


def _refuse(options: argparse.Namespace, *names: str) -> None:
    """Refuses options that the command word would ignore."""
    for name in names:
        value = getattr(options, name.replace("-", "_"))
        if value not in (None, []):
            raise InputError(
                f"--{name} {value} has no meaning with {options.system}; expected "
                f"it with a system and its checkpoint. Drop it."
            )


def _export(options: argparse.Namespace) -> Path:
    """The folder of the exported cascade."""
    from .chosen import choose, read_defaults
    from .folder import check_out, write_folder
    from .systems import system
    from .systems.extras import read_extras

    if options.system in _SHORT:
        _refuse(options, "checkpoint", "size")
    name, size = _SHORT.get(options.system, (options.system, options.size))
    module = system(name)
    checkpoint = _checkpoint(options.checkpoint, size, module.CHECKPOINTS)
    given = checkpoint.stem if checkpoint.is_file() else checkpoint.name
    label = options.system if options.system in _SHORT else f"{name}-{size or given}"
    out: Path = options.out or Path("engines") / label
    _make_folder(out.parent)
    check_out(out)  # before a long load
    extras = read_extras(
        options.lora, options.controlnet, options.mode, options.temporal, options.super_res_high
    )
    cascade = module.load(checkpoint, extras)
    modes = choose(cascade.modes(), options.mode, read_defaults(checkpoint))
    with tqdm(unit="graph", desc="export") as bar:

        def progress(graph: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_postfix_str(graph, refresh=False)
            bar.update(done - bar.n)

        write_folder(cascade, out, name=label, system=name, modes=modes, progress=progress)
    print(f"{out}: cascade {label}, ready for `edgereel generate {out}`")
    return out


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {folder} cannot be made ({error.strerror}); expected a place to write "
            f"the cascade to. Choose another --out."
        ) from None


def _checkpoint(given: Path | None, size: str | None, own: dict[str, Path]) -> Path:
    if given is not None and size is not None:
        raise InputError("--checkpoint and --size exclude each other. Give one of them.")
    if given is not None:
        if not given.exists():  # a file is told apart by the system
            raise InputError(
                f"--checkpoint {given} is no folder; expected the top folder of trained stages. "
                f"Correct the path; one on a hub is downloaded before, for example with "
                f"`hf download NAME --local-dir DIR`."
            )
        return given
    if size in own:
        if not own[size].exists():
            raise InputError(
                f"--size {size} has no checkpoint at {own[size]}; expected a clone of Edgereel, as "
                f"installed packages leave it out. Run `python export/build.py` in a clone."
            )
        return own[size]
    known = f"one of {', '.join(own)}, or " if own else ""
    raise InputError(
        f"--size is {size or 'missing'}; expected {known}--checkpoint DIR with your own trained "
        f"stages. Give one of them."
    )


def _compile(folder: Path, options: argparse.Namespace) -> None:
    """Engines for every graph of a folder, in two builds where some have the plugin."""
    from edgereel.backends.trt_library import library

    from .trt import Options
    from .trt_graphs import chosen
    from .trt_plugin import check

    capabilities = tuple(options.compute_capability) if options.compute_capability else None
    wanted = Options(
        precision=options.precision,
        compute_capabilities=capabilities,
        workspace_mib=options.workspace,
        optimization_level=options.optimization_level,
        weight_streaming=options.weight_streaming,
        sizes=tuple(options.profile),
        buckets=tuple(options.bucket),
        refit=tuple(options.refit_weights) or (("*",) if options.refit else ()),
        layout=options.layout,
        ranges=not options.no_ranges,
    )
    if not options.plugin:
        _compile_part(folder, wanted, None)
        return
    check(library())  # before anything is compiled
    named = chosen(folder, options.plugin, plugin=True)
    rest = [name for name in chosen(folder) if name not in named]
    if rest:
        _compile_part(folder, wanted, rest)
    _compile_part(folder, replace(wanted, plugin=True), named)


def _compile_part(folder: Path, wanted: Any, graphs: list[str] | None) -> None:
    """One build, with a progress bar, then the report table."""
    from .trt import build
    from .trt_report import table

    with tqdm(total=100, unit="%", desc="compile", bar_format=_BAR) as bar:
        result = build(folder, wanted, graphs=graphs, progress=_shown(bar))
    print(table(result.build))
    if result.cached:
        print("nothing to compile: this build was there already")


_BAR = "{desc}: {n:.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


def _shown(bar: tqdm[Any]) -> Callable[[Any], None]:
    def progress(state: Any) -> None:
        bar.set_postfix_str(f"{state.graph} {state.phase}", refresh=False)
        bar.update(100 * state.done - bar.n)

    return progress


if __name__ == "__main__":
    sys.exit(main())
