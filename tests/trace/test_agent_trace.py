"""Agent traces: the four records that are written, and everything that others write read back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aprtui.errors import UnreadableError
from aprtui.trace.agent_trace import (
    AgentTraceWriter,
    EndOfTurn,
    Speaker,
    TraceEntry,
    is_agent_trace,
    read_agent_trace,
)

START = {"v": 1, "kind": "session_start", "session_id": "s", "ts": "@1777291200", "actor": "apr-code", "model": "m"}
PROMPT = {"v": 1, "kind": "user_prompt", "turn": 0, "text": "hello"}
END = {"v": 1, "kind": "session_end", "turn": 1, "stop_reason": "end_turn", "elapsed_ms": 500, "tokens_in": 3}


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def no_warning(problem: str) -> None:
    raise AssertionError(problem)


def test_the_four_records_are_those_of_apr_code(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with AgentTraceWriter(path, "a model", "say é", 4, no_warning) as trace:
        for text in ("on", "e", ""):
            trace.add(text)
        trace.finish(EndOfTurn.END_TURN, "�")
    start, prompt, answer, end = records_of(path)
    assert list(start) == ["v", "kind", "session_id", "ts", "actor", "model", "cwd_sha256"]
    assert (start["v"], start["kind"], start["actor"], start["model"]) == (1, "session_start", "apr-code", "a model")
    assert re.fullmatch(r"@\d{10}", start["ts"]) and start["cwd_sha256"] == "0" * 64
    assert prompt == {"v": 1, "kind": "user_prompt", "turn": 0, "text": "say é"}
    blocks = [{"type": "text", "text": "one�"}]
    assert answer == {"v": 1, "kind": "assistant_turn", "turn": 1, "blocks": blocks, "stop_reason": "end_turn"}
    assert end.pop("elapsed_ms") >= 0
    assert end == {
        "v": 1, "kind": "session_end", "turn": 1, "stop_reason": "end_turn", "tokens_in": 4, "tokens_out": 3,
    }  # fmt: skip


def test_a_run_that_dies_leaves_what_was_said_and_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace = AgentTraceWriter(path, "m", "p", 1, no_warning)
    trace.add("so far")
    trace.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    answer, end = records_of(path)[2:]
    assert answer["blocks"][0]["text"] == "so far"
    assert (answer["stop_reason"], end["stop_reason"]) == ("max_tokens", "error"), "the schema has no error of a turn"


@pytest.mark.parametrize("place", ["nowhere/trace.jsonl", "/dev/full"])
def test_a_failure_to_write_is_told_once(tmp_path: Path, place: str) -> None:
    warnings: list[str] = []
    with AgentTraceWriter(tmp_path / place, "m", "p", 1, warnings.append) as trace:
        trace.add("text")
        trace.finish(EndOfTurn.END_TURN)
    assert len(warnings) == 1 and "the run goes on" in warnings[0]


def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    path, warnings = tmp_path / "notes.txt", list[str]()
    path.write_text("mine")
    with AgentTraceWriter(path, "m", "p", 1, warnings.append):
        pass
    assert path.read_text() == "mine" and "is no agent trace" in warnings[0]
    earlier = written(tmp_path / "trace.jsonl", START)
    with AgentTraceWriter(earlier, "m", "p", 1, no_warning):
        pass
    assert len(records_of(earlier)) == 4


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with AgentTraceWriter(path, "a model", "say", 4, no_warning) as trace:
        trace.add("one")
        trace.finish(EndOfTurn.MAX_TOKENS)
    assert is_agent_trace(path)
    found = read_agent_trace(path)
    assert found.entries == (TraceEntry(0, Speaker.USER, "say"), TraceEntry(1, Speaker.MODEL, "one"))
    assert found.ending is not None and (found.ending.tokens_in, found.ending.tokens_out) == (4, 1)
    assert found.started.endswith("UTC") and found.problem == ""


@pytest.mark.group("conformance")
def test_traces_of_the_field_are_read(conformance: Path) -> None:
    folder = conformance / "contracts" / "ccpa"
    edit = read_agent_trace(folder / "0001-edit-readme" / "teacher.ccpa-trace.jsonl")
    speakers = ["user", "model", "call", "result", "call", "result", "model"]
    assert [entry.speaker.value for entry in edit.entries] == speakers
    assert (edit.actor, edit.started) == ("claude-code", "2026-04-27 12:00:00 UTC")
    assert edit.ending is not None and edit.ending.tokens_per_second == pytest.approx(92 / 1.84)
    hook = read_agent_trace(folder / "0027-hook-block" / "student.ccpa-trace.jsonl").entries[2]
    assert hook.speaker is Speaker.HOOK and hook.failed and "BLOCKED by safety hook" in hook.text


def test_every_kind_of_the_schema_has_words(tmp_path: Path) -> None:
    effects = {"files_read": ["a"], "files_written": ["b", "c"], "exit_code": 101}
    blocks = [
        {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}, {"type": "image"},
    ]  # fmt: skip
    path = written(
        tmp_path / "all.jsonl", START,
        {"v": 1, "kind": "skill_invocation", "turn": 0, "name": "review", "source": "auto_matched",
         "instructions_injected": "Look twice."},
        {"v": 1, "kind": "assistant_turn", "turn": 1, "blocks": blocks, "stop_reason": "tool_use"},
        {"v": 1, "kind": "tool_result", "turn": 2, "ok": False, "content": "failed", "side_effects": effects},
        {"v": 1, "kind": "from the future", "turn": 3},
    )  # fmt: skip
    said = {entry.speaker: entry for entry in read_agent_trace(path).entries if entry.speaker is not Speaker.OTHER}
    assert said[Speaker.SKILL].text == "review (auto matched): Look twice."
    assert said[Speaker.THOUGHT].text == "hm" and said[Speaker.CALL].text == 'Bash {"command": "ls"}'
    assert said[Speaker.RESULT].text == "failed\nread a; wrote b, c; exit code 101" and said[Speaker.RESULT].failed
    others = [entry.text for entry in read_agent_trace(path).entries if entry.speaker is Speaker.OTHER]
    assert others == ["a block of type 'image'", "a record of kind 'from the future'"]


def test_a_trace_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = written(tmp_path / "cut.jsonl", START, PROMPT, END)
    path.write_text(path.read_text()[:-20])
    found = read_agent_trace(path)
    assert (len(found.entries), found.ending, found.problem) == (1, None, "line 3 is cut off")
    path.write_text(path.read_text().replace('"kind": "user_prompt"', '"kind: '))
    with pytest.raises(UnreadableError, match=r"cut\.jsonl: line 2: not JSON"):
        read_agent_trace(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected a record of kind"),
        ("[]\n", "line 1: expected a JSON object"),
        ("no\nno\n", "line 1: not JSON"),
        ('{"v": 1, "kind": "user_prompt"}\n', "line 1: expected a record of kind"),
        ('{"v": 2, "kind": "session_start"}\n', "line 1: version 2, this program reads 1"),
        ("[" * 100_000 + "\n{}\n", "line 1: not JSON"),
        ("\udcff", "byte 0: not UTF-8"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UnreadableError, match=said) as refused:
        read_agent_trace(path)
    assert "\n" not in str(refused.value)


def test_fields_of_wrong_types_are_words_or_nothing(tmp_path: Path) -> None:
    odd = {"v": 1, "kind": "user_prompt", "turn": "x", "text": {"a": 1}}
    answer = {"v": 1, "kind": "assistant_turn", "turn": 1, "blocks": [None, 7]}
    path = written(
        tmp_path / "odd.jsonl", {**START, "ts": "@99999999999999999999"}, odd, answer,
        {**END, "elapsed_ms": "soon", "tokens_out": -1}, {"v": 1, "kind": "assistant_turn", "blocks": {}},
    )  # fmt: skip
    found = read_agent_trace(path)
    assert found.started == "@99999999999999999999"
    assert found.entries[0] == TraceEntry(None, Speaker.USER, '{"a": 1}') and len(found.entries) == 3
    assert found.ending is not None and (found.ending.milliseconds, found.ending.tokens_out) == (None, None)
    assert found.ending.tokens_per_second is None


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "large.jsonl", START)
    with path.open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(UnreadableError, match="larger than 64 MB"):
        read_agent_trace(path)
