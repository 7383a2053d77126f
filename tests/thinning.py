"""What the gate leaves to the slow tests: combinations of matrices, and cases that a run of the gate found to be dear.

`python -m tests.thinning LOG…` writes the latter into `slow_cases.txt`, from logs of runs with `--durations=0`.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path

import pytest

SLOW_CASES = Path(__file__).with_name("slow_cases.txt")

SECONDS_OF_A_CLAIM = 2.0
"""What the cases of one test function may take together in the gate: the cheapest that fit are kept."""

SECONDS_OF_A_CASE = 4.0
"""What the cheapest case of a function may take, so that its claim stays in the gate."""

_DURATION = re.compile(r"\s*([\d.]+)s call\s+(tests/\S.*)")


def crossed(*axes: Iterable[object]) -> list[object]:
    """Every combination of the values of `axes`, as parameters.

    The gate goes through all axes at once, the shorter ones again and again, so that it takes as many tests as the
    longest axis has values and leaves out no value of any. The other combinations are marked `slow`.
    """
    values = [list(axis) for axis in axes]
    longest = max(map(len, values))
    kept = {tuple(turn % len(axis) for axis in values) for turn in range(longest)}
    return [
        pytest.param(*combination, marks=[] if places in kept else pytest.mark.slow)
        for places, combination in zip(product(*(range(len(axis)) for axis in values)), product(*values), strict=True)
    ]


def often(values: Iterable[object], kept: Collection[object]) -> list[object]:
    """The values as parameters, tuples for several at once; the gate has those that are `kept`, others are `slow`."""
    rows = ((value, value if isinstance(value, tuple) else (value,)) for value in values)
    return [pytest.param(*row, marks=[] if value in kept else pytest.mark.slow) for value, row in rows]


def mark_slow_cases(items: Iterable[pytest.Item]) -> None:
    """Mark `slow` what `slow_cases.txt` lists. A test that is marked `gate` stays in the gate, whatever it takes."""
    listed = slow_cases()
    for item in items:
        if item.nodeid in listed and item.get_closest_marker("gate") is None:
            item.add_marker(pytest.mark.slow)


@cache
def slow_cases() -> frozenset[str]:
    return frozenset(SLOW_CASES.read_text("utf-8").splitlines())


def too_dear(seconds: Mapping[str, float]) -> set[str]:
    """The tests, of those whose `seconds` are given, that the gate leaves to the slow ones."""
    cases = defaultdict(list)
    for name, taken in seconds.items():
        cases[function_of(name)].append((taken, name))
    dear = set()
    for claim in cases.values():
        together = 0.0
        for place, (taken, name) in enumerate(sorted(claim)):
            together += taken
            if together > (SECONDS_OF_A_CLAIM if place else SECONDS_OF_A_CASE):
                dear.add(name)
    return dear


def function_of(name: str) -> str:
    """`tests/test_x.py::test_y` of its case `tests/test_x.py::test_y[1-a]`."""
    return name.partition("[")[0]


def durations(log: str) -> dict[str, float]:
    """Seconds of the tests in what pytest printed, of those that it lists."""
    return {match[2]: float(match[1]) for line in log.splitlines() if (match := _DURATION.fullmatch(line))}


def main() -> int:
    """Write `slow_cases.txt` anew. What is listed there and in no log, having been slow in those runs, stays."""
    seconds: dict[str, float] = {}
    for log in sys.argv[1:]:
        seconds |= durations(Path(log).read_text("utf-8", errors="replace"))
    if not seconds:
        print("no durations: expected logs of `pytest --durations=0 --durations-min=0.1`", file=sys.stderr)
        return 2
    kept = slow_cases() - seconds.keys() if SLOW_CASES.exists() else frozenset()
    names = sorted(kept | too_dear(seconds))
    SLOW_CASES.write_text("".join(f"{name}\n" for name in names), "utf-8")
    print(f"{SLOW_CASES.name}: {len(names)} cases, {len(names) - len(kept)} of them from {len(seconds)} durations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
