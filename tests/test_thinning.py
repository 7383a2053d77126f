"""What the gate keeps of a matrix of tests."""

from __future__ import annotations

import re

import pytest
from _pytest.mark import ParameterSet

from tests import thinning
from tests.conftest import CHECKOUT
from tests.thinning import crossed, durations, function_of, mark_slow_cases, often, slow_cases, too_dear


def kept(parameters: list[object]) -> list[tuple[object, ...]]:
    sets = [each for each in parameters if isinstance(each, ParameterSet)]
    assert len(sets) == len(parameters)
    return [tuple(each.values) for each in sets if not each.marks]


def test_the_gate_leaves_out_no_value_of_any_axis() -> None:
    parameters = crossed("abc", range(5), (True, False))
    assert len(parameters) == 30
    gate = kept(parameters)
    assert len(gate) == 5
    assert [set(axis) for axis in zip(*gate, strict=True)] == [set("abc"), set(range(5)), {True, False}]


def test_the_gate_tries_what_is_named_and_the_slow_tests_the_rest() -> None:
    parameters = often("abc", "b")
    assert len(parameters) == 3 and kept(parameters) == [("b",)]


def test_a_claim_keeps_its_cheapest_cases_as_far_as_they_cost_little_together() -> None:
    log = "= slow =\n1.50s call tests/a.py::b[dear]\n0.60s call tests/a.py::b[cheap]\n9.00s setup tests/a.py::c\n"
    assert durations(log) == {"tests/a.py::b[dear]": 1.5, "tests/a.py::b[cheap]": 0.6}
    assert too_dear(durations(log)) == {"tests/a.py::b[dear]"}
    assert too_dear({"tests/a.py::b[dear]": 1.5, "tests/a.py::c[alone]": 3.9}) == set()
    assert too_dear({"tests/a.py::b": 4.1}) == {"tests/a.py::b"}


def test_every_slow_case_is_one_of_a_test_that_is_there() -> None:
    sources = [path.read_text("utf-8") for path in (CHECKOUT / "tests").rglob("*.py")]
    there = {name for source in sources for name in re.findall(r"def (test_\w+)\(", source)}
    for case in slow_cases():
        file, *_, function = function_of(case).split("::")
        assert (CHECKOUT / file).is_file() and function in there, case


@pytest.fixture
def listed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> pytest.Item:
    """The test that uses it, as one of `slow_cases.txt`."""
    item = request.node
    assert isinstance(item, pytest.Item)
    monkeypatch.setattr(thinning, "slow_cases", lambda: frozenset({item.nodeid}))
    mark_slow_cases([item])
    return item


def test_what_is_listed_is_slow(listed: pytest.Item) -> None:
    assert listed.get_closest_marker("slow") is not None


@pytest.mark.gate
def test_what_is_promised_to_users_stays_in_the_gate_whatever_it_takes(listed: pytest.Item) -> None:
    assert listed.get_closest_marker("slow") is None
