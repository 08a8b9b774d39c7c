"""Timings of a cascade: what counts, in which order, how it is told: `pytest tests/test_bench.py`.

No time is compared with another: clocks of busy machines are no ground for a test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgereel import bench, cli, cli_bench, cli_flags
from edgereel.pipeline import Cascade

pytest.importorskip("onnxruntime")

TOY = str(Path(__file__).parent / "data" / "toy")
QUICK = ("--iterations", "3", "--duration", "0", "--warmup", "0", "--quiet")
Out = pytest.CaptureFixture[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The params of every call of a cascade."""
    made: list[dict[str, Any]] = []
    original = Cascade.__call__

    def counted(self: Cascade, **options: Any) -> Any:
        made.append(options["params"])
        return original(self, **options)

    monkeypatch.setattr(Cascade, "__call__", counted)
    return made


def test_first_runs_and_warm_up_do_not_count(calls: list[dict[str, Any]], capsys: Out) -> None:
    assert cli.main(["bench", TOY, *QUICK, "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    told = json.loads(shown.splitlines()[-1])
    (found,) = told["seconds"]
    assert len(calls) == 1 + 1 + 3 and calls[0]["prompt"] == cli_flags.PROMPT
    assert set(found["warm"]) == {"text", "decoder", "sr", "total"} == set(found["cold"])
    assert all(of["runs"] == 3 and of["p50"] <= of["p99"] for of in found["warm"].values())
    assert found["params"]["steps.decoder"] == 2 and found["backend"] == "ort"
    assert told["command"].endswith("--steps 2") and told["peak_host_bytes"] > 2**20
    assert "cold start" in shown and "3 runs, milliseconds" in shown


def test_two_settings_take_turns(calls: list[dict[str, Any]], capsys: Out, tmp_path: Path) -> None:
    times, plot = tmp_path / "times.json", tmp_path / "bars.png"
    words = ["--baseline", "--steps=5", "--steps", "2", "-p", "green up"]
    words += ["--export-times", str(times), "--plot", str(plot)]
    assert cli.main(["bench", *words, TOY, *QUICK]) == 0
    steps = [int(call["steps"]) for call in calls]
    assert steps == [2, 5] * 5 and {call["prompt"] for call in calls} == {"green up"}
    shown = capsys.readouterr().out.splitlines()
    head = next(row for row in shown if row.strip().startswith("stage")).split()
    assert head[-3:] == ["baseline", "p50", "ratio"]
    exported = json.loads(times.read_text())
    assert [(one["name"], len(one["warm"]["total"])) for one in exported] == [
        ("measured", 3),
        ("baseline", 3),
    ]
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_ratio_is_that_of_medians() -> None:
    ours = bench.Timings("measured", warm={"total": [1.0, 1.0, 4.0]}, cold={"total": 9.0})
    theirs = bench.Timings("baseline", warm={"total": [3.0, 2.5, 9.0]}, cold={"total": 9.0})
    for timing in (ours, theirs):
        timing.metadata = dict.fromkeys(("backend", "precision", "library", "device"), "x")
    row = next(line for line in cli_bench._report([ours, theirs], [50, 100]) if "total" in line)
    assert row.split() == ["total", "1000.0", "4000.0", "2000.0", "3000.0", "3.00x"]


def test_another_folder_can_be_the_baseline(toy: Path, edit_toy: Any, capsys: Out) -> None:
    other = edit_toy(lambda document: document.update(name="other"))
    assert cli.main(["bench", TOY, *QUICK, "--baseline", f"{other} --steps 3"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [found["cascade"] for found in told["seconds"]] == ["toy", "other"]


def test_percentiles_are_those_of_numpy() -> None:
    assert bench.percentiles([4.0, 1.0, 3.0, 2.0], (0, 50, 90, 100)) == pytest.approx(
        [1.0, 2.5, 3.7, 4.0]
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--percentile", "50,x"), "expected numbers from 0 to 100"),
        (("--percentile", "101"), "expected numbers from 0 to 100"),
        (("--iterations", "0"), "--iterations is 0; expected at least 1"),
        (("--duration", "-1"), "--duration is -1.0; expected at least 0"),
        (("--baseline", "'open"), "No closing quotation"),
        (("--baseline", "--wrong"), "Unrecognized arguments: --wrong"),
    ],
)
def test_wrong_options(words: tuple[str, ...], problem: str, capsys: Out) -> None:
    assert cli.main(["bench", TOY, *QUICK, *words]) == 2
    assert problem in capsys.readouterr().err


def test_a_missing_folder_is_said_before_anything_runs(
    calls: list[dict[str, Any]], capsys: Out
) -> None:
    assert cli.main(["bench", TOY, *QUICK, "--export-times", "nowhere/times.json"]) == 1
    assert "does not exist" in capsys.readouterr().err and not calls


def test_without_matplotlib_the_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Out, tmp_path: Path
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["bench", TOY, *QUICK, "--plot", str(tmp_path / "a.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
