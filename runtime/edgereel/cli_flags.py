"""The params of a plan's mode as command-line flags, and what was typed as values."""

import argparse
from collections.abc import Mapping, Sequence

from edgereel.errors import InputError
from edgereel.plan import (
    ChoiceParam,
    FloatParam,
    IntParam,
    Mode,
    Param,
    Plan,
    TextParam,
    VideoParam,
)

__all__ = ["PROMPT", "add_flags", "describe", "flags", "pick_mode", "values", "with_prompt"]

PROMPT = "a red circle moving right"  # where a command makes a video and none is given

# Single letters, for params that every text-to-video tool spells the same way.
_SHORT = {"prompt": "-p", "negative_prompt": "-n"}
# Our own options of `generate`; a param of such a name is reached through --set only.
_RESERVED = frozenset(
    ("help", "output", "mode", "continue", "backend", "threads", "noise", "metadata", "set")
) | {"quiet", "progress", "debug", "low_vram", "kernels", "no_kernels"}


def pick_mode(plan: Plan, name: str | None) -> tuple[str, Mode]:
    """The named mode of the plan, or its first.

    Raises:
        InputError: the plan has no mode of this name.
    """
    if name is None:
        return next(iter(plan.modes.items()))
    if name not in plan.modes:
        raise InputError(
            f"{plan.name} has no mode {name!r}. Its modes are {', '.join(plan.modes)}. "
            "Choose one of these, or leave --mode away for the first."
        )
    return name, plan.modes[name]


def with_prompt(mode: Mode, given: Mapping[str, object]) -> dict[str, object]:
    """What was given, and PROMPT where the mode takes a prompt and none was."""
    asked = "prompt" in mode.params and "prompt" not in given
    return {**({"prompt": PROMPT} if asked else {}), **given}


def flags(name: str, param: Param) -> list[str]:
    """The spellings of a param on the command line; empty when only --set reaches it."""
    short = [_SHORT[name]] if name in _SHORT else []
    return short + list(dict.fromkeys("--" + w.replace("_", "-") for w in _words(name, param)))


def _words(name: str, param: Param) -> list[str]:
    """The names of a param that can be flags; the first is the one that messages use."""
    return [w for w in (name, *param.aliases) if "." not in w and w not in _RESERVED]


def describe(param: Param) -> str:
    """The values a param takes and its default, for example `int 1..1000, default 25`."""
    if isinstance(param, ChoiceParam):
        kind = "one of " + ", ".join(param.choices)
    elif isinstance(param, TextParam):
        kind = "text"
    elif isinstance(param, VideoParam):
        kind = "video, folder of pictures or .npz"
    else:
        kind = "int" if isinstance(param, IntParam) else "number"
        if param.min is not None or param.max is not None:
            kind += f" {_plain(param.min)}..{_plain(param.max)}"
        if isinstance(param, IntParam) and param.multiple > 1:
            kind += f", multiple of {param.multiple}"
    if param.default is None:
        return f"{kind}, required"
    return f"{kind}, default {_plain(param.default)}"


def add_flags(parser: argparse.ArgumentParser, mode_name: str, mode: Mode) -> None:
    """Adds a flag for every param of the mode, and says which ones only --set reaches."""
    group = parser.add_argument_group(f"parameters of mode {mode_name}", mode.description or None)
    hidden = []
    for name, param in mode.params.items():
        spelled = flags(name, param)
        if not spelled:
            hidden.append(f"{name} ({describe(param)})")
            continue
        text = f"{param.description} ({describe(param)})".strip().replace("%", "%%")
        group.add_argument(*spelled, dest=_dest(name), metavar=_metavar(param), help=text)
    if hidden:
        parser.epilog = "Only through --set: " + "; ".join(hidden).replace("%", "%%") + "."


def values(mode: Mode, parsed: argparse.Namespace, sets: Sequence[str]) -> dict[str, object]:
    """What the user gave, by the name it was given under; the pipeline checks names and ranges.

    Args:
        mode: whose params the flags came from.
        parsed: the result of a parser that `add_flags` extended.
        sets: the `name=value` texts of --set.

    Raises:
        InputError: a --set without `=`, or a name given twice.
    """
    given: dict[str, str] = {}
    for name, param in mode.params.items():
        text = getattr(parsed, _dest(name), None)
        if text is not None:
            given[_words(name, param)[0]] = text
    for item in sets:
        word, equals, text = item.partition("=")
        if not equals:
            raise InputError(f"--set {item} has no =. Expected name=value. Correct it.")
        if word in given:
            raise InputError(f"{word} is given twice. Expected one value. Leave one of them away.")
        given[word] = text
    owners = {word: param for name, param in mode.params.items() for word in (name, *param.aliases)}
    return {word: _number(owners.get(word), text) for word, text in given.items()}


def _number(param: Param | None, text: str) -> object:
    """The number a param takes; text that is none stays text, for the pipeline to judge."""
    try:
        if isinstance(param, IntParam):
            return int(text)
        if isinstance(param, FloatParam):
            return float(text)
    except ValueError:
        pass
    return text


def _plain(value: float | str | None) -> str:
    """A limit or default as a person would type it: 8 for 8.0, texts in quotation marks."""
    if isinstance(value, str):
        return repr(value)
    return "" if value is None else str(value).removesuffix(".0")


def _dest(name: str) -> str:
    """Where argparse keeps the value; the prefix keeps params apart from our own options."""
    return "param:" + name


def _metavar(param: Param) -> str:
    """The placeholder in the help text."""
    if isinstance(param, IntParam):
        return "INT"
    if isinstance(param, FloatParam):
        return "NUMBER"
    if isinstance(param, VideoParam):
        return "PATH"
    return "TEXT" if isinstance(param, TextParam) else "NAME"
