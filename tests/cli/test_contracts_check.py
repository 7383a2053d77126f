"""`aprtui contracts check`: verdicts, exit codes, and that nothing in a contract is run unasked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.trace.graph.stage import Node
from tests.cli.conftest import Outcome
from tests.compare.synthetic import write_capture
from tests.contracts.captures import NAN_AT, nan_capture
from tests.contracts.samples import SOUND, edited
from tests.hangs import no_hang

Run = Callable[..., Outcome]


def contract(path: Path, check: str, test: str = "run it") -> Path:
    text = edited("    status: FUNCTIONAL", f"    status: FUNCTIONAL\n    check: {check}")
    path.write_text(text.replace("test: run it", f"test: {json.dumps(test)}", 1))
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "capture")


def test_what_holds_passes_and_what_has_no_check_is_counted_apart(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    done = aprtui("contracts", "check", contract(tmp_path / "c.yaml", "byte_format"), "--capture", capture)
    assert done.code == 0
    assert done.out.splitlines() == [
        "c 1.0  document ACTIVE",
        "  PASS    FALSIFY-1  FUNCTIONAL",
        "          wrong files 0, bound 0: 54 files, all as declared",
        "  –       FALSIFY-2  no status",
        "PASS: 1 hold, 0 fail, 0 unknown, 1 without a check",
    ]


def test_what_fails_is_exit_1_and_what_cannot_be_judged_125(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = contract(tmp_path / "c.yaml", "nan_preservation")
    assert aprtui("contracts", "check", path, "--capture", capture).code == 125
    assert aprtui("contracts", "check", path).code == 125
    lost = nan_capture(tmp_path / "lost", ()).path
    done = aprtui("contracts", "check", path, "--capture", lost)
    assert done.code == 1 and "lost its NaN" in done.out


def test_no_check_at_all_is_no_pass(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SOUND)
    done = aprtui("contracts", "check", path, "--capture", capture)
    assert done.code == 125 and "UNKNOWN: 0 hold" in done.out


def test_json_names_the_cells_with_number_and_bound(aprtui: Run, tmp_path: Path) -> None:
    path = contract(tmp_path / "c.yaml", "nan_preservation")
    cells = (NAN_AT, Node(1, "ffn_silu"), Node(1, "ffn_swigl"))
    done = aprtui("contracts", "check", path, "--capture", nan_capture(tmp_path / "x", cells).path, "--json")
    first, second, summary = (json.loads(line) for line in done.out.splitlines())
    assert done.code == 0 and (first["verdict"], first["number"], first["bound"]) == ("PASS", 0, 0)
    assert first["nodes"] == [{"layer": 1, "stage": name} for name in ("ffn_gate", "ffn_silu", "ffn_swigl")]
    assert first["life_cycle"] == "ACTIVE" and first["claims"] == [{"key": "status", "status": "FUNCTIONAL"}]
    assert second["check"] is None and second["verdict"] is None
    assert summary == {"record": "summary", "verdict": "PASS", "pass": 1, "fail": 0, "unknown": 0, "without_check": 1}


def test_a_mapping_binds_checks_and_ids_select(aprtui: Run, tmp_path: Path, capture: Path) -> None:
    path, mapping = tmp_path / "c.yaml", tmp_path / "map.yml"
    path.write_text(SOUND)
    mapping.write_text("FALSIFY-1: {check: nan_preservation}\nFALSIFY-2: {check: byte_format}\n")
    words = ("contracts", "check", path, "--capture", capture, "--mapping", mapping)
    assert aprtui(*words).code == 125
    assert aprtui(*words, "--id", "*-2").code == 0
    assert aprtui(*words, "--id", "no-such").code == 2


def test_an_unreadable_contract_or_capture_is_exit_3_and_125_for_bisect(
    aprtui: Run, tmp_path: Path, capture: Path
) -> None:
    contract(tmp_path / "a.yaml", "byte_format")
    (tmp_path / "b.yaml").write_text("a: [\n")
    words = ("contracts", "check", tmp_path / "a.yaml", tmp_path / "b.yaml", "--capture", capture)
    done = aprtui(*words)
    assert done.code == 3 and "PASS    FALSIFY-1" in done.out and "b.yaml:2" in done.err
    assert aprtui(*words, "--bisect").code == 125
    assert aprtui("contracts", "check", tmp_path / "a.yaml", "--capture", tmp_path / "gone").code == 3
    assert aprtui("contracts", "check", tmp_path / "a.yaml", "--reference", capture).code == 2


def test_a_model_is_run_where_one_is_given(aprtui: Run, tmp_path: Path, tiny_model: Path) -> None:
    path = contract(tmp_path / "c.yaml", "{name: forced_backend, backend: numpy}")
    done = aprtui("contracts", "check", path)
    assert done.code == 125 and "no model is at hand to run" in done.out
    done = aprtui("contracts", "check", path, "--model", tiny_model)
    assert done.code == 0 and "other backends 0, bound 0: numpy was asked for" in done.out
    for model in (tmp_path / "gone.gguf", path):
        assert aprtui("contracts", "check", path, "--model", model).code == 3


# --- commands ---


def test_no_command_is_run_unasked(aprtui: Run, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = contract(tmp_path / "c.yaml", "contract_valid", f"touch {witness}")
    assert aprtui("contracts", "check", path).code == 0
    assert not witness.exists()
    done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1")
    assert done.code == 0 and witness.exists()
    assert f"running: touch {witness}" in done.err


def test_a_command_that_fails_fails_its_falsifier(aprtui: Run, tmp_path: Path) -> None:
    path = contract(tmp_path / "c.yaml", "contract_valid", "false")
    done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1")
    assert done.code == 1 and "exit code 1, bound 0" in done.out


def test_output_of_a_command_goes_to_stderr(aprtui: Run, tmp_path: Path) -> None:
    path = contract(tmp_path / "c.yaml", "contract_valid", "echo spoken")
    done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1", "--json")
    assert "spoken" in done.err and all(json.loads(line) for line in done.out.splitlines())


@pytest.mark.parametrize("test", ["true; touch W", "true | cat", "echo $HOME", "A=1 true", "true > W", "", "'open"])
def test_what_needs_a_shell_or_is_no_command_is_not_run(aprtui: Run, tmp_path: Path, test: str) -> None:
    path = contract(tmp_path / "c.yaml", "contract_valid", test.replace("W", str(tmp_path / "witness")))
    done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1")
    assert done.code == 125 and "running" not in done.err and not (tmp_path / "witness").exists()


def test_a_command_that_does_not_end_is_ended_with_what_it_started(aprtui: Run, tmp_path: Path) -> None:
    script = tmp_path / "forever.sh"
    late = tmp_path / "late"
    script.write_text(f"#!/bin/sh\n(sleep 2; touch {late}) &\nsleep 600\n")
    script.chmod(0o755)
    path = contract(tmp_path / "c.yaml", "contract_valid", str(script))
    with no_hang():
        done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1", "--timeout", "0.5")
    assert done.code == 125 and "did not end within 0.5 s" in done.out
    time.sleep(2.5)
    assert not late.exists()


def test_a_command_that_is_not_there_is_unknown(aprtui: Run, tmp_path: Path) -> None:
    path = contract(tmp_path / "c.yaml", "contract_valid", "no-such-command-here at all")
    done = aprtui("contracts", "check", path, "--run-commands", "FALSIFY-1")
    assert done.code == 125 and "cannot be started" in done.out
    assert aprtui("contracts", "check", path, "--run-commands", "FALSIFY-9").code == 2
