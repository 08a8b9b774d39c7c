"""Writes a cascade folder: graphs, schedules, tokenizer, golden vectors and plan.json."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgereel import plan
from edgereel.errors import OutputError
from edgereel.files import all_or_nothing, check_place, sha256

from .graph import export, fitting
from .shared_weights import SharedWeights
from .systems import Cascade

__all__ = ["check_out", "write_folder"]


def write_folder(
    cascade: Cascade,
    out: Path,
    *,
    name: str,
    system: str,
    modes: Mapping[str, plan.Mode] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> plan.Plan:
    """The plan of `cascade`, written with everything it needs as the folder `out`.

    The folder appears whole. A folder that is already there is replaced only if it is a cascade
    folder; its builds/ stay, since their keys say whether they still fit.

    Args:
        cascade: the loaded stages.
        out: the folder to make.
        name: name of the cascade.
        system: name of the system.
        modes: those of the cascade that are kept, with the graphs they use; None = all.
        progress: called with (graph, graphs done, graphs in all).

    Raises:
        InputError: the stages do not fit together.
        OutputError: `out` cannot be written, or is something else than a cascade folder.
        EngineError: a graph differs from PyTorch.
    """
    check_out(out)
    with all_or_nothing(out) as folder:
        graphs, weights = {}, SharedWeights()
        with fitting("the cascade"):
            modes = modes or cascade.modes()
            used = {
                op.graph
                for op in plan.ops(modes.values())
                if isinstance(op, plan.Run | plan.Denoise)
            }
            sources = {key: graph for key, graph in cascade.graphs().items() if key in used}
        for done, (key, graph) in enumerate(sources.items()):
            progress(key, done, len(sources))
            graphs[key] = export(graph, key, folder, weights)
        progress("", len(sources), len(sources))
        schedules = {}
        (folder / "schedules").mkdir()
        for key, table in cascade.schedules().items():
            np.save(folder / "schedules" / f"{key}.npy", table, allow_pickle=False)
            schedules[key] = plan.ScheduleSpec(file=f"schedules/{key}.npy")
        tokenizers = {}
        for key, tokens in cascade.tokenizers.items():
            file = f"tokenizer-{key}.json"
            (folder / file).write_text(tokens.json, encoding="utf-8")
            tokenizers[key] = plan.TokenizerSpec(
                file=file, length=tokens.length, pad_id=tokens.pad_id
            )
        document = plan.Document(
            format=plan.FORMAT,
            name=name,
            system=system,
            files=_hashes(folder),
            graphs=graphs,
            schedules=schedules,
            tokenizers=tokenizers,
            modes=dict(modes),
        )
        (folder / "plan.json").write_bytes(plan.encode(document))
        if (out / "builds").is_dir():
            shutil.copytree(out / "builds", folder / "builds", copy_function=_link)
    return plan.load(out)


def check_out(out: Path) -> None:
    """Refuses, before any work, a place where no cascade folder can be made.

    Raises:
        OutputError: it cannot be written, or is something else than a cascade folder.
    """
    if out.exists() and not (out / "plan.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise OutputError(
            f"{out} exists and is no cascade folder (it has no plan.json); expected a new path or "
            f"a cascade folder to replace. Choose another --out."
        )
    check_place(out)


def _link(source: str, target: str) -> str:
    """A second name for a file, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
