"""Builds the fuzz targets with clang's libFuzzer, and runs each from files of this repository.

    python runtime/cpp/tools/fuzz.py                 # 30 seconds each, as `make fuzz` does
    python runtime/cpp/tools/fuzz.py --seconds 600 tokenizer

What breaks one is left in build/cpp-fuzz and ends this with 1. Where there is no clang it is
installed from Debian, as root, or unpacked into build/clang; where that cannot be, nothing is
run, and the reason is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
BUILD = ROOT / "build" / "cpp-fuzz"
DEBIAN = ROOT / "build" / "clang"
PACKAGES = ("clang", "libclang-rt-dev")
TARGETS = ("plan", "tokenizer")
CHECKS = "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all"
TEXTS = ("a red circle", "  ÅΣς don't\u00a0x1²\u0301 <end>", "\u0e33\u0915\u094d\u0915🔴👩🏽‍🚀 ﷺ")


class Missing(Exception):
    """Why nothing can be run here."""


def done(*words: str | Path, **options: Any) -> None:
    """Runs a command; Missing with the last of what it says if it fails."""
    result = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise Missing(f"`{words[0]}` failed: {said[-1] if said else result.returncode}")


def fuzzes(clang: str, environment: Mapping[str, str]) -> bool:
    """Whether a compiler is there, and libFuzzer with it."""
    program = 'extern "C" int LLVMFuzzerTestOneInput(const char*, decltype(sizeof 0)) { return 0; }'
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [clang, "-fsanitize=fuzzer,address", "-x", "c++", "-", "-o", str(BUILD / "try")]
    try:
        result = subprocess.run(
            command, input=program, text=True, env=environment, capture_output=True, check=False
        )
    except OSError:
        return False
    return result.returncode == 0


def clang() -> tuple[str, dict[str, str]]:
    """clang++ and the environment that it needs; Missing if it cannot be had."""
    environment = dict(os.environ)
    if fuzzes("clang++", environment):
        return "clang++", environment
    if shutil.which("apt-get") is None:
        raise Missing("clang++ with libFuzzer is not here, nor Debian's apt-get to get it")
    if os.geteuid() == 0:
        done("apt-get", "update", "-q")
        done("apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES)
        compiler = "clang++"
    else:
        compiler = unpacked(environment)
    if not fuzzes(compiler, environment):
        raise Missing("Debian's clang++ does not link libFuzzer here")
    return compiler, environment


def unpacked(environment: dict[str, str]) -> str:
    """Debian's clang++ without installing it; its libraries are added to the environment."""
    root, state, cache = DEBIAN / "root", DEBIAN / "state", DEBIAN / "cache"
    compiler = root / "usr" / "bin" / "clang++"
    if not compiler.exists():
        for folder in (root, state / "lists" / "partial", cache / "archives" / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        own = ["-q", "-o", f"Dir::State={state}", "-o", "Dir::State::status=/var/lib/dpkg/status",
               "-o", f"Dir::Cache={cache}", "-o", "Debug::NoLocking=1"]  # fmt: skip
        done("apt-get", *own, "update")
        flags = ("-y", "--no-install-recommends", "--download-only")
        done("apt-get", *own, "install", *flags, *PACKAGES)
        for package in sorted((cache / "archives").glob("*.deb")):
            done("dpkg-deb", "-x", package, root)
    libraries = {str(file.parent) for file in root.rglob("*.so.*")}
    known = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = ":".join([*sorted(libraries), *([known] if known else [])])
    return str(compiler)


def tool(name: str) -> Path:
    """A program of the environment."""
    return Path(sys.executable).with_name(name)


def build(targets: Sequence[str]) -> dict[str, str]:
    """Compiles the targets; the environment that they run in."""
    compiler, environment = clang()
    options = {
        "CMAKE_MAKE_PROGRAM": tool("ninja"), "CMAKE_BUILD_TYPE": "None", "EDGEREEL_FUZZ": "ON",
        "CMAKE_UNITY_BUILD": "ON", "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_C_COMPILER": compiler.removesuffix("++"),
        "CMAKE_C_FLAGS": f"-O1 -g1 {CHECKS}", "CMAKE_CXX_FLAGS": f"-O1 -g1 {CHECKS}",
    }  # fmt: skip
    given = [f"-D{name}={value}" for name, value in options.items()]
    source = ROOT / "runtime" / "cpp"
    cmake = [str(tool("cmake")), "-S", str(source), "-B", str(BUILD), "-G", "Ninja", *given]
    configured = subprocess.run(
        cmake, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if "could not be downloaded" in " ".join(configured.stdout.split()):
        raise Missing("no network for the headers of Debian packages")
    if configured.returncode:
        sys.exit(configured.stdout)
    wanted = [f"fuzz_{target}" for target in targets]
    built = subprocess.run([tool("cmake"), "--build", BUILD, "--target", *wanted], env=environment)
    if built.returncode:
        sys.exit("the fuzz targets do not compile")
    return environment


def documents(target: str) -> list[bytes]:
    """What a target reads, in the forms that there are."""
    if target == "plan":
        return [file.read_bytes() for file in sorted(ROOT.glob("tests/data/*/plan.json"))]
    shapes = ROOT / "export" / "edgereel_export" / "shapes"
    files = [ROOT / "tests" / "data" / "toy" / "tokenizer.json"]
    files += [
        shapes / part / "tokenizer" / "tokenizer.json"
        for part in ("checkpoint", "stable_diffusion")
    ]
    return [*(file.read_bytes() for file in files), like_t5().encode()]


def like_t5() -> str:
    """A tokenizer of T5's form, with a few pieces and a small table of characters."""
    from cluster_tables import charsmap
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        ("▁a", -2.5),
        ("red", -3.0),
    ]
    made = Tokenizer(models.Unigram(pieces, 2, False))
    table = charsmap({"ﬁ": "fi", "a\u0301": "á", "\t": " ", "①": "1", "क": "k", "\u200b": ""})
    steps = [normalizers.Precompiled(table), normalizers.Strip(), normalizers.Replace("  ", " ")]
    made.normalizer = normalizers.Sequence(steps)
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    made.pre_tokenizer = pre_tokenizers.Sequence(splits)
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return made.to_str()


def words_of(document: Any) -> Iterator[str]:
    """The keys and texts of a document."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        yield from document
        for part in document.values():
            yield from words_of(part)
    elif isinstance(document, list):
        for part in document:
            yield from words_of(part)


def seeds(target: str) -> tuple[Path, Path]:
    """A folder of inputs to begin with, and a file of words to change them with."""
    folder, words = BUILD / f"seeds_{target}", set[str]()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, content in enumerate(documents(target)):
        words.update(w for w in words_of(json.loads(content)) if w.isascii() and 1 < len(w) < 30)
        for index, text in enumerate(TEXTS if target == "tokenizer" else [None]):
            behind = b"" if text is None else b"\0" + text.encode()
            (folder / f"{number}-{index}").write_bytes(content + behind)
    dictionary = BUILD / f"{target}.dict"
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"') for word in sorted(words))
    dictionary.write_text("".join(f'"{word}"\n' for word in quoted if word.isprintable()))
    return folder, dictionary


def run(target: str, seconds: int, environment: Mapping[str, str]) -> bool:
    """Whether something broke; what was found is told."""
    given, dictionary = seeds(target)
    found = BUILD / f"found_{target}"
    found.mkdir(exist_ok=True)
    command = [BUILD / f"fuzz_{target}", found, given, f"-dict={dictionary}", "-timeout=10",
               f"-max_total_time={seconds}", "-rss_limit_mb=3000", "-verbosity=0",
               f"-artifact_prefix={BUILD}/{target}-", "-print_final_stats=1"]  # fmt: skip
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace"
    )
    count = re.search(r"number_of_executed_units: *(\d+)", result.stderr)
    if result.returncode == 0 and count is not None:
        print(f"fuzz_{target}: {count[1]} inputs in {seconds} s, none broke it")
        return False
    print(f"fuzz_{target} broke:\n{result.stderr[-8000:]}")
    return True


def main() -> int:
    """0 if nothing broke, or nothing could be run."""
    parser = argparse.ArgumentParser(description="Fuzzes the C++ runtime.")
    parser.add_argument("targets", nargs="*", default=TARGETS, help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=30, help="for each; 30 if left out")
    asked = parser.parse_args()
    try:
        environment = build(asked.targets)
    except Missing as reason:
        print(f"The C++ runtime was not fuzzed: {reason}")
        return 0
    return int(any([run(target, asked.seconds, environment) for target in asked.targets]))


if __name__ == "__main__":
    sys.exit(main())
