"""Whatever the bytes, a reader answers or refuses with one of our own errors: a short run, and every former crash.

The long run is `python -m tests.fuzz` (CONTRIBUTING.md). What it finds goes into `tests/fuzz/crashes/HARNESS/`.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from aprtui.errors import AprtuiError
from aprtui.importing.formats.registry import FORMATS, SAMPLE_FORMATS
from tests.conftest import CHECKOUT
from tests.fuzz.harness import execute, strict
from tests.fuzz.mutate import mutated
from tests.fuzz.table import HARNESSES

CRASHES = CHECKOUT / "tests" / "fuzz" / "crashes"
EXECUTIONS = 25
"""Of each harness in the gate: readers that forget an error of the libraries under them fail within the first few."""


@pytest.mark.parametrize("name", HARNESSES)
def test_no_reader_lets_an_error_escape_that_is_not_ours(name: str, tmp_path: Path) -> None:
    target, random = HARNESSES[name].prepare(tmp_path), Random(name)
    accepted = 0
    with strict():
        for sample in target.samples:
            try:
                target.run(sample)
                accepted += 1
            except AprtuiError:
                continue
        assert accepted, "no sample is well formed: nothing is reached behind the first check"
        for crash in sorted((CRASHES / name).glob("*")):
            execute(target, crash.read_bytes())
        for _ in range(EXECUTIONS):
            execute(target, mutated(random, target.samples, target.words))


def test_every_import_format_has_a_harness_and_every_crash_one_that_runs_it() -> None:
    expected = {f"import-{entry.name}" for entry in FORMATS} | {f"samples-{entry.name}" for entry in SAMPLE_FORMATS}
    assert expected <= HARNESSES.keys()
    assert {folder.name for folder in CRASHES.iterdir()} <= HARNESSES.keys()


def test_a_seed_gives_the_same_inputs() -> None:
    samples = (b'{"a": 12}', b"APRT")
    first, again = ([mutated(random, samples, (b"w",)) for _ in range(50)] for random in (Random(7), Random(7)))
    assert first == again and len(set(first)) > 40
