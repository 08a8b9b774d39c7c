"""The error for words of a command line that no option takes, and what to do about them."""

import difflib
from collections.abc import Mapping, Sequence

from edgereel.errors import InputError

__all__ = ["unknown"]


def unknown(
    words: Sequence[str], known: Sequence[str], others: Mapping[str, Sequence[str]], see: str
) -> InputError:
    """The error that names the words, and what was probably meant.

    Args:
        words: those that no option took, in their order.
        known: the flags there are, and names of params, which --set reaches.
        others: by mode of the cascade, its flags.
        see: the command that lists the flags.
    """
    flag = words[0].partition("=")[0]
    name = flag.lstrip("-")
    modes = [mode for mode, flags in others.items() if flag in flags]
    if flag == name:
        todo = 'A text of several words needs quotation marks, as in -p "a red circle".'
    elif modes:
        todo = f"{flag} belongs to --mode {' or --mode '.join(modes)}; add that, or drop {flag}."
    elif name in known:
        todo = f"Write --set {name}=VALUE."
    else:
        longer = [word for word in known if word.startswith(flag)]
        close = longer or difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
        todo = f"Did you mean {close[0]}? " if close else ""
        todo += f"`{see}` lists them."
    return InputError(
        f"Unrecognized arguments: {' '.join(words)}; expected options of this mode. {todo}"
    )
