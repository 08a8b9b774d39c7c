"""What the documents promise exists. Alone: `pytest tests/test_docs.py`."""

import contextlib
import re
from pathlib import Path

import pytest

from edgereel import cli, cli_flags, plan

ROOT = Path(__file__).parents[1]
TOY = ROOT / "tests" / "data" / "toy"

# The ten-minute read from the command line to the mp4; README.md links each stop.
READING_PATH = [
    "runtime/edgereel/cli.py",
    "runtime/edgereel/pipeline.py",
    "tests/data/toy/plan.json",
    "runtime/edgereel/plan.py",
    "runtime/edgereel/running.py",
    "runtime/edgereel/schedule.py",
    "runtime/edgereel/backends/ort.py",
    "runtime/edgereel/video.py",
]


def text_of(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


def param_of_a_system(flag: str) -> bool:
    """Whether some system's plan gives a param that name, quoted, or a part of one."""
    name = flag.removeprefix("--").replace("-", "_")
    sources = (ROOT / "export" / "edgereel_export" / "systems").glob("*.py")
    return any(f'"{name}"' in path.read_text(encoding="utf-8") for path in sources)


def code(text: str) -> list[str]:
    """The lines of code blocks and the inline code of a document."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(
        r"`([^`\n]+)`", rest
    )


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    words = [command, "-h"] if command != "generate" else [command, str(TOY), "-h"]
    with contextlib.suppress(SystemExit):
        cli.main(words)
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "engines/README.md"])
def test_every_edgereel_command_shown_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(code(text_of(name)))
    start = r"^(?:.*&& )?(?:\$ )?(?:[\w./]+/bin/)?edgereel ([a-z]+)(.*)"
    shown = re.findall(start, text, re.MULTILINE)
    assert shown or name != "README.md"
    for command, words in shown:
        line = f"edgereel {command}{words}"
        assert command in cli.COMMANDS, line
        known = help_of(command, capsys)
        bare = re.sub(r'"[^"]*"|\s#.*', "", words)  # without quoted texts and comments
        for flag in re.findall(r"(?:^|\s)\[?(--?[a-z][\w-]*)", bare):
            of_toy = re.search(rf"(?<![\w-]){flag}(?![\w-])", known)
            assert of_toy or param_of_a_system(flag), f"{flag} in: {line}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_and_extra_shown_exists(name: str) -> None:
    text = text_of(name)
    makefile, project = text_of("Makefile"), text_of("pyproject.toml")
    for line in code(text):
        for targets in re.findall(r"(?:^|\s)make((?: [a-z]+)+)", line):
            for target in targets.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
        for extras in re.findall(r"(?:\.|edgereel)\[([a-z,-]+)\]", line):
            for extra in extras.split(","):
                assert re.search(rf"^{extra} = \[", project, re.MULTILINE), line


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_flag_of_build_py_shown_exists(name: str) -> None:
    shown = [line for line in code(text_of(name)) if "build.py" in line]
    known = text_of("export/edgereel_export/cli_options.py") if shown else ""
    for line in shown:
        for flag in re.findall(r"\s(--[a-z][\w-]*)", line):
            assert f'"{flag}"' in known, line


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_path_shown_exists(name: str) -> None:
    """Links, and code that looks like a path of this repository; engines/* are made by users."""
    text = text_of(name)
    tops = "runtime|export|tests|kernels|benchmarks|engines"
    paths = set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text))
    for line in code(text):
        paths |= set(re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./-]*\w", line))
    made = {path for path in paths if path.startswith("engines/") and path != "engines/README.md"}
    for path in sorted(paths - made):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", READING_PATH)
def test_the_reading_path_is_linked_and_alive(path: str) -> None:
    assert f"]({path}" in text_of("README.md")
    assert (ROOT / path).is_file()


def test_every_command_is_in_the_readme() -> None:
    text = text_of("README.md")
    for command in cli.COMMANDS:
        assert f"edgereel {command}" in text or f"`{command}`" in text


def test_the_toy_flags_are_the_ones_documents_use() -> None:
    """The checks above compare with the toy's params, so it must have those of any cascade."""
    _, mode = cli_flags.pick_mode(plan.load(TOY), None)
    flags = {flag for name, param in mode.params.items() for flag in cli_flags.flags(name, param)}
    assert flags >= {"-p", "--prompt", "--seed", "--steps", "--guidance-scale", "--fps"}
