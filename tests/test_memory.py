"""Memory is predicted and refused before anything loads: `pytest tests/test_memory.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgereel
from edgereel import cli, memory, plan
from edgereel.backends.ort import Ort
from edgereel.cli_table import size
from edgereel.errors import InputError, PlanError
from edgereel.host_memory import free_memory

pytest.importorskip("onnxruntime")

TRACE = Path(__file__).parent / "data" / "trace"
Change = Callable[[dict[str, Any]], object]
EditCascade = Callable[[Path, Change], Path]


def long(document: dict[str, Any]) -> None:
    """Lets mode `paint` make many frames, and knows the inside of a graph."""
    params = document["modes"]["paint"]["params"]
    params["frames"]["max"] = params["frames_at_once"]["max"] = 10**6
    document["graphs"]["pixels"]["activations"] = [{"K*h*w": 0.5, "": 7}, {"K*h*w": 48}]


def with_free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(Ort, "free_memory", lambda _: count)


def asked(folder: Path, sizes: dict[str, int]) -> memory.Asked:
    loaded = plan.load(folder)
    mode = loaded.modes["paint"]
    return memory.Asked(loaded, mode, [sizes] * len(mode.stages))


def test_peaks_are_those_written_down(edit_cascade: EditCascade) -> None:
    sizes = {"F": 5, "K": 2, "H": 16, "W": 24, "h": 4, "w": 6}
    start, frames = memory.stage_peaks(asked(edit_cascade(TRACE, long), sizes))
    latent, pixels = 3 * 4 * 6 * 4, 16 * 24 * 3  # bytes of one frame
    assert start.values == 2 * 5 * latent + 5 * 4  # start, moved, drift
    # At the run of pixels: moved, a part, z and clip; the part's frames and all; 48 bytes are
    # inside for every latent pixel.
    assert frames.values == (5 + 2 + 2 + 2) * latent + (2 + 5) * pixels
    assert frames.activations == 2 * 4 * 6 * 48
    assert frames.total == frames.values + frames.activations


def test_kernels_take_what_the_plan_says_of_them(edit_cascade: EditCascade) -> None:
    def less(document: dict[str, Any]) -> None:
        long(document)
        document["graphs"]["pixels"]["activations_kernels"] = [{"K*h*w": 12}]

    known = asked(edit_cascade(TRACE, less), {"F": 5, "K": 2, "H": 16, "W": 24, "h": 4, "w": 6})
    for kernels, factor in ((False, 48), (True, 12)):
        _, frames = memory.stage_peaks(replace(known, kernels=kernels))
        assert frames.activations == 2 * 4 * 6 * factor


def test_what_does_not_fit_is_refused_before_anything_loads(
    edit_cascade: EditCascade, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edit_cascade(TRACE, long)
    with_free(monkeypatch, 2**30)
    cascade = edgereel.load(folder, backend="ort")
    huge = {"frames": 10**5, "frames_at_once": 10**4, "height": 64, "width": 64}
    with pytest.raises(InputError, match=r"'frames' needs 1\.\d+ GiB .* 1 GiB .*") as caught:
        cascade(mode="paint", params=huge)
    todo = "Use a smaller frames_at_once or fewer frames or a smaller height or a smaller width."
    assert str(caught.value).endswith(todo)
    assert not cascade._interpreter.engines
    flags = [f"--{name.replace('_', '-')}={number}" for name, number in huge.items()]
    assert cli.main(["generate", str(folder), "--mode", "paint", *flags, "-o", "no"]) == 2
    assert "needs 1." in capsys.readouterr().err and not Path("no").exists()
    with_free(monkeypatch, 2**40)
    assert len(cascade(mode="paint").frames) == 5


def test_low_vram_is_offered_only_where_it_helps(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cascade = edgereel.load(toy, backend="ort")
    mode = cascade.plan.modes["video"]
    sizes = [{"G": 2, "B": 1, "K": 4}] * len(mode.stages)
    known = memory.Asked(cascade.plan, mode, sizes)
    full, low = (
        max(peak.total for peak in memory.stage_peaks(known, low_vram=low)) for low in (False, True)
    )
    assert low < full  # the table of the text encoder, dropped
    with_free(monkeypatch, full)
    cascade("a")
    cascade = edgereel.load(toy, backend="ort")
    with_free(monkeypatch, low)
    with pytest.raises(InputError, match=r"Use --low-vram \(in Python low_vram=True\)\.$"):
        cascade("a")
    edgereel.load(toy, backend="ort", low_vram=True)("a")
    with_free(monkeypatch, low - 1)
    with pytest.raises(InputError, match="needs") as caught:
        cascade("a")
    assert "--low-vram" not in str(caught.value)


def test_what_the_backend_keeps_is_not_counted_against_the_next_call(
    edit_cascade: EditCascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edit_cascade(TRACE, long)
    cascade = edgereel.load(folder, backend="ort")
    sizes = {"F": 5, "K": 2, "H": 16, "W": 24, "h": 4, "w": 6}
    peaks = memory.stage_peaks(asked(folder, sizes))
    most = max(peak.total for peak in peaks)
    with_free(monkeypatch, most)
    monkeypatch.setattr(Ort, "free_scratch", lambda _: False)
    cascade(mode="paint")
    with_free(monkeypatch, most - max(peak.activations for peak in peaks))
    cascade(mode="paint")
    with pytest.raises(InputError, match="needs"):
        edgereel.load(folder, backend="ort")(mode="paint")


def test_low_vram_keeps_one_stage_and_changes_nothing_else(toy: Path) -> None:
    kept, dropped = (edgereel.load(toy, backend="ort", low_vram=low) for low in (False, True))
    seen: list[tuple[str, set[str]]] = []

    def note(progress: edgereel.Progress) -> None:
        seen.append((progress.stage, set(dropped._interpreter.engines)))

    one, other = kept("a red circle", seed=3), dropped("a red circle", seed=3, callback=note)
    np.testing.assert_array_equal(one.frames, other.frames)
    fixed = {"seconds": 0, "memory": 0}  # low_vram drops weights
    assert {**one.metadata, **fixed} == {**other.metadata, **fixed}
    graphs = {
        stage.name: {op.graph for op in stage.ops if isinstance(op, plan.Run | plan.Denoise)}
        for stage in kept.plan.modes["video"].stages
    }
    assert all(engines <= graphs[stage] for stage, engines in seen)
    assert any(engines for _, engines in seen) and not dropped._interpreter.engines
    assert set(kept._interpreter.engines) == set(one.metadata["engines"])


def test_generate_with_low_vram(toy: Path, tmp_path: Path) -> None:
    words = ["generate", str(toy), "-p", "a", "--backend", "ort", "--quiet"]
    for name, flag in (("one", []), ("other", ["--low-vram"])):
        assert cli.main([*words, *flag, "-o", str(tmp_path / name)]) == 0
    pictures = [sorted((tmp_path / name).iterdir()) for name in ("one", "other")]
    assert [p.read_bytes() for p in pictures[0]] == [p.read_bytes() for p in pictures[1]]


@pytest.mark.parametrize(
    ("terms", "problem"),
    [
        ({"K*q": 1}, "'K.q' is no product of symbols"),
        ({"K*": 1}, "is no product"),
        ({"K": -1}, "-1.0; expected at least 0"),
    ],
)
def test_wrong_activations(terms: dict[str, float], problem: str) -> None:
    for name in ("activations", "activations_kernels"):
        document = json.loads((TRACE / "plan.json").read_text())
        document["graphs"]["pixels"][name] = [terms]
        with pytest.raises(PlanError, match=rf"graphs\.pixels\.{name}\[0\].*{problem}"):
            plan.parse(json.dumps(document).encode())


def test_free_memory_is_the_least_that_is_said(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   2048 kB\n")
    assert free_memory(tmp_path) == 2048 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("900000\n")
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 2048 * 1024
    (group / "memory.max").write_text("1000000\n")
    assert free_memory(tmp_path) == 100000
    (group / "memory.stat").write_text("anon 5\ninactive_file 700\nslab 1\n")
    assert free_memory(tmp_path) == 100700


def test_explain_tells_the_work_of_a_stage(
    edit_cascade: EditCascade, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every step of every chunk: three chunks of two of five frames, three steps each."""

    def change(document: dict[str, Any]) -> None:
        long(document)
        document["graphs"]["step"] |= {"flops": {"K*h*w": 1e9, "": 5e9}, "traffic": {"": 2.0**20}}
        document["graphs"]["pixels"] |= {"flops": {"K": 1e9}}

    assert cli.main(["explain", str(edit_cascade(TRACE, change)), "--mode", "paint"]) == 0
    told = capsys.readouterr().out
    flops = 3 * (3 * (2 * 4 * 6 + 5) + 2)
    assert f"; {flops} GFLOP, 9.0 MiB moved; peak memory" in told
    sizes = {"F": 5, "K": 4, "H": 16, "W": 24, "h": 4, "w": 6}
    peak = memory.stage_peaks(asked(edit_cascade(TRACE, change), sizes))[1].total
    head, line = (
        row.split("  ")
        for row in told.splitlines()
        if row.startswith(("       --frames-at-once", "       peak memory"))
    )
    columns = [[cell.strip() for cell in row if cell.strip()] for row in (head, line)]
    assert dict(zip(*columns, strict=True))["4"] == size(peak)


@pytest.mark.parametrize("field", ["flops", "traffic"])
def test_work_must_be_a_polynomial_of_the_inputs(field: str) -> None:
    document = json.loads((TRACE / "plan.json").read_text())
    document["graphs"]["pixels"][field] = {"K*q": 1.0}
    with pytest.raises(
        PlanError, match=rf"graphs\.pixels\.{field}: 'K\*q' is no product of symbols"
    ):
        plan.parse(json.dumps(document).encode())
