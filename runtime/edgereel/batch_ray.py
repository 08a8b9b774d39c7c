"""The clips of `edgereel batch` on the machines of a Ray cluster, by Ray Data.

Every worker of the cluster loads the cascade once and makes clips until none are left; the cascade
and the output must be in folders that all machines see. Ray does what a cluster needs: where work
goes, machines that come and go, a worker that died.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from typing import Any

from edgereel import batch
from edgereel.errors import BackendUnavailable

__all__ = ["outcomes"]

_MOST_BLOCKS = 1000  # pieces of the work; Ray gives them out one after the other
Make = Callable[[argparse.Namespace, batch.Clip, Any], batch.Outcome]


def outcomes(
    todo: Sequence[batch.Clip],
    options: argparse.Namespace,
    load: Callable[[argparse.Namespace], Any],
    make: Make,
) -> Generator[batch.Outcome, None, None]:
    """What comes of every clip, in the order in which they are finished.

    Args:
        todo: the clips.
        options: of `edgereel batch`: `workers`, `threads` and `gpus` of each worker, and whatever
            `load` and `make` read; paths in it are absolute.
        load: makes the cascade of a worker.
        make: makes one clip.

    Raises:
        BackendUnavailable: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise BackendUnavailable(
            "Ray is not installed; --ray needs it on every machine. Run `pip install "
            "'edgereel[ray]'`."
        ) from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"name": clip.name, "params": json.dumps(clip.params)} for clip in todo]
    made = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map(
        _Worker,
        fn_constructor_args=(options, load, make),
        concurrency=options.workers,
        num_cpus=options.threads or 1,
        num_gpus=options.gpus,
    )
    for row in made.iter_rows():
        yield batch.Outcome(**row)


class _Worker:
    """One process of the cluster, with its cascade."""

    def __init__(
        self, options: argparse.Namespace, load: Callable[[argparse.Namespace], Any], make: Make
    ) -> None:
        self._options, self._make, self._cascade = options, make, load(options)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        clip = batch.Clip(row["name"], json.loads(row["params"]))
        return asdict(self._make(self._options, clip, self._cascade))
