"""What a user gave, as the params of a mode: spellings, types, ranges, defaults."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgereel.errors import InputError
from edgereel.plan import (
    ChoiceParam,
    FloatParam,
    IntParam,
    Mode,
    Param,
    TextParam,
    VideoParam,
)

__all__ = ["ParamValue", "checked", "fill_params"]

ParamValue = str | int | float | NDArray[Any]
LARGEST = float(np.finfo(np.float32).max)


def fill_params(mode: Mode, given: Mapping[str, object]) -> dict[str, ParamValue]:
    """A value for every param of the mode, in the plan's order.

    Args:
        mode: whose params these are.
        given: by name or alias; None counts as not given.

    Raises:
        InputError: an unknown name, two spellings of one param, a missing param, or a value of
            the wrong type or out of range.
    """
    owners = {word: name for name, param in mode.params.items() for word in (name, *param.aliases)}
    values: dict[str, object] = {}
    spelled: dict[str, str] = {}
    for word, value in given.items():
        if word not in owners:
            raise _unknown(word, mode)
        if value is None:
            continue
        name = owners[word]
        if name in spelled:
            raise InputError(
                f"{word} and {spelled[name]} are the same setting and both are given; expected "
                f"one. Drop one of them."
            )
        spelled[name], values[name] = word, value
    return {
        name: checked(spelled.get(name, name), param, values.get(name))
        for name, param in mode.params.items()
    }


def _unknown(word: str, mode: Mode) -> InputError:
    words = [*mode.params, *(alias for param in mode.params.values() for alias in param.aliases)]
    close = difflib.get_close_matches(word, words, n=1)
    hint = f"Did you mean {close[0]}?" if close else "Drop it, or use one of these."
    return InputError(f"there is no param {word!r}; expected one of {', '.join(words)}. {hint}")


def checked(word: str, param: Param, value: object) -> ParamValue:
    """`value` in the type of the param, or its default if it is None.

    Raises:
        InputError: beginning with `word`; it is missing, of another type or out of range.
    """
    value = param.default if value is None else value
    if value is None:
        about = f" ({param.description})" if param.description else ""
        raise InputError(f"{word}{about} is missing; expected {_kind(param)}. Give it a value.")
    match param:
        case TextParam():
            return _text(word, param, value)
        case IntParam():
            return int(_number(word, param, value))
        case FloatParam():
            return float(_number(word, param, value))
        case ChoiceParam():
            if value in param.choices:
                return str(value)
            raise InputError(
                f"{word} is {value!r}; expected one of {', '.join(param.choices)}. Choose one."
            )
        case VideoParam():
            return _video(word, param, value)


def _text(word: str, param: TextParam, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(
            f"{word} is a {type(value).__name__}; expected a text. Put it into quotation marks."
        )
    if param.default is None and not value.strip():
        raise InputError(
            f"{word} is empty; expected a description of the video. Say in a few words what "
            f"should be seen, for example 'a red circle moving right'."
        )
    return value


def _video(word: str, param: VideoParam, value: object) -> str | NDArray[Any]:
    """A path or an array; it is read when the call begins."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str | Path) and str(value).strip():
        return str(value)
    found = "empty" if isinstance(value, str) else f"a {type(value).__name__}"
    raise InputError(
        f"{word} is {found}; expected {_kind(param)}. Give its path, or a numpy array."
    )


def _number(word: str, param: IntParam | FloatParam, value: object) -> int | float:
    kind = _kind(param)
    number = _as_number(value)
    whole = isinstance(param, FloatParam) or number % 1 == 0
    # Whatever is beyond float32 would reach a graph as infinity.
    if not abs(number) <= LARGEST or not whole:
        raise InputError(f"{word} is {value!r}; expected {kind}. Give a number of that kind.")
    low, high = param.min, param.max
    if (low is not None and number < low) or (high is not None and number > high):
        raise InputError(f"{word} is {value}; expected {kind}. Choose a number in that range.")
    if isinstance(param, IntParam) and number % param.multiple:
        near = round(number / param.multiple) * param.multiple
        raise InputError(f"{word} is {value}; expected {kind}. Choose, for example, {near}.")
    return number


def _as_number(value: object) -> int | float:
    """`value` as Python's number, NaN for what is none; True and "7" are none."""
    if isinstance(value, (bool, np.bool_)):
        return math.nan
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    return math.nan


def _kind(param: Param) -> str:
    """What a param takes, for the middle of a sentence."""
    match param:
        case TextParam():
            return "a text"
        case ChoiceParam():
            return "one of " + ", ".join(param.choices)
        case VideoParam():
            return "a video file, a folder of PNG or JPEG pictures, or an .npz of frames"
        case IntParam(min=low, max=high) | FloatParam(min=low, max=high):
            kind = "a whole number" if isinstance(param, IntParam) else "a number"
            if isinstance(param, IntParam) and param.multiple > 1:
                kind = f"a multiple of {param.multiple}"
            if low is not None and high is not None:
                return f"{kind} from {low} to {high}"
            if low is not None:
                return f"{kind} of at least {low}"
            return f"{kind} of at most {high}" if high is not None else kind
