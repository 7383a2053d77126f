"""`aprtui replay` and the ways of judging of `aprtui diff`, as a user types them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.main import cli
from aprtui.errors import ExitCode
from aprtui.trace.graph.stage import Node
from tests.engine.embedded_captures import edit

PROMPT = "def fibonacci(n):"
FAULT = "layer=2,stage=ffn_gate,kind=scale,magnitude=0.5"


def run(*arguments: str | Path) -> Result:
    """Run in this process; the exit code is what the command returns."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest exact capture, an honest q8 one, and a faulty q8 one of the embedded model."""
    folder = tmp_path_factory.mktemp("captures")
    for name, more in (("exact", []), ("q8", ["--mode", "q8"]), ("faulty", ["--mode", "q8", "--inject", FAULT])):
        result = run("trace", "-p", PROMPT, "--save-tensor-dir", folder / name, *more)
        assert result.exception is None, result.output
    return folder


def summary(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_replay_of_an_honest_capture_exits_0(captures: Path) -> None:
    result = run("replay", captures / "exact")
    assert result.return_value == ExitCode.PASS
    assert "bit-equal" in result.stdout


def test_replay_names_the_faulty_stage_and_exits_1(captures: Path) -> None:
    result = run("replay", captures / "faulty", "--json")
    assert result.return_value == ExitCode.DIVERGENCE
    divergence = summary(result)["first_divergence"]
    assert (divergence["layer"], divergence["stage"], divergence["state"]) == (2, "ffn_gate", "injected")
    assert divergence["error"] > divergence["bound"] > divergence["floor"] > 0


def test_diff_with_the_model_judges_by_a_measured_floor(captures: Path) -> None:
    from aprtui.resources import embedded_model

    honest = run("diff", captures / "exact", captures / "q8", "--model", embedded_model())
    assert honest.return_value == ExitCode.PASS, honest.output
    assert "what differs: the arithmetic" in honest.stdout
    faulty = run("diff", captures / "exact", captures / "faulty", "--model", embedded_model(), "--json")
    assert faulty.return_value == ExitCode.DIVERGENCE
    assert summary(faulty)["first_divergence"]["stage"] == "ffn_gate"


def test_diff_with_replay_tells_injected_from_inherited(captures: Path) -> None:
    from aprtui.resources import embedded_model

    result = run("diff", captures / "exact", captures / "faulty", "--model", embedded_model(), "--replay", "--json")
    assert result.return_value == ExitCode.DIVERGENCE
    records = [json.loads(line) for line in result.stdout.splitlines()]
    states = {(r["layer"], r["stage"]): r["state"] for r in records if r["record"] == "comparison"}
    assert states[2, "ffn_gate"] == "injected"
    assert states[2, "ffn_silu"] == states[3, "attn_norm"] == "inherited"
    assert states[0, "embedding"] == "clean"
    assert list(states.values()).count("injected") == 1


def test_diff_with_replay_says_whose_fault_it_is_even_if_it_is_the_references(captures: Path) -> None:
    from aprtui.resources import embedded_model

    for sides, whose in ((("exact", "faulty"), "injected in B"), (("faulty", "exact"), "injected in A")):
        paths = [captures / side for side in sides]
        text = " ".join(run("diff", *paths, "--model", embedded_model(), "--replay").stdout.split())
        assert whose in text and "layer 2 ffn_gate" in text


def test_diff_with_replay_judges_what_two_captures_that_part_have_in_common(captures: Path, tmp_path: Path) -> None:
    from aprtui.resources import embedded_model

    for name, ids in (("a", "1,2,3,4"), ("b", "1,2,3,5")):
        run(
            "trace",
            "--tokens",
            ids,
            "--save-tensor-dir",
            tmp_path / name,
            *(("--inject", FAULT) if name == "b" else ()),
        )
    result = run("diff", tmp_path / "a", tmp_path / "b", "--model", embedded_model(), "--replay", "--json")
    assert result.exception is None, result.output
    divergence = summary(result)["first_divergence"]
    assert (divergence["layer"], divergence["stage"], divergence["state"]) == (2, "ffn_gate", "injected")


def test_diff_with_a_third_capture_judges_by_its_error(captures: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    run("trace", "-p", PROMPT, "--mode", "q8", "--kv", "f16", "--save-tensor-dir", reference)
    assert run("diff", captures / "exact", captures / "q8", "--floor", reference).return_value == ExitCode.PASS
    faulty = run("diff", captures / "exact", captures / "faulty", "--floor", reference)
    assert faulty.return_value == ExitCode.DIVERGENCE


def test_without_grounds_the_diff_cannot_be_judged_and_says_by_what_it_could(captures: Path) -> None:
    result = run("diff", captures / "exact", captures / "q8")
    assert result.return_value == ExitCode.UNKNOWN
    said = " ".join(result.stdout.split())
    assert "and nothing says how much is allowed" in said and "judge by a measured noise floor" in said
    parts = run("diff", captures / "exact", captures / "q8", "--stage", "lm_head", "--allow-missing", "ffn_*").stdout
    assert re.search(r"^aprtui diff .* --model \S+ --stage lm_head --allow-missing 'ffn_\*'$", parts, re.MULTILINE)


def test_a_verdict_line_gives_error_floor_bound_and_smallest_tolerance(captures: Path) -> None:
    for name in ("exact", "q8", "faulty"):
        text = " ".join(run("replay", captures / name).stdout.split())
        said = all(word in text for word in ("floor", "bound", "smallest tolerance that passes: token_rel_l2="))
        assert said or "bit-equal" in text


def test_a_rounding_that_is_not_known_is_a_usage_error(captures: Path) -> None:
    result = run("replay", captures / "q8", "--rounding", "matmul_input=q3")
    assert "matmul_input is one of" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--floor", "x", "--replay"), "--floor and --model or --replay"),
        (("--model", "m.gguf", "--model-a", "m.gguf"), "leave out --model-a"),
        (("--tolerance", "rel_l2=1", "--floor", "x"), "bounds of your own"),
        (("--rounding", "matmul_input=none"), "give --replay as well"),
    ],
)
def test_contradicting_ways_of_judging_are_refused(captures: Path, options: tuple[str, ...], said: str) -> None:
    assert said in str(run("diff", captures / "exact", captures / "q8", *options).exception)


@pytest.mark.group("conformance")
def test_a_capture_of_another_model_cannot_be_judged(captures: Path, conformance: Path) -> None:
    model = conformance / "qwen2-q4km" / "model.gguf"
    result = run("replay", captures / "exact", "--model", model)
    assert result.return_value == ExitCode.UNKNOWN


def test_a_truncated_stage_file_is_said_to_be_broken(captures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(captures / "exact", copy)
    path = copy / "layer-1" / "ffn_up.bin"
    path.write_bytes(path.read_bytes()[:-4])
    result = run("replay", copy)
    assert result.return_value == ExitCode.UNKNOWN and "ffn_up.bin" in result.output


def test_a_capture_that_died_is_never_a_pass(captures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(captures / "exact", copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["complete"] = False
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run("replay", copy).return_value == ExitCode.UNKNOWN


def test_changed_values_of_a_capture_with_a_manifest_are_corrupt(captures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(captures / "exact", copy)
    edit(copy, Node(1, "ffn_up"), lambda values: values + np.float32(1))
    result = run("replay", copy)
    assert result.return_value == ExitCode.UNKNOWN and "CRC32" in result.output
