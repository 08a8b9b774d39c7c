"""The modes that a cascade folder is to have, with the defaults that suit its checkpoint.

A checkpoint may have a defaults.json: `{"param": value}`, defaults in place of the published ones
for every mode that has the param. It is for what a training recommends: guidance, steps, sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from edgereel.errors import InputError
from edgereel.params import checked
from edgereel.plan import Mode, VideoParam
from edgereel_export.checkpoints import read_json

__all__ = ["choose", "read_defaults"]

_FILE = "defaults.json"


def read_defaults(checkpoint: Path) -> dict[str, object]:
    """The defaults of a checkpoint folder, by param; none without a defaults.json.

    Raises:
        InputError: the file holds no JSON object.
    """
    path = checkpoint / _FILE
    return read_json(path) if path.is_file() else {}


def choose(
    modes: Mapping[str, Mode], wanted: Collection[str] = (), defaults: Mapping[str, object] = {}
) -> dict[str, Mode]:
    """The wanted modes, all if none is named, with defaults changed; the first is the default one.

    With modes named, defaults may be of others, whose parts were then perhaps not read.

    Raises:
        InputError: there is no such mode, or no such param, or it cannot have that value.
    """
    if unknown := sorted(set(wanted) - modes.keys()):
        raise InputError(
            f"--mode {unknown[0]}: this checkpoint has no such mode; expected one of "
            f"{', '.join(modes)}. Choose from these, or leave it out for all."
        )
    known = {
        name
        for mode in modes.values()
        for name, param in mode.params.items()
        if not isinstance(param, VideoParam)  # which is always given
    }
    unknown = [] if wanted else sorted(defaults.keys() - known)
    if unknown:
        raise InputError(
            f"checkpoint: {_FILE} names {unknown[0]!r}, which no mode has; expected some of "
            f"{', '.join(sorted(known))}. Correct the file."
        )
    return {name: _changed(modes[name], defaults) for name in dict.fromkeys(wanted) or modes}


def _changed(mode: Mode, defaults: Mapping[str, object]) -> Mode:
    """A mode with other defaults."""
    params = dict(mode.params)
    for name in defaults.keys() & params.keys():
        value = checked(f"checkpoint: {name} in {_FILE}", params[name], defaults[name])
        params[name] = msgspec.structs.replace(params[name], default=value)
    return msgspec.structs.replace(mode, params=params)
