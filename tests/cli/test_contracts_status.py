"""`aprtui contracts status`: levels, life cycles and waits, each for itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.contracts.evidence.files import write_evidence
from tests.cli.conftest import Outcome
from tests.contracts.evidence_samples import evidence
from tests.contracts.samples import SOUND, edited

Run = Callable[..., Outcome]

BLOCKED = """\
metadata: {version: "1.0", status: DRAFT, kind: schema, references: [a], depends_on: [sample (the first), gone-v1]}
falsification_tests:
  - {id: WAIT-1, prediction: p, status: BLOCKER_FIXTURE_ABSENT}
  - {id: WAIT-2, prediction: p, status: BLOCKER_FIXTURE_ABSENT, discharge_status: PARTIAL_ALGORITHM_LEVEL}
  - id: WAIT-3
    prediction: p
    full_discharge_blocks_on: |
      A live run of the teacher, which waits for SHIP-007
      and for FALSIFY-1 to hold.
  - {id: WAIT-4, prediction: p, full_discharge_blocks_on: [SHIP-007, "SHIP-007: the GPU is wrong"]}
  - {id: WAIT-5, prediction: p, full_discharge_blocks_on: somebody with a GPU}
  - {id: WAIT-6, prediction: p, full_discharge_blocks_on: somebody  with a GPU, status: PASS}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = edited(
        "    status: FUNCTIONAL", "    status: FUNCTIONAL\n    check: byte_format\n    vouches_for: engine.py"
    )
    (tmp_path / "engine.py").write_text("engine")
    (tmp_path / "sample.yaml").write_text(text)
    (tmp_path / "waits.yaml").write_text(BLOCKED)
    return tmp_path


def records(done: Outcome, kind: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in done.out.splitlines()]
    return [record for record in found if record["record"] == kind]


def test_levels_and_life_cycles_are_counted_apart(aprtui: Run, folder: Path) -> None:
    done = aprtui("contracts", "status", folder)
    assert done.code == 0
    lines = done.out.splitlines()
    counted = {line.split()[0]: line.split()[1:] for line in lines[2:8]}
    assert counted == {
        "DISCHARGED": ["0", "0", "0"], "FUNCTIONAL": ["1", "0", "0"], "PARTIAL_ALGORITHM_LEVEL": ["1", "0", "0"],
        "BLOCKED": ["1", "0", "0"], "NONE": ["4", "8", "8"], "UNRANKED": ["1", "0", "0"],
    }  # fmt: skip
    assert "life cycle of 2 documents: ACTIVE 1, DRAFT 1" in lines
    assert "sample 1.0, document ACTIVE" in lines and "waits 1.0, document DRAFT" in lines
    (summary,) = records(aprtui("contracts", "status", folder, "--json"), "summary")
    assert summary["life_cycles"] == {"ACTIVE": 1, "DRAFT": 1} and summary["falsifiers"] == 8
    assert summary["levels"]["FUNCTIONAL"] == {"claimed": 1, "carried": 0, "ever_carried": 0}  # type: ignore[index]


def test_evidence_and_what_is_claimed_beyond_it_are_told(aprtui: Run, folder: Path) -> None:
    def reported() -> str:
        lines = aprtui("contracts", "status", folder).out.splitlines()
        return next(line for line in lines if line.startswith("  FALSIFY-1  "))

    assert reported().endswith("evidence: none recorded: the status claims more than any evidence gave")
    write_evidence(folder / "evidence" / "sample", evidence(sources={"engine.py": "0" * 64}))
    expected = "PASS of 2026-11-20, stale: engine.py changed; carries PARTIAL_ALGORITHM_LEVEL: the status claims more"
    assert reported().endswith(expected)
    found = records(aprtui("contracts", "status", folder, "--json"), "falsifier")[0]
    assert found["level"] == "FUNCTIONAL" and found["evidence"]["carries"] == "PARTIAL_ALGORITHM_LEVEL"  # type: ignore[index]
    elsewhere = aprtui("contracts", "status", folder, "--evidence-dir", folder / "none", "--json")
    assert records(elsewhere, "falsifier")[0]["evidence"]["files"] == 0  # type: ignore[index]


def test_what_waits_for_what_is_grouped_by_what_is_waited_for(aprtui: Run, folder: Path) -> None:
    waits = records(aprtui("contracts", "status", folder, "--json"), "wait")
    who = {wait["name"]: [entry["falsifier"] or entry["contract"] for entry in wait["waiting"]] for wait in waits}  # type: ignore[attr-defined]
    assert who == {
        "BLOCKER_FIXTURE_ABSENT": ["WAIT-1", "WAIT-2"],
        "SHIP-007": ["WAIT-3", "WAIT-4"],
        "somebody with a GPU": ["WAIT-5", "WAIT-6"],
        "FALSIFY-1": ["WAIT-3"],
        "base-v1": ["sample"],
        "gone-v1": ["waits"],
        "sample": ["waits"],
    }
    assert [wait["name"] for wait in waits] == list(who), "most waiting first, contracts last"
    out = aprtui("contracts", "status", folder).out
    assert "  FALSIFY-1 (FUNCTIONAL): 1 claim waits for it" in out
    assert "  gone-v1 (not among these contracts): 1 contract depends on it" in out
    assert "  sample (document ACTIVE; FUNCTIONAL 1, no status 1): 1 contract depends on it" in out


def test_what_cannot_be_read_is_exit_3_and_the_rest_is_told(aprtui: Run, folder: Path) -> None:
    (folder / "broken.yaml").write_text("a: [\n")
    done = aprtui("contracts", "status", folder)
    assert done.code == 3 and "broken.yaml:2" in done.err and "maturity of 8 falsifiers" in done.out
    assert aprtui("contracts", "status", folder / "gone").code == 3


def test_our_own_contracts_are_meant_where_none_is_given(aprtui: Run) -> None:
    done = aprtui("contracts", "status")
    assert done.code == 0 and "aprt-capture-v1" in done.out


def test_contracts_of_nothing_are_no_error(aprtui: Run, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(SOUND[: SOUND.index("falsification_tests")])
    done = aprtui("contracts", "status", tmp_path / "x.yaml")
    assert done.code == 0 and "maturity of 0 falsifiers" in done.out


def test_words_of_a_contract_move_no_cursor(aprtui: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    evil = '"\\e[2J\\nX"'
    path.write_text(
        SOUND.replace("FALSIFY-1", evil).replace("status: FUNCTIONAL", f"status: {evil}\n    check: {evil}")
    )
    other = tmp_path / "y.yaml"
    other.write_text(SOUND)
    for words in (("status", path), ("check", path), ("lint", path), ("validate", path), ("diff", path, other)):
        done = aprtui("contracts", *words)
        assert "\x1b" not in done.out + done.err and done.code in (0, 1, 125)
    assert "\\x1b[2J\\nX" in aprtui("contracts", "status", path).out
    assert "\x1b" not in aprtui("contracts", "promote", "\x1b[2J", "PROPOSED", path).err
