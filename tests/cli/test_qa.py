from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprtui.engine.quality.gates import NAMES
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines go where no other run looks; compiled kernels stay where they are."""
    monkeypatch.setattr("aprtui.resources.quality_baselines", lambda: tmp_path / "quality")


def test_every_gate_has_a_line_and_the_verdict_comes_last(aprtui: Run) -> None:
    done = aprtui("qa", "--threads", 1)
    lines = done.out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == list(NAMES)
    assert lines[-1].startswith("PASS: 11 of 19 gates")
    assert done.code == 0


def test_json_has_the_fields_of_apr_qa_and_skipped_is_not_passed(aprtui: Run) -> None:
    done = aprtui("qa", "--threads", 1, "--json")
    report = json.loads(done.out)
    assert report["passed"] is True and report["gates_executed"] == 11 and report["gates_skipped"] == 8
    for gate in report["gates"]:
        assert {"name", "passed", "message", "duration_ms", "skipped"} <= gate.keys()
        assert gate["passed"] is not gate["skipped"]
    assert {"model", "total_duration_ms", "timestamp", "summary", "system_info"} <= report.keys()
    speed = next(gate for gate in report["gates"] if gate["name"] == "throughput")
    assert speed["value"] >= speed["threshold"] == 10.0


def test_exit_codes_tell_failed_required_too_few_and_unreadable_apart(aprtui: Run, tmp_path: Path) -> None:
    assert aprtui("qa", "--threads", 1, "--assert-tps", 1e9).code == 1
    assert aprtui("qa", "--threads", 1, "--require", "gpu_speedup").code == 1
    assert aprtui("qa", "--threads", 1, "--min-executed", 12).code == 125
    assert aprtui("qa", "--threads", 1, "--require", "nothing").code == 2
    assert aprtui("qa", "--golden", tmp_path / "absent.yaml").code == 2
    assert aprtui("qa", tmp_path / "absent.gguf").code == 3
    assert aprtui("qa", tmp_path / "absent.gguf", "--bisect").code == 125


def test_a_baseline_is_stored_and_held_against(aprtui: Run, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert "no baseline" in aprtui("qa", "--threads", 1, "--baseline", path, "--save-baseline").out
    path.write_text('{"tokens_per_second": 1e9}')
    done = aprtui("qa", "--threads", 1, "--baseline", path)
    assert done.code == 1 and "performance_regression" in done.out.splitlines()[-1]
