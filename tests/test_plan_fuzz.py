"""Whatever is done to a plan, reading it gives a Plan or a PlanError, never anything else.

Alone: `pytest tests/test_plan_fuzz.py`.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgereel import plan
from edgereel.errors import PlanError

# Together they have every op and every kind of param.
TEXTS = [
    (Path(__file__).parent / "data" / name / "plan.json").read_bytes() for name in ("toy", "trace")
]
DOCUMENTS = [json.loads(text) for text in TEXTS]
# Values that mean something somewhere in the format, so that mutations reach past the first check.
WORDS = sorted({word for t in TEXTS for word in re.findall(r'"([^"\\]{1,30})"', t.decode())})

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars | st.fixed_dictionaries({"param": st.sampled_from(WORDS)}),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(WORDS), v, max_size=3),
    max_leaves=5,
)
few = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def read(text: bytes) -> None:
    """Parses, and if that works also writes and parses again."""
    try:
        parsed = plan.parse(text)
    except PlanError as error:
        assert str(error)
        return
    assert plan.parse(plan.encode(parsed)) == parsed


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every entry of a JSON value."""
    if not isinstance(node, (dict, list)):
        return []
    found = []
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        found += [(*path, key), *places(value, (*path, key))]
    return found


Edit = tuple[tuple[Any, ...], str, Any, tuple[Any, ...]]


def edits_of(original: Any) -> st.SearchStrategy[tuple[Any, list[Edit]]]:
    """A plan and changes of it: where, what, a value, and where to copy from."""
    place = st.sampled_from(places(original))
    action = st.sampled_from(["set", "drop", "add", "copy"])
    edits = st.lists(st.tuples(place, action, values, place), min_size=1, max_size=3)
    return st.tuples(st.just(original), edits)


@few
@given(st.one_of([edits_of(original) for original in DOCUMENTS]))
def test_mutated_document(drawn: tuple[Any, list[Edit]]) -> None:
    original, changes = drawn
    document = copy.deepcopy(original)
    for path, action, value, other in changes:
        try:
            parent = document
            for key in path[:-1]:
                parent = parent[key]
            if action == "drop":
                del parent[path[-1]]
            elif action == "add" and isinstance(parent, dict):
                parent[value if isinstance(value, str) else "new"] = copy.deepcopy(parent[path[-1]])
            elif action == "copy":
                source: Any = original
                for key in other:
                    source = source[key]
                parent[path[-1]] = copy.deepcopy(source)
            else:
                parent[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit took the place away
    read(json.dumps(document).encode())


@few
@given(st.sampled_from(TEXTS), st.floats(0, 1), st.integers(0, 40), st.binary(max_size=6))
def test_mutated_bytes(text: bytes, where: float, length: int, inserted: bytes) -> None:
    start = round(where * len(text))
    read(text[:start] + inserted + text[start + length :])


@few
@given(st.binary(max_size=200))
def test_any_bytes(text: bytes) -> None:
    read(text)


@few
@given(values)
def test_any_json(value: Any) -> None:
    read(json.dumps(value).encode("utf-8", "surrogatepass"))
