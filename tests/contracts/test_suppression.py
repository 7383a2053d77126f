"""Findings that are known do not count, and a suppression that hides nothing is itself found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.contracts.documents.validation import Finding, Severity
from aprtui.contracts.suppression import STALE, Reported, read_baseline, suppressions_of, write_baseline
from aprtui.errors import UnreadableError, UsageError
from tests.cli.conftest import Outcome
from tests.contracts.samples import SOUND

Run = Callable[..., Outcome]


def finding(code: str, contract: str = "a-v1", message: str = "wrong since line 4") -> Finding:
    return Finding(code, Severity.WARN, message, Path(f"/c/{contract}.yaml"), 3)


FINDINGS = (finding("LINT-003"), finding("LINT-003", "b-v1"), finding("LINT-001"), finding("LINT-012"))


def left(reported: Reported) -> list[str]:
    return [f"{found.code}@{found.path.stem}" for found in reported.findings]


@pytest.mark.parametrize(
    ("written", "remaining"),
    [
        (("LINT-003",), ["LINT-001@a-v1", "LINT-012@a-v1"]),
        (("LINT-003@a-v1",), ["LINT-003@b-v1", "LINT-001@a-v1", "LINT-012@a-v1"]),
        (("*@a-*",), ["LINT-003@b-v1", "LINT-012@a-v1"]),
        (("LINT-00*", "LINT-003"), ["LINT-012@a-v1"]),
    ],
)
def test_a_code_is_hidden_in_one_contract_or_in_all(written: tuple[str, ...], remaining: list[str]) -> None:
    found = suppressions_of(written).apply(FINDINGS, [])
    assert left(found) == remaining and found.hidden == len(FINDINGS) - len(remaining)


def test_a_suppression_that_hides_nothing_is_a_finding() -> None:
    found = suppressions_of(("LINT-009", "LINT-003")).apply(FINDINGS, [])
    assert [entry.message for entry in found.findings if entry.code == STALE] == [
        "--suppress LINT-009: hides nothing: remove it"
    ]


@pytest.mark.parametrize("code", ["LINT-010", "LINT-012", "LINT-016", "PV-LCK-001", "LINT-012@a-v1"])
def test_what_evidence_refutes_cannot_be_hidden(code: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be hidden: see aprtui contracts explain"):
        suppressions_of((code,))
    assert "LINT-012@a-v1" in left(suppressions_of(("*",)).apply(FINDINGS, []))
    path = tmp_path / "known.json"
    assert write_baseline(path, FINDINGS) == 3
    assert left(suppressions_of((), read_baseline(path)).apply(FINDINGS, [])) == ["LINT-012@a-v1"]


def test_a_baseline_hides_what_it_knows_wherever_its_line_is_now_and_no_second_one(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_baseline(path, FINDINGS[:2])
    known = suppressions_of((), read_baseline(path))
    moved = finding("LINT-003", message="wrong since line 9")
    assert left(known.apply((moved, moved, FINDINGS[1]), [])) == ["LINT-003@a-v1"]
    assert left(known.apply((finding("LINT-003", message="otherwise wrong"),), [])) == ["LINT-003@a-v1"]


def test_an_entry_of_a_baseline_that_is_no_more_is_a_finding_for_contracts_that_were_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_baseline(path, FINDINGS[:2])
    found = suppressions_of((), read_baseline(path)).apply((), [Path("/c/b-v1.yaml")])
    (stale,) = found.findings
    assert stale.code == STALE and stale.path == path
    assert stale.message.startswith("LINT-003 of ") and stale.message.endswith(
        "c/b-v1.yaml is no more: wrong since line …"
    )


def test_a_finding_that_is_suppressed_and_known_is_not_stale(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_baseline(path, FINDINGS[:1])
    found = suppressions_of(("LINT-003",), read_baseline(path)).apply(FINDINGS[:1], [FINDINGS[0].path])
    assert found == Reported((), 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "aprtui-baseline", "version": 1, "findings": [1]}'])
def test_a_file_that_is_no_baseline_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    with pytest.raises(UnreadableError, match="write it again with --write-baseline"):
        read_baseline(path)


def test_the_commands_write_and_use_a_baseline(aprtui: Run, tmp_path: Path) -> None:
    contract, known = tmp_path / "sample.yaml", tmp_path / "known.json"
    contract.write_text(SOUND.replace("FALSIFY-2", "FALSIFY-4"))
    arguments = ("contracts", "lint", contract, "--strict", "--baseline", known)
    assert aprtui("contracts", "lint", contract, "--strict").code == 1
    assert aprtui(*arguments).code == 3
    done = aprtui(*arguments, "--write-baseline")
    assert done.code == 0 and f"2 finding(s) written to {known}" in done.err
    done = aprtui(*arguments)
    assert (done.code, done.out) == (0, "0 error(s), 0 warning(s), 2 suppressed\n")
    contract.write_text(SOUND)
    done = aprtui(*arguments)
    assert done.code == 1 and "PV-SUP-001: LINT-003 of sample.yaml is no more" in done.out
    summary = json.loads(aprtui(*arguments, "--json").out.splitlines()[-1])
    assert summary["suppressed"] == 1
    assert aprtui("contracts", "lint", contract, "--write-baseline").code == 2
    assert aprtui("contracts", "lint", contract, "--suppress", "@x").code == 2
