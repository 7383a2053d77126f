"""`aprtui render`: pictures of recorded sessions, without a model and without a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.engine.sessions.recorded_session import write_session
from tests.tui.screens.live.recorded import PIECES

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APRTUI_STATE_DIR", str(tmp_path / "state"))
    return write_session(tmp_path / "s.jsonl")


def words(svg: str) -> str:
    return unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))).replace("\xa0", " ")


def test_a_picture_shows_the_screen_as_it_was_at_a_token(aprtui: Run, tmp_path: Path) -> None:
    done = aprtui("render", "s.jsonl", "--at", 9, "--svg", "out.svg")
    assert (done.code, done.out, done.err) == (0, "", "")
    shown = words(Path("out.svg").read_text())
    assert "recording s.jsonl" in shown and "token 9 of 9" in shown and "temperature 0.5" in shown
    again = aprtui("render", "s.jsonl", "--at", 9, "--svg", "-")
    assert again.out == Path("out.svg").read_text(), "the same picture every time"
    assert not (tmp_path / "state").exists(), "nothing is remembered"


def test_a_state_says_what_is_shown_and_the_size_how_much(aprtui: Run) -> None:
    state = "aprtui:live?recording=s.jsonl&layer=2&stage=ffn_up&statistic=absmax"
    done = aprtui("render", state, "--size", "80x24", "--theme", "light", "--svg", "-")
    shown = words(done.out)
    assert "layer 2 ffn_up" in shown and "largest magnitude" in shown and f"token {len(PIECES)} of" in shown
    assert len(done.out) < len(aprtui("render", "s.jsonl", "--size", "200x60", "--svg", "-").out)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["s.jsonl", "--at", "99"], 2, "s.jsonl: token 99 is not in s.jsonl: use --at 1 … 17"),
        (["aprtui:live?recording=s.jsonl&token=99"], 2, "token 100 is not in s.jsonl"),
        (["s.jsonl", "--size", "9x9"], 2, "--size: '9x9': expected columns and rows, from 20x8 to 500x200"),
        (["aprtui:diff?a=s.jsonl"], 2, "names no recorded session"),
        (["gone.jsonl"], 3, "gone.jsonl: cannot be read: No such file or directory"),
        (["foreign.jsonl"], 3, 'foreign.jsonl: line 1: expected a JSON object with "format": "aprtui-session"'),
        (["damaged.jsonl"], 3, "damaged.jsonl: line 10: not JSON"),
        (["empty.jsonl"], 2, "empty.jsonl: has no token to show"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(aprtui: Run, arguments: list[str], code: int, said: str) -> None:
    lines = Path("s.jsonl").read_bytes().splitlines(keepends=True)
    Path("damaged.jsonl").write_bytes(b"".join([*lines[:9], b"no\n", *lines[9:]]))
    Path("empty.jsonl").write_bytes(lines[0])
    Path("foreign.jsonl").write_text('{"v": 1, "kind": "session_start"}\n')
    refused = aprtui("render", *arguments, "--svg", "out.svg")
    assert refused.code == code and said in refused.err and len(refused.err.splitlines()) == 1
    assert not Path("out.svg").exists()


def test_a_picture_that_cannot_be_written_is_one_line(aprtui: Run) -> None:
    refused = aprtui("render", "s.jsonl", "--at", 1, "--size", "80x24", "--svg", "nowhere/out.svg")
    assert refused.code == 4 and "nowhere/out.svg: cannot be written" in refused.err
