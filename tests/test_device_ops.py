"""What is computed between graphs on a GPU is what numpy computes, to the last bit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import device_ops_host
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from edgereel.backends.on_device import OnDevice
from edgereel.backends.on_host import OnHost
from edgereel.errors import EngineError

PTX = Path(__file__).parents[1] / "runtime/edgereel/backends/device_ops.ptx"


class Device(OnDevice):
    """A backend's memory alone."""

    def __init__(self) -> None:
        self._take_memory()


@pytest.fixture
def device(fake_cuda: Any) -> Device:
    return Device()


def drawn(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape).astype(dtype)


def test_noise_is_added_on_the_device(device: Device, fake_cuda: Any) -> None:
    x, z = (drawn((3, 5, 7, 11), "float32", seed) for seed in (1, 2))
    on_device = device.put(x)
    before = len(fake_cuda.told)
    mixed = device.mixed(on_device, 0.3, z, 0.7)
    told = fake_cuda.told[before:]
    assert ("wait",) not in told
    assert {call[1] for call in told if call[0] == "copy"} == {1}  # only to the device
    assert_array_equal(device.get(mixed), OnHost().get(OnHost().mixed(x, 0.3, z, 0.7)))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("start", "done"), [(0, 0), (3, 3), (2, 5), (1, 5)])
def test_parts_are_joined_on_the_device(
    device: Device, fake_cuda: Any, dtype: str, axis: int, start: int, done: int
) -> None:
    """The second part begins at `start`; what is there already ends at `done`."""
    shape, length = [6, 8, 10], 5
    shape[axis] = start + length
    whole = drawn(tuple(shape), dtype, 1)
    shape[axis] = length
    part = drawn(tuple(shape), dtype, 2)
    buffers = device.put(whole), device.put(part)
    before = len(fake_cuda.told)
    device.join(*buffers, axis, start, done)
    assert ("wait",) not in fake_cuda.told[before:]
    OnHost().join(whole, part, axis, start, done)
    assert_array_equal(device.get(buffers[0]), whole)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_parts_are_cut_on_the_device(device: Device, fake_cuda: Any, dtype: str, axis: int) -> None:
    whole = drawn((4, 6, 5, 7), "float32").astype(dtype)
    buffer = device.put(whole)
    before = len(fake_cuda.told)
    part = device.cut(buffer, axis, 1, 3)
    assert ("wait",) not in fake_cuda.told[before:]
    assert_array_equal(device.get(part), OnHost().cut(whole, axis, 1, 3))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 700, 1999])
def test_one_answer_comes_back_of_the_check(
    device: Device, fake_cuda: Any, wrong: float, place: int
) -> None:
    x = drawn((20, 100), "float32")
    x.flat[5] = np.finfo(np.float32).max
    assert device.is_finite(device.put(x))
    x.flat[place] = wrong
    buffer = device.put(x)
    before = len(fake_cuda.told)
    assert not device.is_finite(buffer)
    assert [call for call in fake_cuda.told[before:] if call[:2] == ("copy", 2)] == [("copy", 2, 4)]


def test_more_elements_than_threads(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgereel.backends.device_ops._MOST_BLOCKS", 2)
    x = drawn((1300,), "float32")
    assert_array_equal(device.get(device.mixed(device.put(x), 2.0, x, 1.0)), 2 * x + x)
    x[-1] = np.nan
    assert not device.is_finite(device.put(x))


def test_nothing_is_launched_for_nothing(device: Device, fake_cuda: Any) -> None:
    """A launch without blocks is an error of CUDA."""
    empty = device.put(np.zeros((0, 3), np.float32))
    assert device.is_finite(empty)
    assert not any(call[0] == "kernel" for call in fake_cuda.told)


def test_an_old_gpu_is_named(
    device: Device, fake_cuda: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_cuda, "cuModuleLoadData", lambda _: (209, None), raising=False)
    with pytest.raises(EngineError, match=r"cuModuleLoadData \(error 209\).*7.5 or later"):
        device.is_finite(device.put(np.ones(3, np.float32)))


def test_the_ptx_is_that_of_the_source(tmp_path: Path) -> None:
    """Also that no product and sum are fused, and that `ptxas` takes it for old and new GPUs."""
    text = PTX.read_text()
    assert ".version 6.4" in text and ".target sm_75" in text and "fma" not in text
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not here: PTX not compared")
    made = tmp_path / "new.ptx"
    words = ["nvcc", "--ptx", "-arch=compute_75", "--fmad=false", "-o", made]
    subprocess.run([*words, device_ops_host.SOURCE], check=True)
    built = re.sub(r"(?m)^//.*\n", "", made.read_text())
    assert re.sub(r"\.version \S+", ".version 6.4", built) == text
    for arch in ("sm_75", "sm_87", "sm_90", "sm_120"):
        subprocess.run(["ptxas", f"-arch={arch}", PTX, "-o", tmp_path / "out"], check=True)
