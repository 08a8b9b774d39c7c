"""The tiny cascades of SYSTEMS: made and exported once per run, since an export takes a while."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from edgereel_export.systems import Cascade

try:
    from edgereel_export.systems import SYSTEMS
except ImportError:  # without torch the tests that need a system are skipped
    SYSTEMS = {"make-a-video": ""}


class Tiny(NamedTuple):
    """A tiny cascade in PyTorch and as a folder."""

    system: str
    cascade: Cascade
    checkpoint: Path
    folder: Path


_MADE: dict[str, Tiny] = {}
# Defaults as published would take minutes even so: sizes, and steps where fewer show the same.
_SMALL = {
    "lavie": {
        "height": 32,
        "width": 48,
        "resolution": 32,
        "frames": 2,
        "steps": 3,
        "steps.interpolation": 3,
        "steps.upscaling": 3,
    },
    "emu-video": {
        "height": 16,
        "width": 16,
        "steps": 3,
        "steps.picture": 3,
        "steps.interpolation": 2,
    },
}


def _made(name: str, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    pytest.importorskip("torch")
    from edgereel_export.chosen import choose
    from edgereel_export.folder import write_folder
    from edgereel_export.systems import system

    if name not in _MADE:
        place = tmp_path_factory.mktemp(name)
        cascade = system(name).tiny(place / "checkpoint")
        modes = choose(cascade.modes(), defaults=_SMALL.get(name, {}))
        write_folder(cascade, place / "cascade", name=f"{name}-tiny", system=name, modes=modes)
        _MADE[name] = Tiny(name, cascade, place / "checkpoint", place / "cascade")
    return _MADE[name]


@pytest.fixture(scope="session", params=list(SYSTEMS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny cascade of every system, exported; do not change its files."""
    return _made(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_make_a_video(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny Make-A-Video cascade, exported; do not change its files."""
    return _made("make-a-video", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_text2video_zero(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny Text2Video-Zero cascade, exported; do not change its files."""
    return _made("text2video-zero", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_lavie(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny LaVie cascade, exported; do not change its files."""
    return _made("lavie", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_emu_video(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny Emu Video cascade, exported; do not change its files."""
    return _made("emu-video", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Make-A-Video checkpoint with random weights; copy it before changing it."""
    pytest.importorskip("torch")
    from edgereel_export.systems.make_a_video_tiny import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def engine_builder() -> None:
    """Skips, with the reason, where no TensorRT engine can be built."""
    from edgereel import errors
    from edgereel.backends import trt_library

    try:
        found = trt_library.library()
    except errors.BackendUnavailable as error:
        pytest.skip(str(error))
    if not found.builds_without_gpu and trt_library.device() is None:
        pytest.skip(f"{found} builds on a GPU only, none here")
