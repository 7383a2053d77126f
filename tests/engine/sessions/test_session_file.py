"""Recorded sessions: what was written is read back, to the bit; what is none is refused in one line."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprtui.engine.generation import StopReason
from aprtui.engine.process.messages import Finished, TokenText
from aprtui.engine.process.slots import STATS, TokenRecord, candidates
from aprtui.engine.sampling import Candidate
from aprtui.engine.sessions.format import SessionEnd, SessionStart, SessionToken
from aprtui.engine.sessions.recording import SessionWriter
from aprtui.engine.sessions.session_file import SessionFile, is_session, session_summary
from aprtui.errors import EngineError, UnreadableError, UsageError
from aprtui.trace.graph.stage_graph import graph_for
from tests.engine.sessions.recorded_session import START, write_session
from tests.tui.screens.live.recorded import PIECES, example_record


def with_experts() -> SessionStart:
    graph = replace(START.engine.graph, experts=6, experts_used=2, expert_ffn=64)
    return replace(START, engine=replace(START.engine, graph=graph))


def tokens_of(path: Path) -> list[SessionToken]:
    with SessionFile(path) as file:
        return [line for line in file.rest() if isinstance(line, SessionToken)]


def assert_same(found: TokenRecord, written: TokenRecord) -> None:
    for entry in fields(TokenRecord):
        ours, theirs = getattr(found, entry.name), getattr(written, entry.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), entry.name
        else:
            assert repr(ours) == repr(theirs), entry.name


@pytest.mark.parametrize("start", [START, with_experts()], ids=["dense", "experts"])
@pytest.mark.parametrize("lens", [False, True])
def test_records_are_read_back_to_the_bit(tmp_path: Path, start: SessionStart, lens: bool) -> None:
    path = write_session(tmp_path / "s.jsonl", start, lens=lens)
    with SessionFile(path) as file:
        assert file.start == start
        lines = list(file.rest())
        assert lines[-1] == SessionEnd(StopReason.STOP_TOKEN)
        tokens = [line for line in lines if isinstance(line, SessionToken)]
        for index, token in enumerate(tokens):
            assert token.text == PIECES[index]
            assert_same(token.record, example_record(start.engine, index, lens=lens))
        assert_same(file.token(3).record, tokens[3].record)
        assert file.read() is None


def test_what_is_not_finite_survives(tmp_path: Path) -> None:
    record = example_record(START.engine, 0)
    stats = record.stats.copy()
    stats["nan"][2], stats["rms"][2] = 5, np.nan
    stats["max"].view(np.uint32)[3] = 0x7FC12345  # a payload
    odd = replace(
        record, stats=stats, logprob=float("nan"), margin=float("inf"),
        candidates=candidates([Candidate(7, float("nan"))], 10),
    )  # fmt: skip
    with SessionWriter(tmp_path / "s.jsonl", START) as writer:
        writer.write(odd)
        writer.send(TokenText(1, 0, 100, "\ud800�\n", 0.0, 0.0, 0.0))
    found = tokens_of(tmp_path / "s.jsonl")[0]
    assert_same(found.record, odd)
    assert found.text == "?�\n"


def test_each_line_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    with SessionWriter(path, START) as writer:
        for index in range(3):
            writer.write(example_record(START.engine, index))
            writer.send(TokenText(1, index, 100 + index, "x", 0.0, 0.0, 0.0))
            assert len(tokens_of(path)) == index + 1
        writer.send(Finished(1, StopReason.LENGTH, "�"))
        assert session_summary(path).end == SessionEnd(StopReason.LENGTH, "�")


@pytest.mark.parametrize("cut", [1, 100, 1000])
def test_a_session_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path: Path, cut: int) -> None:
    path = write_session(tmp_path / "s.jsonl", ended=False)
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(tokens_of(path)) == len(PIECES) - 1
    summary = session_summary(path)
    assert (summary.tokens, summary.end) == (len(PIECES) - 1, None)


def test_a_session_that_grows_is_read_on(tmp_path: Path) -> None:
    whole = write_session(tmp_path / "whole.jsonl").read_bytes()
    path, half = tmp_path / "s.jsonl", len(whole) // 2
    path.write_bytes(whole[:half])
    with SessionFile(path) as file:
        before = len([line for line in file.rest() if isinstance(line, SessionToken)])
        path.write_bytes(whole)
        after = len([line for line in file.rest() if isinstance(line, SessionToken)])
        assert 0 < before < len(PIECES) and before + after == len(PIECES)


def test_a_token_takes_fewer_bytes_than_its_statistics_have(tmp_path: Path) -> None:
    write_session(tmp_path / "s.jsonl")
    lines = [line for line in (tmp_path / "s.jsonl").read_bytes().splitlines() if b'"record": "token"' in line]
    assert max(map(len, lines)) < 2 * STATS.itemsize * len(graph_for(START.engine.graph).nodes)


def changed_line(number: int, **changes: Any) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        document = json.loads(lines[number])
        document.update(changes)
        lines[number] = json.dumps(document).encode()

    return change


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_line(0, format="other"), 'line 1: expected a JSON object with "format": "aprtui-session"'),
        (changed_line(0, version=2), "line 1: version 2, this program reads 1"),
        (changed_line(0, engine={}), r"line 1: field engine.model is missing"),
        (changed_line(0, tokens=["x"]), r"line 1: field tokens\[0\] is 'x', expected int"),
        (changed_line(0, sampling={"temperature": -1}), "line 1: sampling: temperature is -1"),
        (changed_line(1, names={"x": "y"}), "line 2: field names: its keys are no token ids"),
        (changed_line(2, stats="!"), "line 3: field stats: expected 2272 bytes, compressed by zlib, in base64"),
        (changed_line(2, stats=packed(b"\0" * 100)), "line 3: field stats: expected 2272 bytes"),
        (changed_line(2, stats=packed(b"\0" * 50_000_000)), "line 3: field stats: expected 2272 bytes"),
        (changed_line(2, stage_seconds=7), "line 3: field stage_seconds: expected"),
        (changed_line(2, candidates=[[1]]), "line 3: field candidates: expected pairs"),
        (changed_line(2, candidates=[[1, 0.1]] * 11), "line 3: field candidates: expected at most 10 pairs"),
        (changed_line(2, candidates=[[1 << 40, 0.1]]), "line 3: field candidates: expected pairs"),
        (changed_line(2, position="x"), "line 3: field position is 'x', expected a whole number"),
        (changed_line(2, seconds=[]), r"line 3: field seconds is \[\], expected a number"),
        (changed_line(4, index=7), "line 5: token 7, expected token 1"),
        (changed_line(-1, reason="tired"), "field reason is 'tired'"),
        (lambda lines: lines.__setitem__(3, b"no"), "line 4: not JSON"),
        (lambda lines: lines.__setitem__(3, b"[]"), "line 4: expected a JSON object"),
        (lambda lines: lines.__setitem__(3, b"[" * 100_000), "line 4: not JSON"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, change: Callable[[list[bytes]], None], said: str) -> None:
    path = write_session(tmp_path / "s.jsonl")
    lines = path.read_bytes().splitlines()
    change(lines)
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UnreadableError, match=said) as refused:
        tokens_of(path)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(str(path))


def test_dimensions_that_no_model_has_are_refused(tmp_path: Path) -> None:
    path = write_session(tmp_path / "s.jsonl")
    document = json.loads(path.read_bytes().partition(b"\n")[0])
    groups = {"experts": 8, "experts_used": 5, "expert_ffn": 8}
    few = {"expert_groups": {"count": 4, "used": 2, "score": "largest"}}
    every = {"experts_used": 2, "expert_groups": {"count": 4, "used": 4, "score": "largest"}}
    odd = (
        {"layers": 0}, {"layers": 1 << 30}, {"recurrent": [True]}, {"experts": 4, "experts_used": 9}, groups | few,
        groups | every,
    )  # fmt: skip
    for graph in odd:
        engine = {**document["engine"], "graph": {**document["engine"]["graph"], **graph}}
        path.write_text(json.dumps({**document, "engine": engine}) + "\n")
        with pytest.raises(UnreadableError, match="these are no dimensions of a model"):
            SessionFile(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b'{"format": "aprtui-session"', b"\xff\xfe", b"GGUF"])
def test_what_is_no_session_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="not a recorded session, or a damaged one"):
        SessionFile(path)
    with pytest.raises(UnreadableError, match="cannot be read"):
        SessionFile(tmp_path)


def test_records_of_other_kinds_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write_session(tmp_path / "s.jsonl")
    lines = path.read_bytes().splitlines()
    lines[1:1] = [b"", b'{"record": "from the future"}']
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert len(tokens_of(path)) == len(PIECES)


def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(UsageError, match="exists and is no recorded session"):
        SessionWriter(notes, START)
    assert notes.read_text() == "mine" and not is_session(notes)
    again = write_session(write_session(tmp_path / "s.jsonl"), pieces=["x"])
    assert is_session(again) and session_summary(again).tokens == 1


@pytest.mark.parametrize("place", ["nowhere/s.jsonl", "/dev/full"])
def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path, place: str) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        SessionWriter(tmp_path / place, START)
