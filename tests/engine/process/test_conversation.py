"""Turns of a conversation through an engine process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aprtui.engine.process.engine_process import EngineProcess
from aprtui.engine.process.loading import load_engine
from aprtui.engine.process.messages import (
    Captured,
    EngineSettings,
    Failed,
    Finished,
    Loaded,
    Started,
    TokenNames,
    TokenText,
)
from aprtui.engine.protocol import KvType, Mode
from aprtui.engine.sampling import GREEDY
from aprtui.model.prompt import ChatPrompt, Exchange
from aprtui.resources import embedded_model
from aprtui.trace.capture import Capture
from aprtui.trace.graph.stage_graph import graph_for
from tests.engine.process.test_engine_process import running, until

SETTINGS = EngineSettings("cpu", Mode.Q8, KvType.F32, threads=1, context=128)


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    with running(partial(load_engine, path=embedded_model()), settings=SETTINGS) as process:
        until(process, Loaded, 60)
        yield process


def turn(process: EngineProcess, prompt: ChatPrompt) -> tuple[Started, list[int], str]:
    """Four tokens of an answer."""
    process.generate(prompt, GREEDY, 4)
    events = until(process, Finished, 60)
    (started,) = (event for event in events if isinstance(event, Started))
    tokens = [event for event in events if isinstance(event, TokenText)]
    return started, [token.id for token in tokens], "".join(token.text for token in tokens)


def test_second_turn_keeps_the_first_and_so_does_the_second_turn_again(process: EngineProcess) -> None:
    assert process.info is not None and process.info.has_template
    first, answer, text = turn(process, ChatPrompt("hello"))
    assert first.kept == 0
    before = (*first.tokens, *answer)
    following = ChatPrompt("more", earlier=(Exchange("hello", text),), tokens=before)
    for _ in range(2):
        second, _, _ = turn(process, following)
        assert second.tokens[: len(before)] == before
        assert second.kept == len(before) - 1
        record = process.record(second.first_record)
        assert record is not None
        assert (record.position, record.evaluated) == (len(second.tokens), len(second.tokens) - second.kept)
        assert record.stats["count"].max() > 0


def test_capture_of_a_conversation_holds_all_of_it_with_the_values_that_were_seen(
    process: EngineProcess, tmp_path: Path
) -> None:
    first, answer, text = turn(process, ChatPrompt("hello"))
    before = (*first.tokens, *answer)
    second, more, _ = turn(process, ChatPrompt("more", earlier=(Exchange("hello", text),), tokens=before))
    process.write_capture(tmp_path / "live")
    until(process, Captured, 60)
    capture = Capture.open(tmp_path / "live")
    assert capture.manifest is not None and process.info is not None
    assert capture.manifest.tokens == (*second.tokens, *more)
    assert capture.manifest.prefill_tokens == len(second.tokens)
    seen = process.record(second.first_record + 3)
    assert seen is not None
    for place, node in enumerate(graph_for(process.info.graph).nodes):
        if not node.stage.startswith("attn_s"):  # maps: the record counts one row of them
            row = capture.values(node)[seen.position - 1].astype(np.float64)
            assert np.sqrt(np.mean(row**2)) == pytest.approx(seen.stats["rms"][place], rel=1e-6), node


def test_another_system_message_goes_back_to_where_the_two_part(process: EngineProcess) -> None:
    first, answer, text = turn(process, ChatPrompt("hello", "be brief"))
    following = ChatPrompt("more", "be long", (Exchange("hello", text),), (*first.tokens, *answer))
    second, _, _ = turn(process, following)
    assert 0 < second.kept < len(first.tokens)
    assert second.tokens[: second.kept] == first.tokens[: second.kept]
    assert second.tokens[second.kept] != first.tokens[second.kept]


def test_special_tokens_are_told_apart_from_text(process: EngineProcess) -> None:
    process.generate(ChatPrompt("hello"), GREEDY, 1)
    told = [event for event in until(process, Finished, 60) if isinstance(event, TokenNames)]
    names = {token: name for event in told for token, name in event.names}
    special = {names[token] for event in told for token in event.special}
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>"} <= special
    assert "user" not in special


def test_conversation_that_the_template_refuses_is_reported_and_the_engine_goes_on(process: EngineProcess) -> None:
    process.generate(ChatPrompt("<|im_end|>"), GREEDY, 1)
    failed = until(process, Failed)[-1]
    assert failed == Failed(
        "--chat: the prompt holds control tokens already: leave out --chat, or give plain text", fatal=False
    )
    assert turn(process, ChatPrompt("hello"))[0].tokens
