"""`aprtui contracts validate`: lines, records and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.contracts.samples import SOUND, edited

Run = Callable[..., Outcome]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.yaml"
    path.write_text(SOUND)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text(edited("formula: y = a * x", "formula: ''").replace("    bound: 4\n", "", 1))
    return path


def test_a_valid_contract_says_so(aprtui: Run, sound: Path) -> None:
    done = aprtui("contracts", "validate", sound)
    assert (done.code, done.out) == (0, "\n0 error(s), 0 warning(s)\nContract is valid.\n")


def test_findings_are_lines_with_severity_code_and_place(aprtui: Run, broken: Path) -> None:
    done = aprtui("contracts", "validate", broken)
    as_kernel = "(no metadata.kind: judged as a kernel)"
    assert done.code == 1
    assert done.out.splitlines() == [
        f"[ERROR] SCHEMA-004: equation 'scaled': the formula is empty {as_kernel} ({broken}:11)",
        f"[WARN] SCHEMA-012: KANI-1: no bound is given ({broken}:36)",
        "",
        "1 error(s), 1 warning(s)",
    ]


def test_warnings_alone_are_valid(aprtui: Run, tmp_path: Path) -> None:
    path = tmp_path / "warned.yaml"
    path.write_text(edited("    bound: 4\n", ""))
    done = aprtui("contracts", "validate", path)
    assert done.code == 0 and done.out.endswith("0 error(s), 1 warning(s)\nContract is valid.\n")


def test_json_is_a_record_a_finding_a_file_and_a_summary(aprtui: Run, broken: Path) -> None:
    done = aprtui("contracts", "validate", broken, "--json")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["record"] for record in records] == ["finding", "finding", "file", "summary"]
    assert records[0]["code"] == "SCHEMA-004" and records[0]["line"] == 11 and records[0]["severity"] == "ERROR"
    assert records[2]["valid"] is False
    assert records[3] == {"record": "summary", "files": 1, "unreadable": 0, "errors": 1, "warnings": 1}


def test_a_directory_means_the_contracts_below_it(aprtui: Run, sound: Path, broken: Path) -> None:
    done = aprtui("contracts", "validate", sound.parent)
    assert done.code == 1 and f"{sound}:\n" in done.out and f"{broken}:\n" in done.out
    assert done.out.endswith("2 files: 1 valid, 0 refused, 0 unreadable; 1 error(s), 1 warning(s)\n")


def test_an_unreadable_file_is_one_line_and_the_others_are_still_judged(aprtui: Run, sound: Path) -> None:
    (sound.parent / "bad.yaml").write_text("a: [\n")
    done = aprtui("contracts", "validate", sound.parent)
    assert done.code == 3 and "Contract is valid." in done.out
    assert len(done.err.splitlines()) == 1 and "bad.yaml:2: not YAML" in done.err


@pytest.mark.parametrize(
    ("text", "ours", "pvs"),
    [
        (None, 3, 2),
        ("", 3, 2),
        ("a: [\n", 3, 3),
        (SOUND, 0, 0),
        ("metadata: {version: '1', description: d}\n", 1, 1),
        ("metadata: {}\n", 1, 3),
        ("sections: []\n", 1, 3),
        ("metadata: {kind: kernal}\n", 1, 3),
    ],
)
def test_exit_codes_of_ours_and_of_pv(aprtui: Run, tmp_path: Path, text: str | None, ours: int, pvs: int) -> None:
    path = tmp_path / "contract.yaml"
    if text is not None:
        path.write_text(text)
    assert aprtui("contracts", "validate", path).code == ours
    assert aprtui("contracts", "validate", path, "--pv-exit-codes").code == pvs


def test_a_folder_without_contracts_is_no_success(aprtui: Run, tmp_path: Path) -> None:
    assert aprtui("contracts", "validate", tmp_path).code == 3
    assert aprtui("contracts", "validate", tmp_path, "--pv-exit-codes").code == 2
