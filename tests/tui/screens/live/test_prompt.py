"""The prompt: lines, what was sent before, and the user's own editor."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from textual.events import Paste

from aprtui.tui.screens.live.prompt import PromptEditor
from aprtui.tui.widgets.stage_grid import StageGrid
from tests.tui.driver import Driver, notifications, until
from tests.tui.screens.live.recorded import RecordedSource
from tests.tui.screens.live.test_screen import live


def editor(pilot: Driver) -> PromptEditor:
    return pilot.app.screen.query_one(PromptEditor)


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
async def test_enter_sends_and_other_keys_make_a_line(key: str) -> None:
    source = RecordedSource()
    async with live(source, "") as pilot:
        await pilot.press("e", *"a:", key, *"b", "enter")
        await until(pilot, lambda: source.prompts == ["a:\nb"])
        assert pilot.app.screen.query_one(StageGrid).has_focus


async def test_paste_keeps_every_line() -> None:
    source = RecordedSource()
    async with live(source, "") as pilot:
        await pilot.press("e")
        pilot.app.post_message(Paste("one\rtwo\r\n\tthree\n"))
        await until(pilot, lambda: "three" in editor(pilot).text)
        await pilot.press("enter")
        await until(pilot, lambda: source.prompts == ["one\ntwo\n\tthree\n"])


async def test_field_grows_to_six_rows_and_shrinks_again() -> None:
    async with live(RecordedSource(), "") as pilot:
        await pilot.press("e")
        heights = [editor(pilot).size.height]
        for _ in range(8):
            await pilot.press("ctrl+j")
            await pilot.pause()
            heights.append(editor(pilot).size.height)
        assert heights == [1, 2, 3, 4, 5, 6, 6, 6, 6]
        await pilot.press("f7", "delete")
        await until(pilot, lambda: editor(pilot).size.height == 1)


async def test_prompts_that_were_sent_come_back_and_the_draft_after_them() -> None:
    source = RecordedSource()
    async with live(source, "") as pilot:
        for text in ("one", "two\nlines", "two\nlines"):
            editor(pilot).put(text)
            await pilot.press("e", "enter")
        editor(pilot).put("draft\nof two")
        await pilot.press("e", "up")
        assert editor(pilot).text == "draft\nof two", "within the text, up is up"
        shown = []
        for key in ("up", "up", "up", "up", "down", "down", "down"):
            await pilot.press(key)
            shown.append(editor(pilot).text)
        assert shown == [
            "two\nlines", "two\nlines", "one", "one", "two\nlines", "draft\nof two", "draft\nof two",
        ]  # fmt: skip


async def test_escape_keeps_the_draft() -> None:
    source = RecordedSource()
    async with live(source, "") as pilot:
        await pilot.press("e", *"dra", "ctrl+j", *"ft", "escape")
        assert pilot.app.screen.query_one(StageGrid).has_focus
        assert editor(pilot).text == "dra\nft"
        await pilot.press("e", "x")
        assert editor(pilot).text == "dra\nftx"
        assert source.prompts == []


def use_editor(monkeypatch: pytest.MonkeyPatch, pilot: Driver, command: str | None) -> None:
    """Let EDITOR be `command`, on a terminal that can be given away."""
    monkeypatch.setattr(pilot.app, "suspend", nullcontext)
    if command is None:
        monkeypatch.delenv("EDITOR", raising=False)
    else:
        monkeypatch.setenv("EDITOR", command)


@pytest.mark.parametrize("keys", [("E",), ("e", "ctrl+o")])
async def test_editor_of_the_user_edits_the_prompt(
    keys: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "my editor"
    script.write_text(
        '#!/bin/sh\ntest "$1" = -x && cat "$2" > seen && printf "%s" "$(cat "$2") é" > "$2" && echo >> "$2"\n'
    )
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    source = RecordedSource()
    async with live(source, "") as pilot:
        editor(pilot).put("one\ntwo")
        use_editor(monkeypatch, pilot, f"'{script}' -x")
        await pilot.press(*keys)
        await until(pilot, lambda: editor(pilot).text == "one\ntwo é")
        assert Path("seen").read_text() == "one\ntwo"
        assert editor(pilot).has_focus
        assert source.prompts == [], "enter sends it"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (None, "EDITOR is not set: set it to the editor that you want, as in EDITOR=vi"),
        ("false", "EDITOR=false ended with exit code 1: the prompt stays as it was"),
        ("/missing/editor -x", "EDITOR=/missing/editor -x cannot be used: "),
        ("rm", "EDITOR=rm ended with exit code 0: the prompt stays as it was"),
        ("'half", "EDITOR='half cannot be used: No closing quotation: set it to an editor"),
    ],
)
async def test_editor_that_fails_costs_one_line_and_nothing_of_the_prompt(
    command: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(RecordedSource(), "") as pilot:
        editor(pilot).put("one\ntwo")
        use_editor(monkeypatch, pilot, command)
        await pilot.press("E")
        (note,) = notifications(pilot)
        assert note.startswith(said) and "\n" not in note
        assert editor(pilot).text == "one\ntwo"


async def test_terminal_that_cannot_be_given_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "true")
    async with live(RecordedSource(), "") as pilot:
        await pilot.press("E")
        assert notifications(pilot) == ["This terminal cannot be given to an editor."]
