"""The params of a plan's mode as command-line flags, and what was typed as values."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from edgereel import cli_unknown, pipeline, plan
from edgereel.backends import BACKENDS
from edgereel.errors import InputError
from edgereel.pipeline import Cascade
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

__all__ = [
    "PROMPT",
    "Parser",
    "add_backend",
    "add_flags",
    "cascade_options",
    "cascade_parser",
    "dashed",
    "describe",
    "flags",
    "generate_options",
    "load",
    "pick_mode",
    "values",
    "with_prompt",
]

PROMPT = "a red circle moving right"  # where a command makes a video and none is given

# Single letters, for params that every text-to-video tool spells the same way.
_SHORT = {"prompt": "-p", "negative_prompt": "-n"}
# Our own options of `generate`; a param of such a name is reached through --set only.
_RESERVED = frozenset(
    ("help", "output", "mode", "continue", "backend", "threads", "noise", "metadata", "set")
) | {"quiet", "progress", "debug", "low_vram", "kernels", "no_kernels"}


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises InputError where the original prints usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(
            f"{message[0].upper()}{message[1:]}. See `{self.prog} -h` for the options."
        )


def generate_options(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """The options of `edgereel generate` and the params given, as cascade_options has them."""
    options, given = cascade_options(_generate_parser(), words)
    if options.help is None and options.output is None:
        raise InputError(
            "No output is given. Expected -o with a name ending in .mp4 or .gif, or a folder for "
            "PNG frames. Add, for example, -o out.mp4."
        )
    return options, given


def cascade_options(
    parser: Parser, words: Sequence[str]
) -> tuple[argparse.Namespace, dict[str, object]]:
    """The options of a command and the params given; `help` is the text to print, if any.

    Two passes: which flags there are depends on the plan, so the first pass only looks for the
    folder, and with it `-h` shows the params of that cascade.

    Args:
        parser: has a positional `folder` and `--mode`; gets -h, --set and the params of the mode.
        words: of the command line.

    Raises:
        InputError: a wrong option, or no folder.
        PlanError: the folder is not a cascade.
    """
    parser.add_argument("-h", "--help", action="store_true", help="show this and end")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="set any parameter"
    )
    options, rest = parser.parse_known_args(words)
    bare = [word for word in (options.folder, *rest, *words) if word and not word.startswith("-")]
    folder = next((word for word in bare if (Path(word) / "plan.json").is_file()), None)
    if options.help and folder is None:
        return argparse.Namespace(help=parser.format_help()), {}
    if not bare:
        raise InputError(
            f"No cascade folder is given. Expected `{parser.usage}`. Build one with `python "
            "export/build.py`, or pass one you have."
        )
    loaded = plan.load(folder or bare[0])
    name, mode = pick_mode(loaded, options.mode)
    add_flags(parser, name, mode)
    if options.help:
        return argparse.Namespace(help=parser.format_help()), {}
    options, rest = parser.parse_known_args(words)
    if rest:
        others = {
            other: [flag for each in found.params.items() for flag in flags(*each)]
            for other, found in loaded.modes.items()
        }
        known = [*parser._option_string_actions, *mode.params]
        raise cli_unknown.unknown(rest, known, others, f"{parser.prog} {options.folder} -h")
    options.help = None
    return options, values(mode, options, options.set)


def cascade_parser(command: str, usage: str, description: str) -> Parser:
    """The options that every command has which makes videos; for `cascade_options` and `load`."""
    parser = Parser(
        f"edgereel {command}",
        usage=f"edgereel {command} {usage}",
        description=description,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", help="the cascade folder")
    parser.add_argument("--mode", help="what to make (default: the plan's first mode)")
    add_backend(parser)
    parser.add_argument(
        "--low-vram", action="store_true", help="keep only the engines of one stage in memory"
    )
    return parser


def load(options: argparse.Namespace) -> Cascade:
    """The cascade that the options of a `cascade_parser` name."""
    return pipeline.load(
        options.folder,
        backend=options.backend,
        threads=options.threads,
        low_vram=options.low_vram,
        kernels=options.kernels,
    )


def _generate_parser() -> Parser:
    """The options of `generate` that every cascade has."""
    parser = cascade_parser(
        "generate",
        "DIR -p PROMPT -o FILE [options]",
        "Make a video with a built cascade. With DIR, -h shows its parameters too.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="video.mp4, video.gif, or a folder for PNG frames"
    )
    parser.add_argument(
        "--continue",
        dest="times",
        type=int,
        metavar="N",
        help="add N clips, each beginning with the last frame of the one before, seeds rising by 1",
    )
    parser.add_argument(
        "--noise", metavar="FILE", help=".npz of noise to use instead of the seed's"
    )
    parser.add_argument("--metadata", metavar="FILE", help="write what was done there, as JSON")
    parser.add_argument("--progress", action="store_true", help="the moving line also in a log")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Adds --backend, --threads and --no-kernels."""
    names = ", ".join(("auto", *BACKENDS))
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"{names} (default auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--no-kernels",
        dest="kernels",
        action="store_false",
        help="do without Edgereel's own kernels for ONNX Runtime",
    )


def dashed(argv: Sequence[str]) -> list[str]:
    """The arguments with `--some_flag` spelled `--some-flag`, so that both work."""
    spelled = []
    for word in argv:
        flag, equals, value = word.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        spelled.append(flag + equals + value)
    return spelled


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
