"""`aprtui diff` as users and scripts see it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from aprtui.cli.diff import command
from aprtui.errors import ExitCode, UnreadableError, UsageError
from aprtui.trace.aprt import write_aprt
from aprtui.trace.graph.stage import Node
from aprtui.trace.graph.stage_graph import graph_for
from aprtui.trace.manifest import EngineInfo
from tests.compare.synthetic import (
    CONFIG,
    HEADS_OF_16,
    NODES,
    TOKENS,
    changed,
    reordered,
    scaled,
    with_config,
    write_capture,
)


def diff(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(word) for word in arguments], standalone_mode=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in diff(*arguments, "--json").stdout.splitlines()]


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "aprtui", "diff", *(str(word) for word in arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    edits = {Node(1, "ffn_gate"): changed((3, 5), 9.0), Node(2, "ffn_up"): scaled(2)}
    engine = EngineInfo("other", "2", "cpu", "cpu", "cpu", "q8", {"matmul_input": "q8_k"})
    return write_capture(tmp_path / "b", edits=edits, engine=engine)


def test_exit_code_is_the_verdict(a: Path, b: Path) -> None:
    assert diff(a, a).return_value == 0
    assert diff(a, b, "--tolerance", "rel_l2=0.1").return_value == 1
    assert diff(a, b).return_value == 125
    assert diff(a, b, "--tolerance", "max_abs=100").return_value == 0


@pytest.mark.gate
def test_process_exits_with_the_verdict_and_keeps_stderr_for_messages(a: Path, b: Path) -> None:
    assert process(a, b).returncode == 125
    failed = process(a, b, "--tolerance", "rel_l2=0.1")
    # A slow machine may be told how far it is.
    assert failed.returncode == 1 and all(line.endswith("…") for line in failed.stderr.splitlines())
    missing = process(a, b.parent / "nowhere")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.count("\n") == 1
    assert process(a, b, "--stage", "ffn_sideways").returncode == 2


def test_summary_is_the_record_that_scripts_rely_on(a: Path, b: Path) -> None:
    summary = records(a, b, "--tolerance", "rel_l2=0.1")[-1]
    divergence = summary.pop("first_divergence")
    assert summary.pop("headline").startswith("layer 1 ffn_gate, token 3: looks like 1 channel alone: 5 (")
    (command,) = summary.pop("next")
    assert command.endswith("--stage ffn_gate --layers 1 --tolerance rel_l2=0.1 --limit 50")
    assert summary == {
        "record": "summary", "verdict": "FAIL", "reasons": [], "compared": NODES, "expected": NODES,
        "allowed_missing": 0, "aligned_tokens": len(TOKENS), "smallest_tolerance": "rel_l2=1.12", "everywhere": [],
        "judgeable": True,
    }  # fmt: skip
    error = divergence.pop("error")
    assert error > 0.1
    assert divergence == {
        "layer": 1, "stage": "ffn_gate", "token": 3, "channel": 5, "metric": "rel_l2", "floor": None, "bound": 0.1,
        "state": "injected", "certainty": "likely: all that it is computed from is within bounds",
        "settled_by": "a replay of each side with its model: --replay --model MODEL",
    }  # fmt: skip


def test_attention_map_gives_an_index(a: Path, tmp_path: Path) -> None:
    c = write_capture(tmp_path / "c", edits={Node(0, "attn_softmax"): changed((1, 2, 0), 7.0)})
    divergence = records(a, c, "--tolerance", "rel_l2=1e-6")[-1]["first_divergence"]
    assert divergence["index"] == {"head": 1, "query": 2, "key": 0}
    assert "token" not in divergence


def test_model_level_stage_has_layer_null(a: Path, tmp_path: Path) -> None:
    c = write_capture(tmp_path / "c", edits={Node(None, "final_norm"): changed((2, 1), np.inf)})
    divergence = records(a, c)[-1]["first_divergence"]
    assert (divergence["layer"], divergence["stage"]) == (None, "final_norm")
    assert (divergence["metric"], divergence["error"], divergence["bound"]) == ("non_finite", 1.0, 0.0)


def test_segment_lists_the_stages_that_were_not_captured(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", unplanned=["ffn_norm"])
    b = write_capture(tmp_path / "b", unplanned=["ffn_norm"], edits={Node(1, "ffn_gate"): scaled(2)})
    divergence = records(a, b, "--tolerance", "rel_l2=0.1")[-1]["first_divergence"]
    assert divergence["segment"] == [{"layer": 1, "stage": "ffn_norm"}, {"layer": 1, "stage": "ffn_gate"}]


def test_every_stage_has_a_record_in_execution_order(a: Path, b: Path) -> None:
    lines = records(a, b)
    assert lines[0]["record"] == "header"
    assert {"what": "mode", "a": "exact", "b": "q8"} in lines[0]["differences"]
    stages = [(line["layer"], line["stage"]) for line in lines if line["record"] == "comparison"]
    assert len(stages) == NODES
    assert stages[:2] == [(0, "embedding"), (0, "attn_norm")]
    assert stages[-1] == (None, "lm_head")


def test_infinite_numbers_are_strings(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", edits={Node(1, "ffn_out"): scaled(0)})
    b = write_capture(tmp_path / "b")
    record = next(r for r in records(a, b) if (r.get("layer"), r.get("stage")) == (1, "ffn_out"))
    assert (record["error"], record["verdict"]) == ("inf", "UNKNOWN")


def test_text_names_the_divergence_and_fits_a_terminal(a: Path, b: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a.parent)
    text = diff("a", "b", "--tolerance", "rel_l2=0.1").output
    assert "mode: A exact · B q8" in text
    assert "tokens  5 tokens aligned, ids equal (manifest)" in text
    assert "FAIL  layer 1 ffn_gate, token 3: looks like 1 channel alone: 5 (a row of the" in text
    assert "first divergence: layer 1 ffn_gate, token 3, channel 5: rel_l2" in text
    row = next(line for line in text.splitlines() if line.startswith("ffn_gate"))
    assert row.split()[1:4] == ["FAIL", "1", "1"]
    assert f"coverage  {NODES} of {NODES} stages compared, 5 tokens aligned" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("aprtui ")) <= 80
    assert "\x1b" not in text


def test_table_shows_one_metric_and_the_notes_show_nan(a: Path, tmp_path: Path) -> None:
    edits = {Node(layer, "ffn_out"): changed((1, 1), np.nan) for layer in (0, 1, 2)}
    text = diff(a, write_capture(tmp_path / "c", edits=edits)).output
    row = next(line for line in text.splitlines() if line.startswith("ffn_out"))
    assert row.split()[:5] == ["ffn_out", "FAIL", "0", "0", "0"]  # what is finite is equal
    assert "layers 0–2 ffn_out:  NaN 0 in A, 3 in B; Inf 0 in A, 0 in B; 3 on one side only" in " ".join(
        text.split("\n")
    )
    assert "first divergence: layer 0 ffn_out, token 1, channel 1: non_finite 1" in text
    assert "smallest  tolerance that passes: none would" in text


def test_unknown_prints_the_command_that_settles_it(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a.parent)
    edits = {Node(0, "attn_norm"): scaled(1 + 7e-7), Node(1, "ffn_up"): scaled(1.02)}
    write_capture(a.parent / "b", edits=edits)
    lines = diff("a", "b").output.splitlines()
    assert any(line.startswith("UNKNOWN  2 of 54 stages differ, and nothing says") for line in lines)
    assert "largest differences in layer 1 ffn_up, a stage with 10 times the error of its" in lines
    settling = lines[-1].split()
    assert settling[:4] == ["aprtui", "diff", "a", "b"]
    assert diff(*settling[2:]).return_value == 0


def test_garbage_is_not_offered_to_be_tolerated(a: Path, b: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a.parent)
    lines = diff("a", "b").output.splitlines()
    assert not any("--tolerance" in line for line in lines)
    assert any(line.startswith("seen  more than noise mostly is: layer 1 ffn_gate (rel_l2") for line in lines)
    assert lines[-1] == "aprtui diff a b --stage ffn_gate --layers 1 --limit 50"
    assert max(len(line) for line in lines) <= 80


def test_nan_on_both_sides_is_in_row_note_verdict_and_record(tmp_path: Path) -> None:
    edits = {Node(layer, "ffn_gate"): changed((1, 1), np.nan) for layer in (0, 2)}
    a = write_capture(tmp_path / "a", edits=edits)
    text = diff(a, a).output
    row = next(line for line in text.splitlines() if line.startswith("ffn_gate"))
    assert row.split()[1:] == ["PASS", "–", "0", "0", "0", "0", "2", "100%"]
    assert "layers 0, 2 ffn_gate:  2 NaN, 0 Inf on both sides, left out of the numbers" in text
    verdict = " ".join(text[text.index("PASS  every") :].split())
    assert verdict.startswith(
        "PASS every compared stage is bit-equal; 1 NaN, 0 Inf on both sides in layer 0 ffn_gate (first of 2 stages)"
    )
    record = next(r for r in records(a, a) if (r.get("layer"), r.get("stage")) == (0, "ffn_gate"))
    assert (record["reason"], record["nan_both"]) == ("bit-equal; 1 NaN, 0 Inf on both sides", 1)


def test_nan_everywhere_points_to_the_statistics(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", edits={Node(1, "ffn_gate"): scaled(np.nan)})
    result = diff(a, a)
    assert "1 stage has no finite value to compare" in result.output
    assert "60 NaN, 0 Inf on both sides in layer 1 ffn_gate" in result.output
    assert result.output.splitlines()[-1] == f"aprtui stats {a}"
    assert result.return_value == 125


def test_first_is_the_first_layer_beyond_noise(a: Path, tmp_path: Path) -> None:
    factors = {0: 1 + 7e-7, 1: 1.001, 2: 1.02}
    b = write_capture(tmp_path / "b", edits={Node(n, "ffn_up"): scaled(factor) for n, factor in factors.items()})

    def first(*arguments: str) -> str:
        lines = diff(a, b, *arguments).output.splitlines()
        return next(line for line in lines if line.startswith("ffn_up")).split()[2]

    assert first() == "1"
    assert first("--tolerance", "rel_l2=0.01") == "2"
    assert first("--tolerance", "rel_l2=0.1") == "–"
    assert "first: first layer with rel_l2 above 1e-05; worst:" in diff(a, b).output
    assert "first: first layer beyond its bound; worst:" in diff(a, b, "--tolerance", "rms=1").output


def test_bit_equal_captures_need_no_tolerance_to_be_named(a: Path, tmp_path: Path) -> None:
    assert "smallest" not in diff(a, a).output
    b = write_capture(tmp_path / "b", edits={Node(1, "ffn_up"): scaled(1.02)})
    assert "smallest  tolerance that passes: rel_l2=0.02" in diff(a, b, "--tolerance", "rel_l2=0.1").output


def test_selection_is_not_mistaken_for_missing_stages(a: Path, b: Path) -> None:
    arguments = (a, b, "--tolerance", "rel_l2=0.1", "--stage", "ffn_gate")
    output = diff(*arguments).output
    text = " ".join(output.split())
    assert output.splitlines()[-1] == f"aprtui diff {a} {b} --tolerance rel_l2=0.1"
    assert "Not compared, so as likely" not in text
    assert "The stages before it were not selected and may be to blame: layer 1 ffn_norm" in text
    divergence = records(*arguments)[-1]["first_divergence"]
    assert "segment" not in divergence
    assert divergence["not_selected"] == [{"layer": 1, "stage": "ffn_norm"}]


def test_unfinished_capture_is_to_be_captured_again(a: Path, tmp_path: Path) -> None:
    b = write_capture(tmp_path / "b", complete=False, edits={Node(2, "ffn_up"): scaled(1.01)})
    for layer in (0, 1):
        (b / f"layer-{layer}/ffn_up.bin").write_bytes(bytes(300))
    result = diff(a, b)
    assert result.return_value == 125
    assert "layers 0–1 ffn_up:  not compared: not written: the run did not finish (B)" in result.output
    assert "next  the run of B did not finish: all of it, captured by:" in " ".join(result.output.splitlines())
    assert result.output.splitlines()[-1].startswith("aprtui trace MODEL --tokens ")
    assert "B is incomplete: its run did not finish" in records(a, b)[-1]["reasons"]


def test_stages_allowed_to_be_missing_are_said(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", manifest=False)
    nodes = [node for node in graph_for(CONFIG).nodes if node != Node(0, "embedding")]
    b = write_capture(tmp_path / "b", manifest=False, without=nodes)
    text = diff(a, b, "--tokens", "5,3,9,1,7", "--allow-missing", "*").output
    assert f"coverage  1 of {NODES} stages compared, {NODES - 1} allowed to be missing, 5 tokens aligned" in text
    assert records(a, b, "--tokens", "5,3,9,1,7", "--allow-missing", "*")[-1]["allowed_missing"] == NODES - 1


def test_other_rope_layout_is_hinted_at(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", config=HEADS_OF_16)
    b = write_capture(tmp_path / "b", config=HEADS_OF_16, edits=reordered((0, 1)))
    text = " ".join(diff(a, b).output.split())
    assert "hint layers 0–1 qkv_matmul, qkv_bias, q_post_rope, k_post_rope: another order of channels?" in text
    (hint,) = (record for record in records(a, b) if record["record"] == "hint")
    assert {"layer": 1, "stage": "k_post_rope"} in hint["nodes"]


def test_single_token_is_not_called_tokens(tmp_path: Path) -> None:
    a = write_capture(tmp_path / "a", tokens=TOKENS[:1])
    assert "tokens  1 token aligned," in diff(a, a).output
    assert "1 tokens" not in diff(a, a).output


def test_files_named_after_two_stages_get_a_remark(a: Path, tmp_path: Path) -> None:
    left, right = a / "layer-1/ffn_gate.bin", a / "layer-1/ffn_up.bin"
    assert "A is named ffn_gate, B ffn_up" in diff(left, right).stderr
    renamed = tmp_path / "mine.bin"
    renamed.write_bytes(left.read_bytes())
    assert diff(left, renamed).stderr == diff(left, left).stderr == ""


def test_help_names_every_exit_code_and_where_ids_are_recorded() -> None:
    text = " ".join(diff("--help").output.split())
    codes = text[text.index("Exit codes:") : text.index("Options:")]
    assert {f"{code.value} " in codes for code in ExitCode} == {True}
    assert "_PROVENANCE.txt" in text


def test_one_changed_element_is_not_shown_as_wholly_equal(tmp_path: Path) -> None:
    config = with_config(ffn=60)
    a = write_capture(tmp_path / "a", config=config)
    c = write_capture(tmp_path / "c", config=config, edits={Node(1, "ffn_gate"): changed((3, 5), 9.0)})
    row = next(line for line in diff(a, c).output.splitlines() if line.startswith("ffn_gate"))
    assert row.endswith(" 99%")  # 299 of 300


def test_side_without_manifest_is_said_to_state_nothing(a: Path, tmp_path: Path) -> None:
    text = diff(a, write_capture(tmp_path / "c", manifest=False)).output
    assert "no manifest in B: model, engine and mode not known" in text
    assert "the other states  model tiny," in text
    assert "as their embedding stages agree" in text


def test_differing_tokens_are_said_before_any_number(a: Path, tmp_path: Path) -> None:
    c = write_capture(tmp_path / "c", tokens=(*TOKENS[:3], 8, 8))
    result = diff(a, c, "--tolerance", "rel_l2=1")
    text = " ".join(result.output.split())
    assert "tokens token ids differ from position 3 on: A has 1, B has 8; the numbers below are of the first 3" in text
    assert result.return_value == 125
    assert records(a, c)[0]["token_problem"].startswith("token ids differ from position 3")


def test_missing_stages_are_listed_with_their_layers(a: Path, tmp_path: Path) -> None:
    c = write_capture(tmp_path / "c", without=[Node(layer, "ffn_silu") for layer in range(3)])
    result = diff(a, c)
    assert "layers 0–2 ffn_silu:  not compared: in A only" in result.output
    assert f"3 of {NODES} expected stages could not be compared" in " ".join(result.output.split())
    assert result.return_value == 125
    assert diff(a, c, "--allow-missing", "ffn_s*").return_value == 0


def test_one_option_accepts_all_that_is_missing_and_the_report_says_it_so(a: Path, tmp_path: Path) -> None:
    c = write_capture(tmp_path / "c", without=[Node(0, name) for name in ("ffn_gate", "ffn_up", "ffn_silu")])
    lines = diff(a, c).output.splitlines()
    command = shlex.split(lines[lines.index("next  or accept that they are missing:") + 1])
    assert command == ["aprtui", "diff", str(a), str(c), "--allow-missing", "ffn_gate,ffn_up,ffn_silu"]
    assert diff(a, c, *command[4:]).return_value == 0
    assert diff(a, c, "--allow-missing", "ffn_gate, ffn_up", "--allow-missing", "ffn_silu").return_value == 0
    assert diff(a, c, "--allow-missing", "ffn_gate,ffn_up").return_value == 125
    with pytest.raises(UsageError, match="an entry is empty"):
        diff(a, c, "--allow-missing", "ffn_gate,")


def test_stale_and_missing_files_are_said_on_stderr(a: Path, b: Path) -> None:
    (b / "layer-7").mkdir()
    write_aprt(b / "layer-7/ffn_up.bin", 7, np.zeros(3, np.float32))
    (b / "layer-0/ffn_up.bin").unlink()
    result = diff(a, b)
    assert "layer-7/ffn_up.bin: stale" in result.stderr
    assert "layer-0/ffn_up.bin: listed in the manifest, not there" in result.stderr


def test_two_files_compare_element_by_element(a: Path, b: Path) -> None:
    left, right = a / "layer-1/ffn_gate.bin", b / "layer-1/ffn_gate.bin"
    assert diff(left, left).return_value == 0
    assert diff(left, right).return_value == 125
    failed = diff(left, right, "--tolerance", "rel_l2=0.1")
    assert failed.return_value == 1
    assert "layer 1 ffn_gate, element 41: rel_l2" in failed.output  # token 3 of width 12, channel 5
    summary = records(left, right, "--tolerance", "rel_l2=0.1")[-1]
    assert summary["first_divergence"]["index"] == {"element": 41}
    assert (summary["compared"], summary["expected"], summary["aligned_tokens"]) == (1, 1, None)


def test_apr_format_is_one_record_and_a_verdict(a: Path, b: Path) -> None:
    left, right = a / "layer-1/ffn_gate.bin", b / "layer-1/ffn_gate.bin"
    result = diff(left, right, "--format", "apr-stage-diff-v1", "--limit", "1")
    record = json.loads(result.stdout)
    assert (record["schema"], record["layer"], record["dim_product"]) == ("apr-stage-diff-v1", 1, len(TOKENS) * 12)
    assert (record["max_abs_diff_index"], len(record["top_diffs"])) == (41, 1)
    assert (record["verdict"], result.return_value) == ("UNKNOWN", 125)


def test_trailing_bytes_are_reported_and_read_past(a: Path) -> None:
    path = a / "layer-1/ffn_gate.bin"
    path.write_bytes(path.read_bytes() + b"tail")
    result = diff(path, path)
    assert result.return_value == 0
    assert "4 bytes after the declared values" in result.stderr


def test_requests_that_make_no_sense_are_usage_errors(a: Path, b: Path) -> None:
    file = a / "layer-1/ffn_gate.bin"
    for arguments in (
        (a, file), (file, a), (file, a / "layer-2/ffn_gate.bin"), (file, a / "layer-1/attn_norm.bin"),
        (file, file, "--stage", "ffn_gate"), (a, b, "--format", "apr-stage-diff-v1"),
        (file, file, "--json", "--format", "apr-stage-diff-v1"), (a, b, "--tolerance", "speed=3"),
        (a, b, "--layers", "2..2"), (a, b, "--stage", ""), (a, b, "--layers", ""), (file, file, "--layers", ""),
         (a, b, "--tokens", "1,x"), (a, b, "--tokens", "1,2,3"),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            diff(*arguments)


def test_a_broken_file_costs_its_stage_and_a_pass(a: Path) -> None:
    copy = shutil.copytree(a, a.parent / "copy")
    (copy / "layer-1/ffn_gate.bin").write_bytes(b"APRT\x01\x00")
    result = diff(a, copy)
    assert result.return_value == ExitCode.UNKNOWN
    assert "layer 1 ffn_gate:  not compared: damaged:" in result.output
    assert "byte 6: header ends after 6" in result.output and f"1 of {NODES} expected stages" in result.output


def test_what_is_no_capture_is_unreadable(a: Path, b: Path) -> None:
    with pytest.raises(UnreadableError, match="not an APRT stage file"):
        diff(a / "manifest.json", b / "manifest.json")
    with pytest.raises(UnreadableError, match="does not exist"):
        diff(a, b / "nowhere")


@pytest.mark.group("conformance")
def test_two_honest_engines_need_a_stated_tolerance(conformance: Path) -> None:
    sides = conformance / "qwen2-q4km/transformers", conformance / "qwen2-q4km/llamacpp"
    unjudged = diff(*sides)
    assert unjudged.return_value == 125
    assert "tokens  22 tokens aligned, as their embedding stages agree" in unjudged.output
    assert "coverage  71 of 71 stages compared" in unjudged.output
    assert "smallest  tolerance that passes: rel_l2=0.0631" in unjudged.output
    assert diff(*sides, "--tolerance", "rel_l2=0.2").return_value == 0
