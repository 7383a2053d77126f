"""`aprtui open`: which screen its words mean, and what is refused before a screen opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from aprtui.cli.open import _initial_state
from aprtui.errors import UsageError
from aprtui.resources import embedded_model
from aprtui.tui.app import run_app
from aprtui.tui.frame.state import ScreenName, screen_state
from tests.cli.conftest import Outcome
from tests.engine.sessions.recorded_session import write_session
from tests.model.gguf_files import model_file

Run = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({}, {}),
        (
            {"prompt": "a\nb", "chat": "on", "system": "be brief"},
            {"prompt": "a\nb", "chat": "on", "system": "be brief"},
        ),
        ({"chat": "off"}, {"chat": "off"}),
    ],
)
def test_what_is_said_to_a_model_is_part_of_its_state(said: Mapping[str, str], fields: Mapping[str, str]) -> None:
    model = str(embedded_model())
    state = _initial_state((model,), said)
    assert state.screen is ScreenName.LIVE
    assert dict(state.fields) == {"model": model, **fields}


@pytest.mark.parametrize("what", [(), (".",), ("aprtui:live?prompt=x",)])
def test_what_is_said_without_a_model_is_refused(what: tuple[str, ...], aprtui: Run) -> None:
    refused = aprtui("open", *what, "-p", "hello", "--no-chat")
    assert refused.code == 2
    assert "open: -p, --chat and --system are for a model: name one, and no screen's state" in refused.err


def test_chat_with_a_model_without_a_template_is_refused_before_the_screen_opens(tmp_path: Path) -> None:
    file = model_file()
    del file.metadata["tokenizer.chat_template"]
    path = file.write(tmp_path / "model.gguf")
    with pytest.raises(UsageError, match="the model has no chat template: leave out --chat"):
        run_app(screen_state(ScreenName.LIVE, model=path, chat="on"))


def test_an_agent_trace_opens_in_browse(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"v": 1, "kind": "session_start"}\n')
    state = _initial_state((str(path),), {})
    assert state == screen_state(ScreenName.BROWSE, path=path)


def test_a_damaged_agent_trace_is_one_line(tmp_path: Path, aprtui: Run) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"v": 1, "kind": "session_start"}\nno\n{}\n')
    refused = aprtui("open", path)
    assert refused.code == 3
    assert refused.err == f"aprtui: {path}: line 2: not JSON: not an agent trace\n"


def test_a_recorded_session_opens_in_live(tmp_path: Path, aprtui: Run) -> None:
    path = write_session(tmp_path / "s.jsonl")
    assert _initial_state((str(path),), {}) == screen_state(ScreenName.LIVE, recording=path)
    with pytest.raises(UsageError, match="are for a model"):
        _initial_state((str(path),), {"prompt": "hello"})
    path.write_text('{"format": "aprtui-session"}\n')
    refused = aprtui("open", path)
    assert refused.code == 3 and f"{path}: line 1: version None, this program reads 1" in refused.err
