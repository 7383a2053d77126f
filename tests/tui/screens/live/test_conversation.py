"""Conversations on the live screen: turns, who speaks, what the model gets, and commands that give the same."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import pytest
from textual.events import Key
from textual.widgets import Input, Static

from aprtui.engine.process.engine_process import EngineState
from aprtui.engine.process.messages import Failed
from aprtui.model.prompt import ChatPrompt, Exchange
from aprtui.tui.app import AprtuiApp
from aprtui.tui.frame.session import Session
from aprtui.tui.frame.state import ScreenName, parse_state, screen_state
from aprtui.tui.screens.live.conversation import RenderedPromptScreen
from aprtui.tui.screens.live.prompt import PromptEditor
from aprtui.tui.screens.live.screen import LiveScreen
from aprtui.tui.screens.live.settings import LiveSettingsScreen
from aprtui.tui.widgets.text_stream import TextStream
from tests.tui.driver import Driver, drag, notifications, screen_text, until, until_shown
from tests.tui.screens.live.recorded import RecordedSource

ANSWER = ("Hel", "lo", "!")
FIRST = (1, 1000, 2)
"""Ids of the first turn's prompt without a system message."""


@asynccontextmanager
async def chatting(
    source: RecordedSource, size: tuple[int, int] = (120, 40), **fields: object
) -> AsyncIterator[Driver]:
    app = AprtuiApp(Session(source), screen_state(ScreenName.LIVE, **fields))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: source.state is not EngineState.LOADING)
        yield pilot


def model(**options: object) -> RecordedSource:
    return RecordedSource(ANSWER, has_template=True, **options)  # type: ignore[arg-type]


async def say(pilot: Driver, source: RecordedSource, text: str) -> None:
    """Send a prompt and wait for the end of its answer."""
    before = len(source.prompts)
    pilot.app.screen.query_one(PromptEditor).put(text)
    await pilot.press("e", "enter")
    await until(pilot, lambda: len(source.prompts) == before + 1)
    await until_shown(pilot, "stop token")


def live_screen(pilot: Driver) -> LiveScreen:
    screen = pilot.app.screen
    assert isinstance(screen, LiveScreen)
    return screen


async def test_second_prompt_goes_on_from_the_first_with_the_tokens_of_both() -> None:
    source = model()
    async with chatting(source) as pilot:
        await until_shown(pilot, "chat ❯")
        await say(pilot, source, "one")
        assert pilot.app.screen.query_one(PromptEditor).text == "", "the next thing to say is another one"
        await say(pilot, source, "two\nlines")
        assert source.prompts == [
            ChatPrompt("one"),
            ChatPrompt("two\nlines", "", (Exchange("one", "Hello!"),), (*FIRST, 100, 101, 102)),
        ]


async def test_each_speaker_is_named_and_the_template_stays_out_of_the_text() -> None:
    source = model()
    async with chatting(source, system="be brief") as pilot:
        await say(pilot, source, "one")
        await say(pilot, source, "two\nlines")
        text = screen_text(pilot)
        for line in (
            "│ system  be brief ",
            "│ user    one ",
            "│ model   Hello! ",
            "│ user    two ",
            "│         lines ",
        ):
            assert line in text
        assert text.count("│ model   Hello! ") == 2
        assert "<|start|>" not in text


async def test_without_a_template_a_prompt_is_continued_and_a_says_why() -> None:
    source = RecordedSource(ANSWER)
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await pilot.press("a")
        assert notifications(pilot) == ["This model has no chat template: prompts are continued as plain text."]
        await say(pilot, source, "two")
        assert source.prompts == ["one", "two"]


async def test_plain_text_and_back_begins_another_conversation() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await pilot.press("a")
        await until_shown(pilot, "prompt ❯")
        await say(pilot, source, "two")
        assert "user" not in screen_text(pilot)
        await pilot.press("a")
        await until_shown(pilot, "chat ❯")
        await say(pilot, source, "three")
        assert source.prompts == [ChatPrompt("one"), "two", ChatPrompt("three")]


async def test_state_chooses_plain_text_although_there_is_a_template() -> None:
    source = model()
    async with chatting(source, prompt="one", chat="off") as pilot:
        await until_shown(pilot, "stop token", "prompt ❯")
        assert source.prompts == ["one"]


async def test_new_conversation_forgets_the_old_one_also_while_it_goes_on() -> None:
    source = RecordedSource(["x"] * 200, has_template=True)
    async with chatting(source, prompt="one") as pilot:
        await until(pilot, lambda: source.written > 3)
        await pilot.press("A")
        await until_shown(pilot, "Press e, type a prompt, then enter.", "no token yet")
        assert pilot.app.screen.query_one(PromptEditor).has_focus
        await pilot.press(*"two", "enter")
        await until(pilot, lambda: source.prompts == [ChatPrompt("one"), ChatPrompt("two")])
        await until_shown(pilot, "user    two", "model   x")
        assert "one" not in pilot.app.screen.query_one(TextStream).text


async def test_again_takes_the_place_of_the_last_answer() -> None:
    source = model()
    async with chatting(source, seed=3) as pilot:
        await say(pilot, source, "one")
        await say(pilot, source, "two")
        await pilot.press("r")
        await until(pilot, lambda: len(source.prompts) == 3)
        await until_shown(pilot, "stop token")
        assert source.prompts[2] == source.prompts[1]
        assert source.sampling is not None and source.sampling.seed == 4
        assert screen_text(pilot).count("│ model   Hello! ") == 2
        await until_shown(pilot, "token 6 of 6")


async def test_travel_goes_back_into_earlier_answers() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await say(pilot, source, "two")
        await pilot.press("r")  # the records of the answer that is gone lie between those of the two
        await until(pilot, lambda: len(source.prompts) == 3)
        await until_shown(pilot, "stop token")
        await pilot.press("home")
        await until_shown(pilot, "token 1 of 6, all kept", '"Hel" id 100')
        for _ in range(3):
            await pilot.press("right_square_bracket")
        await until_shown(pilot, "token 4 of 6, all kept", '"Hel" id 100')
        assert live_screen(pilot)._run.timeline.record == 6


async def test_words_for_the_grid_say_that_only_new_tokens_were_evaluated() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await pilot.press("home")
        await until_shown(pilot, "the prompt, 5 tokens")


async def test_commands_are_those_of_the_turn_that_is_looked_at() -> None:
    source = model()
    async with chatting(source, system="be brief") as pilot:
        await say(pilot, source, "one")
        await pilot.press("y")
        words = shlex.split(pilot.app.clipboard)
        assert words[2:9] == ["--chat", "--system", "be brief", "-p", "one", "-n", "3"]
        await say(pilot, source, "two")
        await pilot.press("y")
        first = [1, 1000, 2, 1, 1001, 2, 100, 101, 102]
        second = [*first, 1, 1003, 2]
        words = shlex.split(pilot.app.clipboard)
        assert words[2:6] == ["--tokens", ",".join(map(str, second)), "-n", "3"]
        await pilot.press("W")
        words = shlex.split(pilot.app.clipboard)
        assert words[1:4] == ["trace", "--tokens", ",".join(map(str, [*second, 100, 101, 102]))]
        assert words[4:6] == ["--decode-from", str(len(second))]
        await pilot.press("home", "right_square_bracket", "y")
        assert shlex.split(pilot.app.clipboard)[2:9] == ["--chat", "--system", "be brief", "-p", "one", "-n", "2"]


async def test_prompt_as_the_model_gets_it_shows_its_special_tokens() -> None:
    source = model()
    async with chatting(source) as pilot:
        await pilot.press("P")
        assert notifications(pilot) == ["No prompt was sent yet: press e and enter one."]
        await say(pilot, source, "one\n\tline")
        await pilot.press("P")
        await until(pilot, lambda: isinstance(pilot.app.screen, RenderedPromptScreen))
        await until_shown(pilot, "the prompt as the model gets it: 3 tokens, 2 of them special")
        await until_shown(pilot, "<|start|>user⏎", "one⏎", "    line<|end|>")
        box = pilot.app.screen.query_one(Static)
        line = box.render_line(0)
        styles = {segment.text: segment.style for segment in line if segment.text.strip()}
        special, plain = styles["<|start|>"], styles["user"]
        assert special is not None and plain is not None and special.bgcolor != plain.bgcolor
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, LiveScreen)


async def test_system_prompt_of_the_settings_begins_the_turn_again() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, LiveSettingsScreen))
        pilot.app.screen.query_one("#system-prompt", Input).value = "be⏎brief"
        await pilot.press("enter")
        await until(pilot, lambda: len(source.prompts) == 2)
        assert source.prompts[1] == ChatPrompt("one", "be\nbrief")
        await until_shown(pilot, "system  be", "stop token")


async def test_editor_gets_the_draft_and_not_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        monkeypatch.setattr(pilot.app, "suspend", nullcontext)
        monkeypatch.setenv("EDITOR", "sed -i s/^/2/")
        pilot.app.screen.query_one(PromptEditor).put("two")
        await pilot.press("E")
        await until(pilot, lambda: pilot.app.screen.query_one(PromptEditor).text == "2two")


async def test_state_keeps_chat_system_and_prompt() -> None:
    source = model()
    async with chatting(source, system="be\nbrief") as pilot:
        await say(pilot, source, "one\nline")
        state = live_screen(pilot).state()
    again = model()
    app = AprtuiApp(Session(again), parse_state(str(state)))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: again.prompts == [ChatPrompt("one\nline", "be\nbrief")])
        await until_shown(pilot, "stop token")
        assert live_screen(pilot).state() == state


async def test_state_of_a_later_turn_keeps_what_was_said_before_and_its_tokens() -> None:
    source = model()
    async with chatting(source, system="be brief") as pilot:
        await say(pilot, source, "one")
        await say(pilot, source, "two")
        await pilot.press("left_square_bracket")
        await until_shown(pilot, "token 5 of 6")
        state = live_screen(pilot).state()
    again = model()
    app = AprtuiApp(Session(again), parse_state(str(state)))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: again.state is EngineState.PAUSED)
        await until_shown(pilot, "user    one", "model   Hello!", "user    two", "token 2 of")
        assert again.prompts == source.prompts[1:]
        assert live_screen(pilot).state() == state


async def test_letters_typed_right_after_a_new_conversation_reach_the_prompt() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        for key in ("A", "t", "A"):
            pilot.app.post_message(Key(key, key))
        await until(pilot, lambda: pilot.app.screen.query_one(PromptEditor).text == "tA")


async def test_state_is_complete_before_the_model_is_loaded() -> None:
    source = model()
    source.loading_polls = 1000
    earlier = '[["one", "Hello!"]]'
    app = AprtuiApp(
        Session(source),
        screen_state(
            ScreenName.LIVE, model="m.gguf", prompt="two", system="be brief", chat="on", earlier=earlier, before="1,2"
        ),
    )
    async with app.run_test(size=(120, 40)) as pilot:
        await until_shown(pilot, "system  be brief", "user    one", "model   Hello!")
        state = live_screen(pilot).state()
        assert (state.text("model"), state.text("prompt"), state.text("chat")) == ("m.gguf", "two", "on")
        assert (state.text("earlier"), state.text("before")) == (earlier, "1,2")
        await pilot.press("P")
        assert notifications(pilot) == ["No prompt was sent yet: press e and enter one."]


async def test_what_was_said_outlives_the_engine() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await say(pilot, source, "two")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: len(source.prompts) == 3)
        await until_shown(pilot, "stop token", "token 6 of 6")
        assert source.prompts[2] == source.prompts[1]
        await pilot.press("home")
        await until_shown(pilot, "token 4 of 6, the last 3 kept")


async def test_turn_that_is_refused_leaves_the_conversation_as_it_was() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        generate = source.generate

        def refusing(*arguments: object, **options: object) -> int:
            source._events.append(Failed("the chat template refuses the messages: no", fatal=False))
            return 99

        source.generate = refusing  # type: ignore[method-assign]
        pilot.app.screen.query_one(PromptEditor).put("two")
        await pilot.press("e", "enter")
        await until_shown(pilot, "the chat template refuses the messages: no")
        assert pilot.app.screen.query_one(PromptEditor).text == "two"
        source.generate = generate  # type: ignore[method-assign]
        await say(pilot, source, "three")
        last = source.prompts[-1]
        assert isinstance(last, ChatPrompt) and last.earlier == (Exchange("one", "Hello!"),)


async def test_end_of_the_text_stays_in_view_while_the_prompt_grows() -> None:
    source = RecordedSource([f"line {number}\n" for number in range(30)], has_template=True)
    async with chatting(source, size=(80, 24)) as pilot:
        await say(pilot, source, "one")
        await until_shown(pilot, "line 29")
        await pilot.press("e", *["ctrl+j"] * 3)
        await until_shown(pilot, "line 29")
        assert pilot.app.screen.query_one(PromptEditor).size.height == 4


async def test_empty_prompt_sent_behind_another_changes_nothing() -> None:
    source = model()
    async with chatting(source) as pilot:
        await pilot.press("e", "x", "enter", "e", "backspace", "enter")
        await until_shown(pilot, "model   Hello!")
        assert source.prompts == [ChatPrompt("x")]


async def test_text_that_is_dragged_over_has_a_line_for_each_speaker() -> None:
    source = model()
    async with chatting(source) as pilot:
        await say(pilot, source, "one")
        await drag(pilot, pilot.app.screen.query_one(TextStream), (10, 1), (14, 2))
        assert pilot.app.clipboard == "one\nHello"
