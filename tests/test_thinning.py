"""What the gate keeps of a matrix of tests."""

from __future__ import annotations

from _pytest.mark import ParameterSet

from tests.thinning import crossed, often


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
