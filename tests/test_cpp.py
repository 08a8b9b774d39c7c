"""The C++ runtime against Python: the same tables, noise and plans: `pytest tests/test_cpp.py`.

It is built with sanitizers, which fail a test, and asked for leaks in the end.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_probe import Probe, Refused, of_other_test, sentence

from edgereel import host_memory, levels, memory, noise, plan, schedule
from edgereel.call import Call
from edgereel.params import fill_params

DATA = Path(__file__).parent / "data"
TOY, TRACE = DATA / "toy", DATA / "trace"
EditCascade = Callable[..., Path]


# Tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Published noise schedules as files."""
    made = {
        "linear": schedule.alphas_cumprod_linear(0.001, 0.04, 100),
        "scaled": schedule.alphas_cumprod_scaled_linear(0.00085, 0.012),
        "cosine": schedule.alphas_cumprod_cosine(),
    }
    made["zero"] = schedule.rescale_zero_terminal_snr(made["scaled"])
    folder = tmp_path_factory.mktemp("tables")
    for name, table in made.items():
        np.save(folder / f"{name}.npy", table)
    return {name: folder / f"{name}.npy" for name in made}


@pytest.mark.parametrize("sampler", schedule.SAMPLERS)
def test_rows_are_equal_to_the_last_bit(
    cpp: Probe, tables: Mapping[str, Path], sampler: str
) -> None:
    etas = (0, 0.3, 1.7) if sampler == "ddim" else (0,)
    finals = schedule.FINALS if sampler == "ddim" else ("one",)
    variances = schedule.VARIANCES if sampler == "ddpm" else ("fixed_small",)
    for table, spacing, steps, eta, final, variance in itertools.product(
        tables, schedule.SPACINGS, (1, 2, 3, 50, 100, 641), etas, finals, variances
    ):
        options: dict[str, Any] = {"eta": eta, "final": final, "variance": variance}
        asked = {"sampler": sampler, "spacing": spacing, "steps": steps, **options}
        try:
            rows = schedule.sampler_rows(sampler, np.load(tables[table]), spacing, steps, **options)
            wanted: bytes | str = rows.tobytes()
        except ValueError as error:
            wanted = str(error)
        try:
            found: bytes | str = cpp.ask("rows", table=str(tables[table]), **asked)
        except Refused as error:
            found = str(error)
        assert found == wanted, (table, asked)


def test_renoise_coefficients_are_equal(cpp: Probe, tables: Mapping[str, Path]) -> None:
    for table, file in tables.items():
        alphas = np.load(file)
        for start, end in [(None, 0), (None, 99), (0, 1), (20, 99), (99, 20), (5, 1000), (98, 99)]:
            asked = {"table": str(file), "from": start, "to": end}
            wanted = sentence(lambda a=alphas, s=start, e=end: levels.renoise_coefficients(a, s, e))
            assert sentence(lambda asked=asked: cpp.ask("renoise", **asked)) == wanted, table
            if not wanted:
                both = np.frombuffer(cpp.ask("renoise", **asked), np.float64).tolist()
                assert tuple(both) == levels.renoise_coefficients(alphas, start, end)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00v\x00", b"1 2 3"])
def test_damaged_tables_are_refused(cpp: Probe, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.npy").write_bytes(content)
    wanted = {"sampler": "ddim", "spacing": "leading", "steps": 1, "eta": 0, "final": "one"}
    with pytest.raises(Refused, match=r"no \.npy file of float64"):
        cpp.ask("rows", table=str(tmp_path / "t.npy"), variance="fixed_small", **wanted)


# Noise

DRAWS = [
    (0, "x", 0, 0),
    (7, "decoder.z", 0, 1),
    (123456789, "decoder.z", 3, 49),
    (2**64 - 1, "bruit-é", 2**32 - 1, 2**32 - 1),
]


@pytest.mark.parametrize(("seed", "name", "chunk", "step"), DRAWS)
def test_noise_is_equal(cpp: Probe, seed: int, name: str, chunk: int, step: int) -> None:
    """Every integer, and every normal to 1 ulp."""
    asked = {"seed": seed, "name": name, "chunk": chunk, "step": step}
    counter = np.empty((2000, 4), np.uint64)
    counter[:, 0], counter[:, 1:] = np.arange(2000), [step, chunk, noise.fnv1a32(name)]
    words = noise.philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    assert cpp.ask("words", blocks=2000, **asked) == words.tobytes()
    found = np.frombuffer(cpp.ask("normal", count=8001, **asked), np.float32)
    wanted = noise.normal(seed, name, chunk, step, (8001,))
    assert np.abs(found.view(np.int32).astype(int) - wanted.view(np.int32)).max() <= 1


# Plans

BAD_PLANS = of_other_test("test_plan")


def parsed(cpp: Probe, text: bytes) -> tuple[str, str]:
    """What Python and C++ say to a plan."""
    return sentence(lambda: plan.parse(text)), sentence(lambda: cpp.ask("parse", hex=text.hex()))


def test_wrong_plans_are_refused_with_the_same_sentences(cpp: Probe) -> None:
    for path, value, place, _ in BAD_PLANS.WRONG:
        document = json.loads((TOY / "plan.json").read_text())
        BAD_PLANS.put(document, path, value)
        wanted, found = parsed(cpp, json.dumps(document).encode())
        assert wanted.startswith(place) and found == wanted


def test_what_fades_is_float32_or_uint8(cpp: Probe) -> None:
    document = of_other_test("test_windows").whole_numbers()
    wanted, found = parsed(cpp, json.dumps(document).encode())
    assert wanted and found == wanted


@pytest.mark.parametrize("field", ["flops", "traffic"])
@pytest.mark.parametrize("terms", [{"K*h*w": 2.0, "": 3}, {"K*q": 1.0}, {"K": -1}, {"K": "x"}, [1]])
def test_work_is_a_polynomial_of_the_inputs(cpp: Probe, field: str, terms: Any) -> None:
    document = json.loads((TRACE / "plan.json").read_text())
    document["graphs"]["step"][field] = terms
    wanted, found = parsed(cpp, json.dumps(document).encode())
    assert found == wanted and bool(wanted) == (terms != {"K*h*w": 2.0, "": 3})


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}',
        b"\xef\xbb\xbf{}",
        b'{"format": 1, "format": 1}', b'{"format": 1e999}', b'{"name": "\\ud800"}', b"{}",
        b'{"format": ' + b"9" * 5000 + b"}", b'{"a": 1}', b'{"format": 1.0}', b'{"format": true}',
        b'{"format": 18446744073709551617}', b'{"format": -9223372036854775809}', b'{"a": "\x00"}',
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(cpp: Probe, text: bytes) -> None:
    """The same sentence, but for what the two parsers say of text that is not JSON."""
    wanted, found = (re.sub(r"not JSON \(.*\);", "not JSON;", s, flags=re.S)
                     for s in parsed(cpp, text))  # fmt: skip
    assert wanted and found == wanted


def changed(document: Any, seed: int) -> None:
    """Changes a few places, to what stands somewhere else or to another kind of value."""
    chance = random.Random(seed)
    nodes: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            nodes.append((node, key))
            if isinstance(value, (dict, list)):
                collect(value)

    collect(document)
    others = [None, True, -1, 0, 1, 2.5, 2**64, "", "x", "G", [], {}, {"param": "fps"}, ["K", 3]]
    for node, key in chance.sample(nodes, chance.randint(1, 2)):
        there, at = chance.choice(nodes)
        try:
            other = copy.deepcopy(there[at])
            if chance.random() < 0.3 and isinstance(node, dict):
                del node[key]
            else:
                node[key] = other if chance.random() < 0.5 else copy.deepcopy(chance.choice(others))
        except (KeyError, IndexError):  # the first change took the second place away
            continue


@pytest.mark.parametrize("folder", [TOY, TRACE], ids=lambda folder: folder.name)
def test_changed_plans_are_read_the_same_way(cpp: Probe, folder: Path) -> None:
    original = json.loads((folder / "plan.json").read_text())
    refused = 0
    for seed in range(250):
        document = copy.deepcopy(original)
        changed(document, seed)
        wanted, found = parsed(cpp, json.dumps(document).encode())
        refused += bool(wanted)
        assert found == wanted, seed
    assert 125 < refused < 250


# Memory


CALLS: list[tuple[Path, str, dict[str, Any]]] = [
    (TOY, "video", {"prompt": "a"}),
    (TOY, "preview", {"prompt": "a"}),
    (TRACE, "paint", {"frames": 16, "height": 64, "width": 64, "frames_at_once": 3}),
    (TRACE, "tiles", {"frames": 9, "height": 64, "width": 12, "tile": 2, "shared_sides": 1}),
]


@pytest.mark.parametrize(("folder", "mode", "settings"), CALLS)
def test_the_same_memory_is_predicted(
    cpp: Probe, edit_cascade: EditCascade, folder: Path, mode: str, settings: dict[str, Any]
) -> None:
    """Of weights, values and activations; and the same is said where it does not suffice."""

    def change(document: dict[str, Any]) -> None:
        for graph in document["graphs"].values():
            symbols = {axis for spec in graph["inputs"].values() for axis in spec["shape"]}
            names = sorted(axis for axis in symbols if isinstance(axis, str))
            graph["activations"] = [{"": 1000.5, "*".join(names): 8}, {names[0]: 70.0}]
            graph["activations_kernels"] = [{names[0]: 60.0}]

    edited = edit_cascade(folder, change)
    loaded = plan.load(edited)
    program = loaded.modes[mode]
    tables = {name: np.load(edited / spec.file) for name, spec in loaded.schedules.items()}
    call = Call(loaded, program, fill_params(program, settings), tables, {})
    sizes = [
        call.chunk_sizes(stage, [spans[0] for spans in call.spans[stage.name]])
        for stage in program.stages
    ]
    asked = memory.Asked(loaded, program, sizes)
    request = {"folder": str(edited), "mode": mode, "settings": settings}
    for low_vram, kernels in ((False, False), (True, False), (False, True)):
        wanted = [
            number
            for peak in memory.stage_peaks(replace(asked, kernels=kernels), low_vram=low_vram)
            for number in (peak.weights, peak.values, peak.activations, peak.loading)
        ]
        more = {"kernels": 1} if kernels else {}
        found = cpp.ask("peaks", low_vram=int(low_vram), **request, **more)
        assert [int(n) for n in found.split()] == wanted
    for free in (0, 1000, 5000, 50_000):
        told = sentence(lambda free=free: memory.check(asked, free, low_vram=False))
        assert (
            sentence(lambda free=free: cpp.ask("peaks", low_vram=0, free=free, **request)) == told
        )
        assert told or free


# Small parts


def test_free_memory_is_what_python_finds(cpp: Probe, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    assert cpp.ask("free", root=str(tmp_path)) == b"none"
    for file, content in (("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    512 kB\n"),
                          ("sys/fs/cgroup/memory.max", "max\n"),
                          ("sys/fs/cgroup/memory.current", "100000\n"),
                          ("sys/fs/cgroup/memory.stat", "anon 5\ninactive_file 1000\n"),
                          ("sys/fs/cgroup/memory.max", "200000\n")):  # fmt: skip
        (tmp_path / file).write_text(content)
        found = int(cpp.ask("free", root=str(tmp_path)))
        assert found == host_memory.free_memory(tmp_path)


def test_hashes_are_those_of_hashlib(cpp: Probe, tmp_path: Path) -> None:
    """Of every length around a block, in pieces, with the processor's instructions and without."""
    path, chance = tmp_path / "bytes", random.Random(3)
    for length, piece in [*((n, 1 + n % 70) for n in range(200)), (100_003, 64), (100_000, 4097)]:
        content = chance.randbytes(length)
        path.write_bytes(content)
        found = cpp.ask("hash", file=str(path), piece=piece).decode()
        assert found == 2 * hashlib.sha256(content).hexdigest(), (length, piece)
