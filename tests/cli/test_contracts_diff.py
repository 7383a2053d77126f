"""`aprtui contracts diff`: exit codes, words and records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.contracts.samples import SOUND

Run = Callable[..., Outcome]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(SOUND)
    return path


def test_nothing_that_changed_in_meaning_is_exit_0(aprtui: Run, old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text("# a remark\n" + SOUND.replace("version: 1.0", "version: '1.1'"))
    done = aprtui("contracts", "diff", old, new)
    assert (done.code, done.out) == (0, "old 1.0 to new 1.1\nnothing changed in meaning\n")
    (summary,) = (json.loads(line) for line in aprtui("contracts", "diff", old, new, "--json").out.splitlines())
    assert summary["changes"] == 0 and summary["new"] == {"path": str(new), "version": "1.1"}


def test_what_changed_is_exit_1_with_kind_and_line(aprtui: Run, old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    long = "no NaN " + "in any of the many layers of the model " * 4
    old.write_text(SOUND.replace("no NaN", long + "at layer 3"))
    new.write_text(SOUND.replace("no NaN", long + "at layer 4").replace("status: FUNCTIONAL", "status: DISCHARGED"))
    done = aprtui("contracts", "diff", old, new)
    assert done.code == 1
    first, second = done.out.splitlines()[1:3]
    assert first.startswith("  changed    falsifier FALSIFY-1 prediction: …") and "layer 3 → …" in first
    assert len(first) < 240 and first.endswith("layer 4 (line 24)")
    assert second == "  raised     falsifier FALSIFY-1 status: FUNCTIONAL → DISCHARGED (line 24)"
    assert done.out.splitlines()[3:] == ["1 changed, 1 raised", "the version is the same"]
    records = [json.loads(line) for line in aprtui("contracts", "diff", old, new, "--json").out.splitlines()]
    assert records[1] == {
        "record": "change", "kind": "raised", "section": "falsifier", "name": "FALSIFY-1", "field": "status",
        "old": "FUNCTIONAL", "new": "DISCHARGED", "old_line": 24, "new_line": 24,
    }  # fmt: skip
    assert records[2]["kinds"] == {"changed": 1, "raised": 1}


def test_what_cannot_be_read_is_exit_3(aprtui: Run, old: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for other in (tmp_path / "broken.yaml", tmp_path / "gone.yaml", tmp_path):
        done = aprtui("contracts", "diff", old, other)
        assert (done.code, done.out) == (3, "") and str(other) in done.err
    assert aprtui("contracts", "diff", old).code == 2
