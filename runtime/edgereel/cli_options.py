"""The options of commands that make videos, among them the params of the cascade's plan."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edgereel import cli_flags, cli_unknown, pipeline, plan
from edgereel.backends import BACKENDS
from edgereel.errors import InputError
from edgereel.pipeline import Cascade

__all__ = [
    "Parser",
    "add_backend",
    "cascade_options",
    "cascade_parser",
    "dashed",
    "generate_options",
    "load",
]


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
    name, mode = cli_flags.pick_mode(loaded, options.mode)
    cli_flags.add_flags(parser, name, mode)
    if options.help:
        return argparse.Namespace(help=parser.format_help()), {}
    options, rest = parser.parse_known_args(words)
    if rest:
        others = {
            other: [flag for each in found.params.items() for flag in cli_flags.flags(*each)]
            for other, found in loaded.modes.items()
        }
        known = [*parser._option_string_actions, *mode.params]
        raise cli_unknown.unknown(rest, known, others, f"{parser.prog} {options.folder} -h")
    options.help = None
    return options, cli_flags.values(mode, options, options.set)


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
