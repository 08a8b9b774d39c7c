"""Files and folders written whole or not at all: a temporary name until the end."""

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgereel.errors import OutputError

__all__ = ["all_or_nothing", "cannot_write", "check_place", "put", "remove", "sha256", "temporary"]


def check_place(target: Path) -> None:
    """Makes and removes a small file beside `target`, to learn before long work that it can be.

    Raises:
        OutputError: the folder is missing or the system refuses to write there.
    """
    try:
        target.lstat()  # finds names that no file can have, which the small file would not
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise cannot_write(target, error) from error
    if not target.parent.is_dir():
        raise OutputError(
            f"The folder {target.parent} does not exist. The output needs an existing folder. "
            f"Create it (mkdir -p {target.parent}) or choose another output."
        )
    probe = temporary(target)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise cannot_write(target, error) from error


@contextmanager
def all_or_nothing(target: Path) -> Iterator[Path]:
    """A temporary path that becomes `target` on success and disappears on any failure.

    Raises:
        OutputError: the system refused a write.
    """
    temp = temporary(target)
    try:
        yield temp
        put(temp, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        remove(temp)


def temporary(target: Path) -> Path:
    """A hidden name beside the target that nobody else uses."""
    return target.parent / f".edgereel-{secrets.token_hex(6)}.part"


def put(temp: Path, target: Path) -> None:
    """Gives a finished file or folder its name; what had that name before is replaced.

    Raises:
        OutputError: the system refused.
    """
    try:
        if target.is_dir():
            _swap(temp, target)
        else:
            temp.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error


def remove(path: Path) -> None:
    """Removes a file or folder that may not exist; the first error, if any, is the one to show."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def cannot_write(target: Path, error: OSError | ValueError) -> OutputError:
    """The error for a target the system refuses."""
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"Cannot write {str(target)!r:.300}: {reason}. A writable place was expected. "
        "Choose another output or free some space."
    )


def _swap(temp: Path, target: Path) -> None:
    """Puts a finished folder in the place of an old one, which comes back if that fails."""
    old = temporary(target)
    target.replace(old)
    try:
        temp.replace(target)
    except BaseException:
        old.replace(target)
        raise
    remove(old)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
